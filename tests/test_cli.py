"""Commands: what they print, how they end, and that they say the same as the library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

import fedrec as fr
from chosen_in_test import chosen
from conftest import Said
from fedrec.aggregation.packing import packed_size
from fedrec.cli import models as commands
from fedrec.models.linear.popularity import Popularity
from fedrec.runs import training

Call = Callable[..., Said]
DATA = "synthetic:users=150,items=60,interactions_per_user=12,seed=4"
COMMANDS = [
    ("train",), ("evaluate",), ("recommend",), ("similar",), ("forget",), ("compare",), ("demo",), ("doctor",),
    ("models",), ("plan",), ("data", "list"), ("data", "describe"), ("data", "fetch"),
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run `run` (ease) and its report."""
    from fedrec.federation.plan import Plan

    home = tmp_path_factory.mktemp("trained")
    training.train_run(Plan.make({"data": {"source": DATA}, "model": {"name": "ease"}}), home / "run")
    return home


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run in a working folder of its own, which has no named sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    shutil.copytree(trained / "run", tmp_path / "run")
    return Path("run")


def answer(said: Said) -> dict[str, Any]:
    """The one JSON object on standard output; nothing else anywhere."""
    assert said.code == 0, said
    assert said.err == ""
    assert said.out.endswith("}\n")
    assert said.out.count("\n") == 1
    value = json.loads(said.out)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("command", [(), *COMMANDS, ("data",)], ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...], fedrec: Call) -> None:
    said = fedrec(*command, "--help")
    assert said.code == 0
    assert said.err == ""
    assert f"Usage: fedrec {' '.join(command)}".strip() in said.out
    if command in COMMANDS:
        assert "--json" in said.out
        assert "--quiet" in said.out


@pytest.mark.parametrize("command", [(), ("data",)], ids=["fedrec", "data"])
def test_no_command_shows_the_commands(command: tuple[str, ...], fedrec: Call) -> None:
    said = fedrec(*command)
    assert said.code == 2
    assert "Usage: fedrec" in said.out + said.err


def commands_of(run: Path) -> dict[str, tuple[object, ...]]:
    return {
        "list": ("data", "list"),
        "describe": ("data", "describe", DATA),
        "fetch": ("data", "fetch", "ml-latest-small"),
        "train": ("train", "--data", DATA, "--model", "popularity", "--out", "new"),
        "evaluate": ("evaluate", run),
        "recommend": ("recommend", run, "--user", 1),
        "write": ("recommend", run, "--all-users", "--to", "recs.csv"),
        "similar": ("similar", run, "--item", 1),
        "forget": ("forget", run, "--user", 1, "--out", "without"),
        "compare": ("compare", "--data", DATA, "--models", "popularity,ease", "--metrics", "hr@5"),
        "demo": ("demo", "--out", "demo"),
        "doctor": ("doctor",),
        "models": ("models", "mf"),
    }


@pytest.fixture
def small(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo on little data, and a set that was fetched already."""
    monkeypatch.setattr(commands, "_DEMO", DATA)
    place = Path("cache") / "ml-latest-small"
    place.mkdir(parents=True)
    for name in ("ratings.csv", "movies.csv"):
        (place / name).touch()
    return run


@pytest.mark.parametrize("name", commands_of(Path()))
def test_json_is_one_object_and_nothing_else(name: str, small: Path, fedrec: Call) -> None:
    assert answer(fedrec(*commands_of(small)[name], "--json"))


@pytest.mark.parametrize("name", commands_of(Path()))
def test_quiet_leaves_the_answer_alone(name: str, small: Path, fedrec: Call) -> None:
    said = fedrec(*commands_of(small)[name], "--quiet")
    assert (said.code, said.err) == (0, "")
    assert said.out.strip()


def test_report_of_a_training(run: Path, fedrec: Call) -> None:
    report = answer(fedrec("train", "--data", DATA, "--model", "ease", "--out", "new", "--json"))
    assert report == json.loads(Path("new/report.json").read_bytes())
    assert (report["run"], report["model"], report["rounds"]) == ("new", "ease", 1)
    assert report["seconds"] > 0
    assert 50 < report["peak_rss_mb"] < 1 << 20
    assert set(report["metrics"]) == {"valid", "test"}
    data = fr.load_data(DATA)
    assert report["data"]["users"] == data.n_users
    assert sum(report["split"][part] for part in ("train", "valid", "test", "history")) == len(data)
    cells = data.n_items * (data.n_items + 1) // 2
    model = 4 * data.n_items**2
    assert report["bytes"]["secure_per_party"] == {"up": packed_size(cells, 12), "down": model}
    assert 0 < report["bytes"]["plain_per_node"]["up"] < cells
    assert report["digests"]["model"] == json.loads((run / "report.json").read_bytes())["digests"]["model"]


def test_evaluate_repeats_the_report_and_the_library(run: Path, fedrec: Call) -> None:
    report = json.loads((run / "report.json").read_bytes())
    split = fr.leave_last_out(fr.load_data(DATA))
    model = fr.EASE().fit(split)
    for part in ("valid", "test"):
        found = answer(fedrec("evaluate", run, "--part", part, "--json"))
        assert found["protocol"] == "full"
        assert found["users"] == report["users"][part]
        assert found["metrics"] == pytest.approx(report["metrics"][part], abs=1e-6)
        assert found["standard_error"] == pytest.approx(report["standard_error"][part], abs=1e-6)
        table = fr.evaluate(model, split, list(found["metrics"]), part=part)  # type: ignore[arg-type]
        assert dict(zip(table["metric"], table["value"], strict=True)) == pytest.approx(found["metrics"], abs=1e-12)
        errors = dict(zip(table["metric"], table["standard_error"], strict=True))
        assert errors == pytest.approx(found["standard_error"], abs=1e-12)
    other = answer(fedrec("evaluate", run, "--protocol", "sampled:20", "--metrics", "hr@5, mrr@7", "--json"))
    assert set(other["metrics"]) == {"hr@5", "mrr@7"}
    table = fr.evaluate(model, split, "hr@5,mrr@7", protocol="sampled:20")
    assert list(other["metrics"].values()) == pytest.approx(table["value"].to_list(), abs=1e-12)


def test_recommend_says_what_the_library_says(run: Path, fedrec: Call) -> None:
    model = fr.load_model(run)
    said = answer(fedrec("recommend", run, "--user", 7, "--user", 3, "-n", 4, "--json"))
    assert said["recommendations"] == model.recommend([7, 3], n=4).to_dicts()
    assert [row["user_id"] for row in said["recommendations"]] == [7] * 4 + [3] * 4
    for name in ("recs.csv", "recs.jsonl", "recs.parquet"):
        written = answer(fedrec("recommend", run, "--all-users", "--to", name, "-n", 3, "--json"))
        everybody = model.recommend(n=3)
        assert (written["run"], written["rows"], written["file"]) == ("run", everybody.height, name)
        read = {"csv": pl.read_csv, "jsonl": pl.read_ndjson, "parquet": pl.read_parquet}[name.split(".")[1]]
        found = read(name)
        assert found.drop("score").cast(everybody.drop("score").schema).equals(everybody.drop("score"))  # type: ignore[arg-type]
        assert np.allclose(found["score"], everybody["score"], atol=1e-6)


def test_only_block_and_seen(run: Path, fedrec: Call) -> None:
    seen = set(fr.load_data(DATA).to_frame().filter(pl.col("user_id") == 5)["item_id"])

    def items(*options: object) -> list[int]:
        rows = answer(fedrec("recommend", run, "--user", 5, "-n", 100, "--json", *options))["recommendations"]
        return [row["item_id"] for row in rows]

    everything = set(range(1, 61))
    assert set(items()) == everything - seen
    assert set(items("--include-seen")) == everything
    unseen = sorted(everything - seen)[:5]
    Path("items.txt").write_text("\n".join(map(str, unseen[:3])), encoding="utf-8")
    assert set(items("--only", "@items.txt")) == set(unseen[:3])
    assert set(items("--block", ",".join(map(str, unseen)))) == everything - seen - set(unseen)
    assert items("--only", "@items.txt", "--block", unseen[0], "--block", unseen[1]) != []


def test_unknown_users_are_told_even_beside_json(run: Path, fedrec: Call) -> None:
    said = fedrec("recommend", run, "--user", 3, "--user", 9999, "--unknown", "warn", "-n", 2, "--json")
    assert said.code == 0
    assert len(json.loads(said.out)["recommendations"]) == 2
    assert said.err == "fedrec: 1 unknown user: '9999'; left out\n"
    ignored = fedrec("recommend", run, "--user", 9999, "--unknown", "ignore", "--json")
    assert json.loads(ignored.out)["recommendations"] == []
    assert (ignored.code, ignored.err) == (0, "")


def test_new_users_come_with_their_history(run: Path, fedrec: Call) -> None:
    Path("new.csv").write_text("user_id,item_id\n9999,1\n9999,2\n", encoding="utf-8")
    said = answer(fedrec("recommend", run, "--user", 9999, "--history", "new.csv", "-n", 5, "--json"))
    found = [row["item_id"] for row in said["recommendations"]]
    assert len(found) == 5
    assert not {1, 2} & set(found)


def test_titles_and_ids_are_shown_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedrec: Call) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["[rec] 2", "a [/b] c", ":smile:", "007", "7", "[bold]x"]
    rows = [f'u:{user},"{names[(user + step) % 6]}"' for user in range(40) for step in range(3)]
    Path("log.csv").write_text("\n".join(["user_id,item_id", *rows]) + "\n", encoding="utf-8")
    assert fedrec("train", "--data", "log.csv", "--model", "ease", "--split", "none", "--out", "run").code == 0
    said = fedrec("recommend", "run", "--user", "u:0", "--include-seen")
    assert all(name in said.out for name in names)
    assert "similar to [rec] 2" in fedrec("similar", "run", "--item", "[rec] 2").out
    wanted = answer(fedrec("recommend", "run", "--user", "u:0", "--include-seen", "--only", "007", "--json"))
    assert [row["item_id"] for row in wanted["recommendations"]] == ["007"]


def test_a_plan_is_trained_again_to_the_same_bits(run: Path, fedrec: Call) -> None:
    again = answer(fedrec("train", "--plan", run / "plan.yaml", "--out", "again", "--json"))
    placed = answer(
        fedrec("train", "--plan", run / "plan.yaml", "--nodes", 3, "--partition", "by:region", "--out", "b", "--json")
    )
    assert placed["nodes"] == 3
    assert again["digests"] == placed["digests"] == json.loads((run / "report.json").read_bytes())["digests"]
    for name in ("shared.safetensors", "model.json", "catalog.jsonl"):
        assert (Path("again/model") / name).read_bytes() == (run / "model" / name).read_bytes()


def test_options_win_over_the_plan(run: Path, fedrec: Call) -> None:
    Path("plan.yaml").write_text(
        yaml.safe_dump({"data": {"source": DATA}, "model": {"name": "ease", "reg": 5.0}, "seed": 1}), encoding="utf-8"
    )
    fedrec("train", "--plan", "plan.yaml", "--seed", 9, "--set", "reg=7", "--split", "ratio:0.7", "--refit",
           "--metrics", "hr@3", "--protocol", "sampled:5", "--set", "n_max=4096", "--out", "new")  # fmt: skip
    written = yaml.safe_load(Path("new/plan.yaml").read_text(encoding="utf-8"))
    assert (written["seed"], written["model"]["reg"], written["split"]) == (9, 7.0, "ratio:0.7")
    assert (written["refit"], written["n_max"]) == (True, 4096)
    assert written["evaluation"]["protocol"] == "sampled:5"
    assert written["evaluation"]["metrics"] == ["hr@3"]
    other = answer(fedrec("train", "--plan", "plan.yaml", "--model", "popularity", "--out", "pop", "--json"))
    assert other["model"] == "popularity"


def test_runs_are_numbered_where_no_folder_is_named(run: Path, fedrec: Call) -> None:
    names = [answer(fedrec("train", "--data", DATA, "--model", "popularity", "--json"))["run"] for _ in range(2)]
    assert names == ["runs/popularity-1", "runs/popularity-2"]


def test_a_finished_run_resumed_says_the_same_again(run: Path, fedrec: Call) -> None:
    before = (run / "model" / "shared.safetensors").read_bytes()
    again = answer(fedrec("train", "--resume", "--out", run, "--json"))
    assert again["rounds"] == 1
    assert (run / "model" / "shared.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    ["--epsilon 1 --delta 1e-5", "--metrics hr@5 --protocol sampled:9", "--secure", "--refit", "--from run",
     "--nodes 2", "--clean k_core=2 --columns a=b --format csv --encoding latin-1 --on-error skip",
     "--clock slow:0.5x10", "--partition by:region",
     "--seed 5 --split none --set cohort=0.5 --plan p.yaml --model mf --data d.csv",
     "--set shrink=5"],
)  # fmt: skip
def test_a_run_that_goes_on_refuses_every_option_that_says_something_else(words: str, run: Path, fedrec: Call) -> None:
    Path("p.yaml").write_text("data: {source: d.csv}\nmodel: {name: ease}\n")
    said = fedrec("train", "--resume", "--out", run, *words.split())
    assert said.code == 2
    assert "a resumed run keeps its plan" in said.err
    for option in (word for word in words.split() if word.startswith("--")):
        assert option in said.err


def test_a_run_goes_on_with_the_command_that_began_it(fedrec: Call, run: Path) -> None:
    """The same command with --resume, whatever it sets, is taken; with one other value it is not."""
    words = ["train", "--data", DATA, "--model", "mf", "--set", "embedding_size=4", "--set", "cohort=0.5",
             "--seed", 7, "--clean", "k_core=2", "--nodes", 2, "--metrics", "hr@5,ndcg@5", "--set", "rounds=2",
             "--out", "a"]  # fmt: skip
    first = answer(fedrec(*words, "--json"))
    again = answer(fedrec(*words, "--json", "--resume"))
    assert again["digests"] == first["digests"]
    began = answer(fedrec("train", "--plan", Path("a/plan.yaml"), "--nodes", 2, "--out", "b", "--resume", "--json"))
    assert began["digests"] == first["digests"]
    assert answer(fedrec("train", "--plan", "a/plan.yaml", "--out", "b", "--resume", "--json"))
    other = fedrec(*words, "--set", "rounds=3", "--resume")
    assert (other.code, "--set" in other.err) == (2, True)
    warm = (*words[:-1], "w", "--from", "a")
    assert fedrec(*warm).code == 0
    assert fedrec(*warm, "--resume").code == 0


def test_how_data_is_read_and_cleaned_wins_over_the_plan(run: Path, fedrec: Call) -> None:
    Path("log.csv").write_text("user_id,item_id,rating\n" + "".join(
        f"u{user},i{(user * step) % 7},{1 + (user + step) % 5}\n" for user in range(12) for step in range(1, 6)
    ))  # fmt: skip
    Path("plan.yaml").write_text(
        "data: {source: log.csv, on_error: skip}\nmodel: {name: popularity}\nsplit: leave-last-out@rows\n"
    )
    said = fedrec("train", "--plan", "plan.yaml", "--clean", "rating_at_least=3", "--encoding", "latin-1", "--out", "c")
    assert said.code == 0, said.err
    data = yaml.safe_load(Path("c/plan.yaml").read_text(encoding="utf-8"))["data"]
    assert (data["source"], data["on_error"], data["encoding"]) == ("log.csv", "skip", "latin-1")
    assert data["cleaning"]["rating_at_least"] == 3
    said = fedrec("train", "--model", "popularity", "--clean", "rating_at_least=3", "--out", "n")
    assert (said.code, "the data is missing" in said.err) == (2, True)


def test_compare_gives_means_over_seeds_and_each_model_its_settings(run: Path, fedrec: Call) -> None:
    said = answer(
        fedrec("compare", "--data", DATA, "--models", "popularity,mf,ease", "--seeds", 2, "--split", "ratio:0.8",
               "--set", "mf.rounds=2", "--set", "embedding_size=4", "--set", "ease.reg=9", "--metrics", "hr@10",
               "--json")
    )["models"]  # fmt: skip
    assert [row["model"] for row in said] == ["popularity", "mf", "ease"]
    assert [row["rounds"] for row in said] == [1, 2, 1]
    each = []
    for seed in (0, 1):
        fedrec("train", "--data", DATA, "--model", "ease", "--set", "reg=9", "--split", "ratio:0.8", "--seed", seed,
               "--metrics", "hr@10", "--out", f"s{seed}")  # fmt: skip
        report = json.loads(Path(f"s{seed}/report.json").read_bytes())
        each.append(report["metrics"]["test"]["hr@10"])
        assert report["digests"]["model"] == said[2]["digests"][seed]
    assert said[2]["metrics"]["hr@10"] == pytest.approx(np.mean(each), abs=2e-6)
    assert said[2]["sd"]["hr@10"] == pytest.approx(np.std(each, ddof=1), abs=2e-6)


def test_describe_counts_what_is_there_and_what_was_left_out(run: Path, fedrec: Call) -> None:
    rows = ["a,1,5,1", "a,2,3,2", "a,1,4,3", "b,1,2,4", "c,3,5,5"]
    Path("log.csv").write_text("\n".join(["user,item,rating,time", *rows]) + "\n", encoding="utf-8")
    said = answer(
        fedrec("data", "describe", "log.csv", "--clean", "rating_at_least=3", "--split", "leave-last-out",
               "--left-out", "out.csv", "--json")
    )  # fmt: skip
    assert (said["users"], said["items"], said["interactions"]) == (2, 3, 3)
    assert said["split"] == {"train": 2, "valid": 0, "test": 1, "history": 0}
    assert sum(said["left_out"].values()) == 2
    assert pl.read_csv("out.csv").height == 2


def test_data_list_knows_sizes_and_places(run: Path, monkeypatch: pytest.MonkeyPatch, fedrec: Call) -> None:
    place = Path("data/gowalla").absolute()
    place.mkdir(parents=True)
    for name in ("train.txt", "test.txt"):
        (place / name).touch()
    monkeypatch.setenv("FEDREC_DATA", str(place.parent))
    sets = {entry["name"]: entry for entry in answer(fedrec("data", "list", "--json"))["sets"]}
    assert (sets["ml-100k"]["users"], sets["ml-100k"]["interactions"]) == (943, 100_000)
    assert (sets["gowalla"]["folder"], sets["ml-1m"]["folder"]) == (str(place), None)


def test_failures_that_are_nobodys_input_end_with_1(run: Path, monkeypatch: pytest.MonkeyPatch, fedrec: Call) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such luck")

    def full(*_: object) -> None:
        raise OSError(28, "No space left")

    monkeypatch.setattr(Popularity, "contribute", broken)
    said = fedrec("train", "--data", DATA, "--model", "popularity", "--out", "new", "--json")
    assert (said.code, said.out) == (1, "")
    assert "node node-0, round 0, step contribute of popularity" in said.err
    assert not Path("new").exists()
    monkeypatch.setenv("FEDREC_DATA", "nowhere")
    said = fedrec("doctor", "--json")
    assert said.code == 1
    assert json.loads(said.out)["problems"] == ["FEDREC_DATA is nowhere, which is not a folder; correct it or unset it"]
    monkeypatch.setattr(training, "train_here", full)
    said = fedrec("train", "--data", DATA, "--model", "ease", "--out", "new")
    assert (said.code, said.out) == (1, "")
    assert "No space left" in said.err


def test_doctor_lists_every_extra_and_whether_it_is_there(fedrec: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import metadata

    from fedrec.cli import checkup

    monkeypatch.delenv("FEDREC_DATA", raising=False)
    there = checkup.find_spec
    monkeypatch.setattr(checkup, "find_spec", lambda name: None if name == "matplotlib" else there(name))
    said = answer(fedrec("doctor", "--json"))
    extras = {extra["name"]: extra for extra in said["extras"]}
    assert set(extras) == set(metadata("fedrec").get_all("Provides-Extra") or ()) - {"dev", "docs", "package"}
    assert extras["plots"]["installed"] is False
    assert extras["plots"]["install"] == "pip install 'fedrec[plots]'"
    assert "differential privacy" in fedrec("doctor").out


def test_an_interrupted_training_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch, fedrec: Call) -> None:
    options = ("train", "--data", DATA, "--model", "mf", "--set", "rounds=6", "--set", "embedding_size=4")
    whole = answer(fedrec(*options, "--out", "whole", "--json"))
    from fedrec.models.factors.mf import MF

    step = MF.step

    def stop(self: MF, state: Any, total: Any, round: int) -> Any:
        if round == 3:
            raise KeyboardInterrupt
        return step(self, state, total, round)

    monkeypatch.setattr(MF, "step", stop)
    said = fedrec(*options, "--out", "cut", "--json")
    assert (said.code, said.out) == (130, "")
    assert "--resume --out" in said.err
    monkeypatch.setattr(MF, "step", step)
    resumed = answer(fedrec("train", "--resume", "--out", "cut", "--json"))
    assert resumed["digests"] == whole["digests"]
    assert resumed["metrics"] == whole["metrics"]


def test_the_installed_command_in_a_process_of_its_own(run: Path) -> None:
    program = [sys.executable, "-c", "from fedrec.cli.main import run; run()"]
    version = subprocess.run([*program, "--version"], capture_output=True, text=True, check=False)
    assert (version.returncode, version.stdout, version.stderr) == (0, f"{fr.__version__}\n", "")
    good = subprocess.run([*program, "evaluate", "run", "--json"], capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["model"] == "ease"
    bad = subprocess.run([*program, "evaluate", "runn", "--json"], capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "Did you mean 'run'" in bad.stderr


@pytest.mark.parametrize("color", chosen(["xterm-256color"], ["", "xterm-256color"]))
def test_pipes_get_no_colours_or_progress(run: Path, color: str) -> None:
    program = [sys.executable, "-c", "from fedrec.cli.main import run; run()"]
    environment = {**os.environ, "TERM": color} if color else {key: os.environ[key] for key in ("PATH",)}
    done = subprocess.run(
        [*program, "train", "--data", DATA, "--model", "popularity", "--out", "new"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "hr@10" in done.stdout


def test_real_data_from_the_command_line(
    real: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedrec: Call
) -> None:
    real("ml-100k")
    monkeypatch.chdir(tmp_path)
    report = answer(
        fedrec("train", "--data", "ml-100k", "--model", "ease", "--protocol", "sampled:99", "--metrics",
               "hr@10,ndcg@10", "--refit", "--nodes", 5, "--partition", "by:occupation", "--out", "run", "--json")
    )  # fmt: skip
    assert report["metrics"]["test"]["hr@10"] > 0.62
    assert report["nodes"] == 5
    shown = fedrec("recommend", "run", "--user", 196, "-n", 3)
    assert shown.code == 0
    assert len(shown.out.splitlines()) == 5


def test_rows_left_out_are_kept_with_the_run_and_a_run_finds_its_data_from_elsewhere(fedrec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{user},{item},1" for user in range(40) for item in range(user % 5, user % 5 + 6)]
    (tmp_path / "clicks.csv").write_text("\n".join(["user,item,rating", *rows, "7,3,five"]) + "\n")
    train = ("train", "--data", "clicks.csv", "--model", "popularity", "--split", "ratio:0.8", "--out", "run", "--json")
    assert "line 242: rating 'five'" in fedrec(*train).err
    report = json.loads(fedrec(*train, "--on-error", "skip").out)
    assert report["data"]["left_out"] == {"rating is not a number": 1}
    assert pl.read_parquet("run/private/left_out.parquet")["value"].to_list() == ["five"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert fedrec("evaluate", "../run", "--json").code == 0


def test_a_key_of_both_model_and_plan_is_told_by_its_value(fedrec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "synthetic:users=60,items=50,interactions_per_user=8"
    train = ("train", "--data", source, "--model", "mf", "--set", "rounds=2", "--set", "embedding_size=4", "--json")
    leaky = json.loads(fedrec(*train, "--set", "negatives=paper-leaky", "--set", "negatives=2").out)
    assert leaky["leaky"]
    plan = yaml.safe_load((Path(leaky["run"]) / "plan.yaml").read_text())
    assert (plan["negatives"], plan["model"]["negatives"]) == ("paper-leaky", 2)
