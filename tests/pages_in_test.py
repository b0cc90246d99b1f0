"""Commands of the pages as a reader finds them, and small data of the names and formats that the pages speak of."""

from __future__ import annotations

import re
import shlex
import sqlite3
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

import fedrec as fr
from fedrec.data.databases.logs import open_events
from fedrec.data.events import Event

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Command:
    """A command line of a page: where it stands, what follows `fedrec`, and what the page says that it prints."""

    page: str
    line: int
    words: tuple[str, ...]
    prints: str = ""

    def __str__(self) -> str:
        return shlex.join(self.words)

    @property
    def out(self) -> str | None:
        """The folder that the command makes."""
        return self.words[self.words.index("--out") + 1] if "--out" in self.words else None


def commands_in_blocks(page: str) -> list[Command]:
    """Every line of a page's code blocks that begins with `fedrec`, lines that end with a backslash joined.

    What follows a line with a prompt is what the command prints. A line of a drawing is no command.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for block in re.finditer(r"(?ms)^```[^\n]*\n(.*?)^```$", text):
        begin = text.count("\n", 0, block.start(1)) + 1
        joined = re.sub(r"\\\n *", lambda end: "\0" * end[0].count("\n"), block[1])
        for line in re.finditer(r"(?m)^(\$ )?(fedrec .*)$", joined):
            if "──" not in line[2]:
                prints = joined[line.end() :].partition("\n$ ")[0].strip() if line[1] else ""
                number = begin + len(re.findall("[\n\0]", joined[: line.start()]))
                found.append(Command(page, number, _words(line[2].replace("\0", "")), prints))
    return found


def commands_in_sentences(page: str) -> list[Command]:
    """Every `fedrec …` between backticks outside of code blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"(?ms)^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text)
    return [
        Command(page, text.count("\n", 0, found.start()) + 1, _words(" ".join(found[1].split())))
        for found in re.finditer(r"`(fedrec [^`]+)`", text)
    ]


def _words(text: str) -> tuple[str, ...]:
    """What follows `fedrec`, up to a comment and to where output goes."""
    words = shlex.split(text, comments=True)[1:]
    return tuple(words[: words.index(">")] if ">" in words else words)


# --- data -----------------------------------------------------------------------------------------------------------


def small_table() -> pl.DataFrame:
    """Made interactions of 70 users, 196 among them, with 60 items: user_id, item_id, rating, timestamp."""
    table = fr.load_data("synthetic:users=70,items=60,interactions_per_user=14,seed=4").to_frame()
    user = pl.col("user_id")
    return table.select(
        pl.when(user == user.max()).then(196).otherwise(user).alias("user_id"),
        "item_id",
        (pl.int_range(pl.len()) * 7 % 5 + 1).alias("rating"),
        pl.col("timestamp").cast(pl.Int64),
    )


def named_sets(folder: Path) -> None:
    """Small sets under the names, and in the files, of those that the pages train on."""
    table = small_table()
    users, items = table["user_id"].unique(maintain_order=True), range(1, 61)
    lists = [(user, part["item_id"].to_list()) for (user,), part in table.group_by("user_id", maintain_order=True)]
    flags = "|".join(["1", *["0"] * 18])
    rows = ["\t".join(map(str, row)) for row in table.iter_rows()]
    films = [f"{item}::Film {item} (1990)::Drama" for item in items]
    files = {
        "ml-100k/u.data": rows,
        "ml-100k/u.item": [f"{item}|Film {item} (1990)|01-Jan-1990||http://film/{item}|{flags}" for item in items],
        "ml-100k/u.user": [f"{user}|30|F|writer|00000" for user in users],
        "ml-1m/ratings.dat": [row.replace("\t", "::") for row in rows],
        "ml-1m/movies.dat": films,
        "ml-1m/users.dat": [f"{user}::F::1::10::00000" for user in users],
        "ml-1m-sequences/sequences.txt": [" ".join(map(str, [user, *own])) for user, own in lists],
        "ml-1m-sequences/movies.dat": films,
        "gowalla/train.txt": [" ".join(map(str, [user, *own[:-2]])) for user, own in lists],
        "gowalla/test.txt": [" ".join(map(str, [user, *own[-2:]])) for user, own in lists],
    }
    for name, lines in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_table(path: Path, names: dict[str, str]) -> None:
    """The made interactions as CSV or Parquet: `names` says how each column is called there."""
    table = small_table().select(pl.col(column).alias(name) for name, column in names.items())
    table.write_parquet(path) if path.suffix == ".parquet" else table.write_csv(path)


def code_after(page: str, words: str) -> str:
    """The first block of code after some words of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    block = re.search(r"(?ms)^```[^\n]*\n(.*?)^```$", text[text.index(words) :])
    assert block is not None, f"{page} has no code after {words!r}"
    return block[1]


def other_files(folder: Path, page: str) -> None:
    """Files that the commands of a page read, with the columns that they name."""
    audited = page == "docs/threat-model.md"
    source = "synthetic:users=300,items=80" if audited else "federation"
    private = "{epsilon: 4, delta: 1.0e-6" + ("}" if audited else ", noise: distributed, users: 100000}")
    plan = f"data: {{source: '{source}'}}\nmodel: {{name: ease}}\nprivacy: {private}\n"
    (folder / "plan.yaml").write_text(plan, encoding="utf-8")
    like = {"user_id": "user_id", "item_id": "item_id", "rating": "rating", "timestamp": "timestamp"}
    of_shops = {"customer": "user_id", "sku": "item_id", "date": "timestamp", "when": "timestamp"}
    of_plays = {"user_id": "user_id", "item_id": "item_id", "weight": "rating", "timestamp": "timestamp"}
    of_orders = {"user_id": "user_id", "item_id": "item_id", "quantity": "rating", "timestamp": "timestamp"}
    tables = {"ratings.csv": like, "clicks.parquet": like, "plays.csv": of_plays, "orders.csv": of_orders}
    tables["clicks.csv"] = like if page == "docs/recommending.md" else of_shops
    for name, columns in tables.items():
        write_table(folder / name, columns)
    if page == "docs/transfer.md":
        table, big = small_table(), pl.col("user_id") > 25
        table.filter(big).write_csv(folder / "big-shop.csv")
        table.filter(~big).write_csv(folder / "small-shop.csv")
    if page == "docs/bandits.md":
        with chdir(folder):
            exec(compile(code_after(page, "`log.py` makes"), "log.py", "exec"), {})
    if page == "docs/groups.md":
        with chdir(folder):
            exec(compile(code_after(page, "`users.py` makes"), "users.py", "exec"), {})
    if page == "docs/own-model.md":
        (folder / "mine.py").write_text(code_after(page, "`mine.py`:"), encoding="utf-8")
        (folder / "bag.py").write_text(code_after(page, "`bag.py`, with"), encoding="utf-8")
        (folder / "line.py").write_text(code_after(page, "`line.py`:"), encoding="utf-8")
        (folder / "pictures.py").write_text(code_after(page, "`pictures.py` has both"), encoding="utf-8")
        with chdir(folder):
            exec(compile(code_after(page, "`made.py` makes"), "made.py", "exec"), {})
    log = open_events(str(folder / "events.db"), False, False)
    log.add([Event("a1", 1, 26, "click", 1.7e9)])
    first = Event("", 1, 0, "impression", 1.7e9, rank=1, propensity=0.1)
    log.add([replace(first, event_id=f"s{item}", item=item, request_id=f"r{item}") for item in range(1, 41)])
    log.close()
    table = small_table()
    table.select("user_id", "item_id").head(20).write_csv(folder / "pairs.csv")
    items = table.select("item_id").unique("item_id").sort("item_id")
    genre, number = pl.when(pl.col("item_id") % 3 == 0).then(pl.lit("Drama|War")).otherwise(pl.lit("Crime")), "item_id"
    described = items.with_columns(title=pl.format("Film {} (1995)", number), genres=genre, price=pl.col(number) % 7)
    if page == "docs/domains.md":
        films = pl.col(number) % 2 == 0
        described = described.with_columns(domain=pl.when(films).then(pl.lit("films")).otherwise(pl.lit("books")))
    described.write_csv(folder / "items.csv")
    described.tail(3).with_columns(item_id=pl.col("item_id") + 900).write_csv(folder / "new.csv")
    day = pl.from_epoch(pl.col("timestamp").cast(pl.Int64)).dt.strftime("%d/%m/%Y %H:%M")
    table.with_columns(timestamp=day).write_csv(folder / "days.csv")
    half = pl.col("timestamp") < table["timestamp"].median()
    table.filter(half).write_csv(folder / "january.csv")
    table.filter(~half | (pl.col("user_id") < 5)).write_csv(folder / "february.csv")
    table.with_columns(rating=pl.col("rating") * 5.0 - 15).write_csv(folder / "jester.csv")
    kind = pl.col("rating").replace_strict({1: "view", 2: "view", 3: "view", 4: "cart", 5: "purchase"})
    table.select("user_id", "item_id", "timestamp", event=kind).write_csv(folder / "events.csv")
    with sqlite3.connect(folder / "shop.db") as database:
        database.execute("CREATE TABLE clicks (user_id INTEGER, item_id INTEGER, timestamp INTEGER)")
        rows = table.select("user_id", "item_id", "timestamp").rows()
        database.executemany("INSERT INTO clicks VALUES (?, ?, ?)", rows)
    database.close()
