"""Everything that people get wrong: one short error that says what, where and what to do; exit code 2; nothing left."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from conftest import Said
from fedrec.engines import memory

Call = Callable[..., Said]
Files = dict[str, bytes]

HEADER = "user_id,item_id,rating,timestamp"


def forget_the_data(other: str | None = None) -> None:
    """Make a run one of an earlier version, which keeps no interactions, and its data go or be others."""
    os.unlink("log.csv")
    if other is not None:
        Path("log.csv").write_text(other)
    os.unlink("run/private/interactions.parquet")
    Path("run/private/placement.json").write_text('{"nodes": 1}')


def unfinish(other: str) -> None:
    """Make a run one that was stopped before it had a model, and its data others."""
    shutil.rmtree("run/model")
    Path("log.csv").write_text(other)


def log(users: int = 30, items: int = 12) -> str:
    """Every user has the seven items from theirs onwards, one a second."""
    rows = [
        f"ann-{user:02},film-{(user + step) % items:02},{1 + (user + step) % 5},{100 * user + step}"
        for user in range(users)
        for step in range(7)
    ]
    return "\n".join([HEADER, *rows]) + "\n"


LOG = log().encode()


def with_line(number: int, text: str) -> bytes:
    """The log with line `number` (from 1) replaced."""
    lines = log().splitlines()
    lines[number - 1] = text
    return ("\n".join(lines) + "\n").encode()


def parquet() -> bytes:
    rows = [line.split(",") for line in log().splitlines()[1:]]
    frame = pl.DataFrame(rows, schema=HEADER.split(","), orient="row")
    place = Path("good.parquet")
    frame.write_parquet(place)
    data = place.read_bytes()
    place.unlink()
    return data


@dataclass(frozen=True)
class Case:
    """A wrong command in a folder with some files.

    Args:
        command: what is typed after `fedrec`.
        said: what the error must name, in any case.
        files: written before; `log.csv` is always there, and `run` where the command mentions it.
        before: done before the command.
    """

    command: str
    said: tuple[str, ...]
    files: Files = field(default_factory=dict)
    before: Callable[[], None] = lambda: None


def train(settings: str, *said: str, **files: bytes) -> Case:
    return Case(f"train --data log.csv --model popularity --out new {settings}", said, files)


def source(name: str, content: bytes, *said: str, options: str = "") -> Case:
    return Case(f"train --data {name} --model popularity --out new {options}", said, {name: content})


def plan(text: str, *said: str, options: str = "") -> Case:
    return Case(f"train --plan plan.yaml --out new {options}", said, {"plan.yaml": text.encode()})


def damage(path: str, change: Callable[[bytes], bytes | None]) -> Callable[[], None]:
    """Replace the bytes of a file of the run, or remove it."""

    def apply() -> None:
        place = Path(path)
        data = change(place.read_bytes())
        if data is None:
            place.unlink()
        else:
            place.write_bytes(data)

    return apply


def flipped(data: bytes) -> bytes:
    """One bit of the last byte turned."""
    return data[:-1] + bytes([data[-1] ^ 1])


def junk(data: bytes) -> bytes:
    """Something else."""
    return b"no table"


GOOD = "data: {source: log.csv}\nmodel: {name: popularity}\n"
TRAINED = "train --data log.csv --model ease --out"

CASES: dict[str, Case] = {
    # Data
    "missing file": Case("train --data lug.csv --model ease --out new", ("lug.csv", "'log.csv'")),
    "missing folder": Case("train --data no/such/log.csv --model ease --out new", ("no/such/log.csv", "no such")),
    "a directory": Case("train --data empty --model ease --out new", ("empty", "folder", "file")),
    "unknown set": Case("train --data ml-100 --model ease --out new", ("ml-100", "did you mean 'ml-100k'")),
    "part of a set": Case("train --data amazon-kg/book --model ease --out new", ("did you mean 'amazon-kg/books'",)),
    "empty file": source("empty.csv", b"", "empty.csv", "is empty"),
    "header only": source("bare.csv", HEADER.encode() + b"\n", "bare.csv", "no interactions"),
    "missing column": source("short.csv", b"user_id,rating\n1,2\n", "short.csv", "item_id", "rating"),
    "two candidates for a column": source(
        "twice.csv", b"user,uid,item\n1,1,2\n", "twice.csv", "user", "uid", "user_id"
    ),
    "too few fields": source("rows.csv", with_line(7, "ann-01,film-02"), "rows.csv, line 7"),
    "too many fields": source("rows.csv", with_line(9, "ann-01,film-02,3,4,5,6"), "rows.csv, line 9"),
    "text as rating": source("rows.csv", with_line(5, "ann-01,film-02,good,4"), "rows.csv, line 5", "rating", "good"),
    "NaN rating": source("rows.csv", with_line(5, "ann-01,film-02,NaN,4"), "rows.csv, line 5", "rating"),
    "infinite time": source("rows.csv", with_line(6, "ann-01,film-02,4,inf"), "rows.csv, line 6", "timestamp"),
    "text as time": source("rows.csv", with_line(6, "ann-01,film-02,4,soon"), "rows.csv, line 6", "timestamp", "soon"),
    "no user": source("rows.csv", with_line(8, ",film-02,4,5"), "rows.csv, line 8", "user_id"),
    "no item": source("rows.csv", with_line(8, "ann-02,,4,5"), "rows.csv, line 8", "item_id"),
    "binary junk": source("junk.csv", bytes(range(256)) * 40, "junk.csv"),
    "wrong encoding": source(
        "latin.csv", log().replace("ann", "änn").encode("latin-1"), "latin.csv, line 2", "latin-1"
    ),
    "unknown encoding": train("--encoding utf8000", "utf8000", "utf-8"),
    "cut gzip": source("cut.csv.gz", gzip.compress(LOG)[:-30], "cut.csv.gz", "compressed"),
    "not gzip": source("cut.csv.gz", b"\x1f\x8b" + b"x" * 50, "cut.csv.gz"),
    "a zip archive": source("cut.zip", b"PK\x03\x04" + b"x" * 50, "cut.zip", "archive"),
    "damaged zip": source("log.csv.zip", b"PK\x03\x04" + b"x" * 50, "log.csv.zip", "archive"),
    "damaged parquet": source("cut.parquet", b"PAR1" + b"x" * 90, "cut.parquet", "parquet"),
    "no parquet": source("cut.parquet", LOG, "cut.parquet", "parquet"),
    "JSON nested too deep": source(
        "a.jsonl",
        b'{"user_id": 1, "item_id": 2, "more": ' + b"[" * 40 + b"]" * 40 + b"}\n",
        "a.jsonl, line 1",
        "is nested deeper than 16 levels",
    ),
    "damaged JSON line": source("a.jsonl", b'{"user_id": 1, "item_id": 2}\n{"user_id": 1,\n', "a.jsonl, line 2"),
    "unknown format": train("--format cvs", "'cvs'", "did you mean 'csv'"),
    "unknown column": train("--columns user_id=costumer", "costumer", "user_id"),
    "unknown standard column": train("--columns usr_id=user_id", "usr_id", "did you mean 'user_id'"),
    "no pair in --columns": train("--columns user_id", "--columns", "key=value"),
    "synthetic setting": Case(
        "train --data synthetic:user=9 --model ease --out new", ("'user'", "did you mean 'users'")
    ),
    "synthetic value": Case("train --data synthetic:users=few --model ease --out new", ("users", "'few'", "number")),
    "synthetic size": Case("train --data synthetic:users=-5 --model ease --out new", ("users", "-5")),
    "nothing left by cleaning": train("--clean k_core=900", "no interaction is left", "k_core"),
    "unknown cleaning": train("--clean kcore=5", "kcore", "did you mean 'k_core'"),
    "cleaning by text": train("--clean k_core=many", "k_core", "'many'"),
    "cleaning without value": train("--clean k_core", "--clean", "key=value"),
    "no network": Case("data fetch ml-latest-small", ("ml-latest-small.zip", "the download failed")),
    "unknown set to fetch": Case("data fetch ml-latest", ("ml-latest", "did you mean 'ml-latest-small'")),
    "set that cannot be fetched": Case("data fetch gowalla", ("gowalla", "cannot be downloaded", "train.txt")),
    "set not at hand": Case("train --data ml-20m --model ease --out new", ("ml-20m", "fedrec data fetch ml-20m")),
    # Plan
    "no data": Case("train --model ease --out new", ("the data is missing", "--data")),
    "no model": Case("train --data log.csv --out new", ("the model is missing", "--model")),
    "unknown model": Case("train --data log.csv --model eese --out new", ("'eese'", "did you mean 'ease'")),
    "unknown setting": Case("train --data log.csv --model ease --set reg_=5 --out new", ("reg_", "did you mean 'reg'")),
    "setting of another model": train("--set embedding_size=5", "embedding_size", "popularity"),
    "wrong type": Case("train --data log.csv --model mf --set rounds=few --out new", ("mf", "rounds", "'few'")),
    "fraction of a round": Case("train --data log.csv --model mf --set rounds=1.5 --out new", ("rounds", "1.5")),
    "negative": Case("train --data log.csv --model ease --set reg=-1 --out new", ("ease", "reg", "-1")),
    "zero": Case("train --data log.csv --model mf --set embedding_size=0 --out new", ("embedding_size", "0")),
    "NaN": Case("train --data log.csv --model ease --set reg=.nan --out new", ("ease", "reg", "nan")),
    "infinite": Case("train --data log.csv --model mf --set learning_rate=.inf --out new", ("learning_rate", "inf")),
    "null": Case("train --data log.csv --model mf --set rounds=null --out new", ("rounds", "none")),
    "no value": Case("train --data log.csv --model mf --set rounds --out new", ("--set", "'rounds'", "key=value")),
    "key below a value": train("--set seed.low=5", "seed"),
    "model by --set": train("--set model=ease", "model"),
    "unknown plan key": plan(GOOD + "splitt: none\n", "plan.yaml", "splitt", "did you mean 'split'"),
    "unknown key of data": plan("data: {sauce: log.csv}\nmodel: {name: ease}\n", "plan.yaml", "data.sauce", "'source'"),
    "unknown key of evaluation": plan(GOOD + "evaluation: {metric: [hr@10]}\n", "evaluation.metric", "'metrics'"),
    "damaged YAML": plan("data: {source: log.csv\nmodel: [", "plan.yaml", "line"),
    "plan that is a list": plan("- data\n- model\n", "plan.yaml", "mapping"),
    "empty plan": plan("", "plan.yaml"),
    "plan of bytes": Case("train --plan junk.bin --out new", ("junk.bin",), {"junk.bin": b"\xff\xfe\x00"}),
    "missing plan": Case(
        "train --plan plam.yaml --out new", ("plam.yaml", "did you mean 'plan.yaml'"), {"plan.yaml": GOOD.encode()}
    ),
    "plan is a folder": Case("train --plan empty --out new", ("empty", "directory")),
    "plan without model": plan("data: {source: log.csv}\n", "model"),
    "plan without data": plan("model: {name: ease}\n", "data"),
    "plan without source": plan("data: {}\nmodel: {name: ease}\n", "data.source"),
    "model without name": plan("data: {source: log.csv}\nmodel: {reg: 5}\n", "name"),
    "model is text": plan("data: {source: log.csv}\nmodel: ease\n", "model", "name"),
    "data is text": plan("data: log.csv\nmodel: {name: ease}\n", "data"),
    "plan of other data": plan(GOOD.replace("log.csv", "log.csv, digest: ab12"), "digest", "data"),
    "plan of a later version": plan(GOOD + "version: 2\n", "version", "1"),
    "unknown split": train("--split leave-one-out", "leave-one-out", "did you mean 'leave-last-out'"),
    "share of a split": train("--split ratio:1.8", "ratio:1.8", "between 0 and 1"),
    "split without share": train("--split temporal", "temporal", "share"),
    "split without times": source("a.csv", b"user,item\n1,2\n1,3\n2,2\n", "timestamps", options="--split temporal:0.8"),
    "given without parts": train("--split given", "given", "part"),
    "unknown metric": train("--metrics ndgc@10", "ndgc", "did you mean 'ndcg'"),
    "metric without k": train("--metrics ndcg", "ndcg", "@"),
    "metric with wrong k": train("--metrics ndcg@0", "ndcg@0"),
    "no metric": train("--set evaluation.metrics=[]", "metric"),
    "unknown protocol": train("--protocol sample:99", "sample:99", "sampled"),
    "no negatives": train("--protocol sampled:0", "sampled:0"),
    "coverage of a sample": train("--protocol sampled:99 --metrics coverage@10", "coverage", "full"),
    "nobody in the cohort": train("--set cohort=0", "cohort", "0"),
    "cohort is no share": train("--set cohort=1.5", "cohort", "1.5"),
    "cohort is NaN": train("--set cohort=.nan", "cohort", "nan"),
    "negative seed": train("--seed=-1", "seed", "-1"),
    "weight before cap": plan(
        GOOD + "release: [{step: weight, by: interactions}, {step: cap, items: 5}]\n", "cap", "weight", "order"
    ),
    "unknown step": plan(GOOD + "release: [{step: clap}]\n", "release", "clap"),
    "step without name": plan(GOOD + "release: [{items: 5}]\n", "release", "step"),
    "patience without validations": train("--set evaluation.patience=3", "patience", "evaluation.every"),
    "best without validations": train("--set evaluation.keep=best", "keep", "evaluation.every"),
    "refit with validations": train("--refit --set evaluation.every=1", "refit", "every"),
    "validations of nothing": train("--split none --set evaluation.every=1", "evaluation.every", "validation"),
    "n_max too small": train("--set n_max=10", "n_max", "10", "30 users"),
    "unknown negatives": train("--set negatives=leaky", "negatives", "leaky"),
    "unknown partition": train("--nodes 3 --partition hush", "hush", "did you mean 'hash'"),
    "no user columns": train("--nodes 3 --partition by:region", "region", "column"),
    "unknown user column": Case(
        "train --data synthetic:interactions_per_user=9 --model popularity --nodes 2 --partition by:regoin --out new",
        ("regoin", "did you mean 'region'"),
    ),
    "concentration": train("--nodes 3 --partition dirichlet:0", "dirichlet:0", "positive"),
    "more nodes than users": train("--nodes 31", "31 nodes", "30 users"),
    "no nodes": train("--nodes 0", "--nodes", "1"),
    "unknown option": train("--split-by none", "--split-by"),
    "unknown command": Case("trian --data log.csv", ("trian",)),
    # Runs
    "folder is taken": Case("train --data log.csv --model ease --out run", ("run", "--resume", "--out")),
    "a file is in the way": Case("train --data log.csv --model ease --out log.csv", ("log.csv", "exists")),
    "a file above": Case("train --data log.csv --model ease --out log.csv/run", ("log.csv",)),
    "resume what": Case("train --resume", ("--resume", "--out")),
    "resume with other settings": Case("train --resume --out run --model mf", ("run", "keeps its plan", "--model")),
    "resume no run": Case("train --resume --out empty", ("empty", "not a run")),
    "no run": Case("evaluate empty", ("empty", "not a run", "plan.yaml")),
    "missing run": Case("evaluate rum", ("rum", "not a run", "did you mean 'run'")),
    "a file for a run": Case("evaluate log.csv", ("log.csv", "not a run")),
    "unfinished run": Case(
        "recommend run --user ann-01", ("model.json", "finished"), before=lambda: shutil.rmtree("run/model")
    ),
    "damaged plan of a run": Case(
        "evaluate run", ("run/plan.yaml",), before=damage("run/plan.yaml", lambda _: b"a: [")
    ),
    "changed plan of a run": Case(
        "evaluate run",
        ("run", "plan"),
        before=damage("run/plan.yaml", lambda data: data.replace(b"seed: 0", b"seed: 1")),
    ),
    "damaged model.json": Case(
        "evaluate run", ("run/model/model.json",), before=damage("run/model/model.json", lambda data: data[:-9])
    ),
    "unknown model format": Case(
        "evaluate run",
        ("model.json", "format 7"),
        before=damage("run/model/model.json", lambda data: data.replace(b'"format": 1', b'"format": 7')),
    ),
    "a bit of the model": Case(
        "recommend run --user ann-01",
        ("run/model/shared.safetensors",),
        before=damage("run/model/shared.safetensors", flipped),
    ),
    "half of the model": Case(
        "similar run --item film-01",
        ("run/model/shared.safetensors", "damaged"),
        before=damage("run/model/shared.safetensors", lambda data: data[:99]),
    ),
    "no arrays": Case(
        "evaluate run", ("run/model/shared.safetensors",), before=damage("run/model/shared.safetensors", lambda _: None)
    ),
    "damaged catalog": Case(
        "evaluate run",
        ("run/model/catalog.jsonl",),
        before=damage("run/model/catalog.jsonl", lambda data: data.replace(b"film-01", b"film-99")),
    ),
    "missing catalog": Case(
        "evaluate run", ("run/model/catalog.jsonl",), before=damage("run/model/catalog.jsonl", lambda _: None)
    ),
    "damaged placement": Case(
        "evaluate run", ("run/private/placement.json",), before=damage("run/private/placement.json", lambda _: b"[1")
    ),
    "impossible placement": Case(
        "evaluate run",
        ("run/private/placement.json",),
        before=damage("run/private/placement.json", lambda _: b'{"nodes": "x", "partition": 5}'),
    ),
    "damaged ledger": Case(
        "train --resume --out run",
        ("run/ledger.jsonl, line 1",),
        before=damage("run/ledger.jsonl", lambda data: b"{" + data),
    ),
    "damaged model of a run that goes on": Case(
        "train --resume --out run",
        ("run/model/shared.safetensors", "ledger"),
        before=damage("run/model/shared.safetensors", flipped),
    ),
    "kept interactions changed": Case(
        "recommend run --user ann-01",
        ("run/private/interactions.parquet", "was changed", "fedrec verify run", "--data"),
        before=damage("run/private/interactions.parquet", flipped),
    ),
    "kept interactions are no table": Case(
        "evaluate run", ("run/private/interactions.parquet",), before=damage("run/private/interactions.parquet", junk)
    ),
    "data changed under a run that keeps none": Case(
        "evaluate run", ("log.csv is other data now", "digest", "--data"), before=lambda: forget_the_data(log(31))
    ),
    "data gone under a run that keeps none": Case(
        "evaluate run", ("log.csv", "no such", "--data"), before=lambda: forget_the_data()
    ),
    "data changed before a training goes on": Case(
        "train --resume --out run",
        ("log.csv is other data now", "digest", "only with the data that it began with"),
        before=lambda: unfinish(log(31)),
    ),
    "data and a history": Case(
        "recommend run --user zoe --history h.csv --data log.csv", ("--data and --history",), {"h.csv": b""}
    ),
    "reading of nothing": Case("evaluate run --columns user_id=x", ("columns", "--data")),
    "unknown items of newer data": Case(
        "recommend run --user zoe --data h.csv",
        ("tale", "--unknown-items"),
        {"h.csv": b"user_id,item_id\nzoe,tale\nzoe,film-01\n"},
    ),
    "nothing known in newer data": Case(
        "recommend run --user zoe --data h.csv --unknown-items ignore",
        ("nothing in it",),
        {"h.csv": b"user_id,item_id\nzoe,tale\n"},
    ),
    "newer data gone": Case("evaluate run --data lug.csv", ("lug.csv", "no such", "'log.csv'")),
    # Answers
    "unknown user": Case("recommend run --user ann-1", ("'ann-1'", "did you mean 'ann-")),
    "two unknown users": Case("recommend run --user zoe --user yan", ("2 unknown users", "'zoe'", "'yan'", "history")),
    "number for a user": Case("recommend run --user 7", ("'7'",)),
    "nobody": Case("recommend run", ("--user", "--all-users")),
    "nobody in text": Case("recommend run --user ''", ("unknown user",)),
    "everybody to nowhere": Case("recommend run --all-users", ("--to", "recs.parquet")),
    "everybody and one": Case("recommend run --user ann-01 --all-users --to recs.csv", ("--user", "--all-users")),
    "ending of --to": Case("recommend run --all-users --to recs.parket", ("recs.parket", "did you mean '.parquet'")),
    "folder of --to": Case("recommend run --all-users --to none/recs.csv", ("none/recs.csv", "folder")),
    "unknown to write": Case("recommend run --user zoe --to recs.csv", ("'zoe'",)),
    "no items": Case("recommend run --user ann-01 -n 0", ("-n", "1")),
    "unknown item of --only": Case(
        "recommend run --user ann-01 --only film-1", ("'film-1'", "only", "did you mean 'film-")
    ),
    "unknown item of --block": Case("recommend run --user ann-01 --block film-01,tale", ("'tale'", "block")),
    "no file of --only": Case("recommend run --user ann-01 --only @items.txt", ("--only", "items.txt")),
    "bytes in --only": Case(
        "recommend run --user ann-01 --only @junk.bin", ("--only", "junk.bin"), {"junk.bin": b"\xff\xfe\x00"}
    ),
    "word of --unknown": Case("recommend run --user ann-01 --unknown warm", ("--unknown", "did you mean 'warn'")),
    "history of other items": Case(
        "recommend run --user zoe --history h.csv",
        ("h.csv", "line 2", "tale"),
        {"h.csv": b"user_id,item_id\nzoe,tale\n"},
    ),
    "no history": Case("recommend run --user zoe --history h.csv", ("h.csv", "no such")),
    "user not in history": Case(
        "recommend run --user yan --history h.csv", ("'yan'",), {"h.csv": b"user_id,item_id\nzoe,film-01\n"}
    ),
    "unknown item": Case("similar run --item film-1", ("'film-1'", "did you mean 'film-")),
    "no similar items": Case("similar counts --item film-01", ("popularity", "ease")),
    "unknown part": Case("evaluate run --part tset", ("tset", "did you mean 'test'")),
    "nothing held out": Case("evaluate all", ("none", "test")),
    "no models": Case("compare --data log.csv --models ,", ("--models",)),
    "unknown model to compare": Case("compare --data log.csv --models ease,popularty", ("did you mean 'popularity'",)),
    "unknown setting to compare": Case(
        "compare --data log.csv --models ease --set rek=5", ("rek", "did you mean 'reg'")
    ),
    "nothing to compare on": Case("compare --data log.csv --models ease --split none", ("none", "test")),
    "no seeds": Case("compare --data log.csv --models ease --seeds 0", ("--seeds",)),
    "describing what": Case("data describe lug.csv", ("lug.csv", "'log.csv'")),
    "describing a split": Case("data describe log.csv --split given", ("given", "part")),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of the log: `run` (ease), `counts` (popularity), `all` (nothing held out)."""
    from fedrec.federation.plan import Plan
    from fedrec.runs.training import train_run

    home = tmp_path_factory.mktemp("runs")
    (home / "log.csv").write_bytes(LOG)
    before = Path.cwd()
    os.chdir(home)
    try:
        for name, model, split in (
            ("run", "ease", "leave-last-out"),
            ("counts", "popularity", "leave-last-out"),
            ("all", "ease", "none"),
        ):
            train_run(Plan.make({"data": {"source": "log.csv"}, "model": {"name": model}, "split": split}), Path(name))
    finally:
        os.chdir(before)
    return home


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder without named sets, network or a way to them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDREC_DATA", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_one_short_error_that_says_what_is_wrong_and_leaves_nothing(
    name: str, runs: Path, place: Path, fedrec: Call
) -> None:
    case = CASES[name]
    words = [word.strip("'") for word in case.command.split()]
    (place / "log.csv").write_bytes(LOG)
    (place / "empty").mkdir()
    for run in ("run", "counts", "all"):
        if run in words or "rum" in words:
            shutil.copytree(runs / run, place / run)
    for file, content in case.files.items():
        (place / file).write_bytes(content)
    case.before()
    before = contents(place)
    for options in ((), ("--json",)):
        said = fedrec(*words, *options)
        assert said.code == 2, said
        assert said.out == ""
        assert "Traceback" not in said.err
        assert 0 < len(said.err.splitlines()) <= 24
        assert all(len(line) < 1500 for line in said.err.splitlines())
        for part in case.said:
            assert part.lower() in said.err.lower(), said.err
        assert contents(place) == before
        assert not (place / "new").exists()


def test_a_model_that_memory_cannot_hold_is_refused_before_training(
    place: Path, monkeypatch: pytest.MonkeyPatch, fedrec: Call
) -> None:
    monkeypatch.setattr(memory, "usable_memory", lambda: (1 << 20, "this machine has"))
    command = ("train", "--data", "synthetic:users=40,items=400,interactions_per_user=9", "--out", "new", "--model")
    said = fedrec(*command, "ease", "--json")
    assert (said.code, said.out) == (2, "")
    assert "'ease' needs about" in said.err
    assert "400 items" in said.err
    assert not (place / "new").exists()
    assert fedrec(*command, "popularity").code == 0
