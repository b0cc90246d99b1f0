"""Five files as they are in real life, each described, trained on, measured and recommended from without being edited.

    python benchmarks/own_files.py                 # about a minute
    python benchmarks/own_files.py --rows 200000   # a smaller Parquet file

The files are made in a temporary folder, and every step is a process of the command line of its own: its seconds have
the start of Python in them. Of a big file the table has rows per second too. A step that fails prints what it said, and
the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from fedrec.benchmarks.timing import machine

START = 1_700_000_000


class OwnFile(NamedTuple):
    """A file and how it is read.

    Args:
        name: of the file.
        what: is odd about it.
        reading: options that say what names and content do not.
        training: further options of training.
        user: one of its users.
        rows: how many.
    """

    name: str
    what: str
    reading: list[str]
    training: list[str]
    user: str
    rows: int


def tastes(users: int, items: int, each: int, seed: int) -> pl.DataFrame:
    """Users of four tastes, who mostly choose items of theirs, some of them again: `user`, `item`, `time`."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), each)
    taste = np.where(rng.random(len(user)) < 0.8, user % 4, rng.integers(0, 4, len(user)))
    place = (rng.random(len(user)) ** 2 * (items // 4)).astype(np.int64)
    return pl.DataFrame({"user": user, "item": 4 * place + taste, "time": START + rng.permutation(len(user)) * 60})


def orders(folder: Path) -> OwnFile:
    """Orders: dates of the day first, amounts in euros with a decimal comma and groups of three digits."""
    table = tastes(800, 200, 25, 1).with_columns(
        at=pl.from_epoch("time").dt.strftime("%d/%m/%Y %H:%M"),
        amount=pl.Series(np.random.default_rng(2).lognormal(4, 1.5, 800 * 25)),
    )
    lines = [
        f"K-{user:05d};SKU {item};{amount:,.2f} €;{at}".translate(str.maketrans(",.", ".,"))
        for user, item, amount, at in table.select("user", "item", "amount", "at").iter_rows()
    ]
    text = "\n".join(["Kunde;Artikel;Betrag;Bestellt am", *lines]) + "\n"
    (folder / "bestellungen.csv").write_text(text, encoding="utf-8")
    reading = ["--columns", "user_id=Kunde,item_id=Artikel,weight=Betrag,timestamp=Bestellt am", "--decimal", ",",
               "--time-format", "day-first", "--clean", "repeats=sum"]  # fmt: skip
    what = "dd/mm/yyyy, € and decimal comma"
    return OwnFile("bestellungen.csv", what, reading, ["--model", "ials", "--weights", "log"], "K-00003", table.height)


def events(folder: Path) -> OwnFile:
    """Events of a shop: fields within fields, and a kind for each."""
    table = tastes(800, 200, 40, 3)
    kinds = np.random.default_rng(4).choice(["view", "cart", "purchase"], table.height, p=[0.8, 0.15, 0.05])
    lines = [
        json.dumps({"user": {"id": f"u{user}"}, "object": {"sku": item, "of": {"brand": f"brand {item % 7}"}},
                    "event": {"type": str(kind)}, "at": f"{at.isoformat()}Z"})
        for (user, item, at), kind in zip(
            table.select("user", "item", pl.from_epoch("time")).iter_rows(), kinds, strict=True)
    ]  # fmt: skip
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    reading = ["--columns", "user_id=user.id,item_id=object.sku,timestamp=at", "--kinds",
               "event.type: view=1, cart=3, purchase=10", "--clean", "repeats=sum"]  # fmt: skip
    training = ["--model", "ease", "--weights", "value"]
    return OwnFile("events.jsonl", "nested JSON lines, kinds of events", reading, training, "u3", table.height)


def plays(folder: Path, rows: int) -> OwnFile:
    """Plays: many rows of Parquet, times as times."""
    each = 40
    table = tastes(rows // each, 4000, each, 5).select(
        pl.col("user").alias("user_id"), pl.col("item").alias("track_id"), pl.from_epoch("time").alias("played_at")
    )
    table.write_parquet(folder / "plays.parquet")
    reading = ["--columns", "timestamp=played_at", "--clean", "repeats=count"]
    training = ["--model", "ease", "--weights", "log"]
    return OwnFile("plays.parquet", f"{table.height / 1e6:g} million rows", reading, training, "3", table.height)


def ratings(folder: Path) -> OwnFile:
    """Ratings as Book-Crossing has them: a BOM, semicolons, quotes, 0 where there is no rating, no times."""
    table = tastes(800, 200, 30, 7).unique(["user", "item"], maintain_order=True)
    stars = np.random.default_rng(8).integers(0, 11, table.height)
    lines = [
        f'"{276725 + user}";"{item:09d}X";"{star}"'
        for (user, item), star in zip(table.select("user", "item").iter_rows(), stars, strict=True)
    ]
    text = "\r\n".join(['"User-ID";"ISBN";"Book-Rating"', *lines]) + "\r\n"
    (folder / "BX-Book-Ratings.csv").write_text(text, encoding="utf-8-sig")
    training = ["--model", "ease", "--split", "ratio:0.8"]
    what = "semicolons, a BOM, CRLF, 0 for no rating"
    return OwnFile("BX-Book-Ratings.csv", what, ["--clean", "rating_at_least=1"], training, "276728", table.height)


def names(folder: Path) -> OwnFile:
    """Ids as people write them: with commas, quotes and emoji."""
    table = tastes(500, 120, 25, 9)
    users, items = ('"Müller, Änne {}"', '"🎬 Film, ""Teil"" {}"')
    lines = [f"{users.format(user)},{items.format(item)},{moment}" for user, item, moment in table.iter_rows()]
    (folder / "filme.csv").write_text("\n".join(["user,item,time", *lines]) + "\n", encoding="utf-8")
    return OwnFile(
        "filme.csv", "ids with commas, quotes and emoji", [], ["--model", "itemknn"], "Müller, Änne 3", table.height
    )


def main() -> int:
    """Make the files, run the four commands on each, and print a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="of the Parquet file")
    rows = parser.parse_args().rows
    makers: list[Callable[[Path], OwnFile]] = [orders, events, lambda folder: plays(folder, rows), ratings, names]
    print(json.dumps(machine()))
    print("| file | rows | what is odd | step | s | rows/s | says |\n|---|---|---|---|---|---|---|")
    failed = False
    with tempfile.TemporaryDirectory() as place:
        for make in makers:
            failed |= not _all_steps(make(Path(place)), Path(place))
    return int(failed)


def _all_steps(file: OwnFile, folder: Path) -> bool:
    source, run = str(folder / file.name), str(folder / f"{file.name}-run")
    steps = {
        "describe": ["data", "describe", source, *file.reading],
        "train": ["train", "--data", source, *file.reading, *file.training, "--out", run],
        "evaluate": ["evaluate", run],
        "recommend": ["recommend", run, "--user", file.user, "-n", "3"],
    }
    for step, words in steps.items():
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "fedrec", *words, "--json"], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
        said = _said(step, json.loads(done.stdout)) if done.returncode == 0 else f"FAILED: {done.stderr.strip()}"
        speed = f"{file.rows / seconds:,.0f}" if step != "recommend" and file.rows >= 100_000 else ""
        cells = (f"`{file.name}`", f"{file.rows:,}", file.what, step, f"{seconds:.1f}", speed, said)
        print(f"| {' | '.join(cells)} |", flush=True)
        if done.returncode:
            return False
    return True


def _said(step: str, answer: dict[str, Any]) -> str:
    if step == "describe":
        return f"{answer['users']:,} users, {answer['items']:,} items, {answer['interactions']:,} interactions"
    if step == "train":
        return f"{answer['rounds']} rounds, NDCG@10 on test {answer['metrics']['test']['ndcg@10']:.3f}"
    if step == "evaluate":
        return f"NDCG@10 {answer['metrics']['ndcg@10']:.3f}"
    return ", ".join(str(row["item_id"]) for row in answer["recommendations"])


if __name__ == "__main__":
    sys.exit(main())
