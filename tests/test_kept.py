"""A finished run outlives its source: it keeps what it needs, and says what it cannot do without."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from chosen_in_test import in_turn
from conftest import Said
from fedrec.data.digests import digest_of
from fedrec.data.interactions import Interactions
from fedrec.data.reading.frames import interactions_from
from fedrec.data.sources import load_source
from fedrec.engines.local import LocalEngine
from fedrec.errors import DamagedError, InputError, RunError
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run, read_plan
from fedrec.privacy.chance import SeededChance
from fedrec.record.files import list_files
from fedrec.runs.kept import KEPT, Kept, keep_interactions
from fedrec.runs.saved import open_model, open_run
from fedrec.runs.training import Placement, train_run
from fedrec.runs.verifying import verify_run
from test_full_disk import files_of_at_most

pytestmark = pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here

Call = Callable[..., Said]
MF: dict[str, Any] = {"name": "mf", "embedding_size": 4, "rounds": 2}
EASE: dict[str, Any] = {"name": "ease"}
PRIVATE: dict[str, Any] = {"privacy": {"epsilon": 40.0, "delta": 1e-4, "clip": 1.0}}
KINDS: dict[str, tuple[dict[str, Any], Placement]] = {
    "plain": ({}, Placement()),
    "nodes": ({}, Placement(3)),
    "dirichlet": ({}, Placement(3, "dirichlet:0.5")),
    "by a column": ({}, Placement(3, "by:group")),
    "secure": ({}, Placement(3, secure=True)),
    "private": (PRIVATE, Placement(2)),
    "no split": ({"split": "none"}, Placement()),
    "best": ({"evaluation": {"every": 1, "keep": "best", "metrics": ["ndcg@10"]}}, Placement(2)),
}


def rows(users: int = 60, start: int = 0) -> pl.DataFrame:
    """Every user has ten of 30 items, one a second."""
    found = [(f"u{user:02}", (user * 7 + step * step) % 30, 1.0 + (step % 5), 100 * user + step)
             for user in range(start, users) for step in range(10)]  # fmt: skip
    return pl.DataFrame(found, schema=["user_id", "item_id", "rating", "timestamp"], orient="row").unique(
        ["user_id", "item_id"], maintain_order=True
    )


def grouped(path: Path) -> Any:
    """The source, with a column of its users."""
    source = load_source(path)
    users = source.interactions.n_users
    features = pl.DataFrame({"group": [f"g{place % 5}" for place in range(users)]})
    return replace(source, interactions=replace(source.interactions, user_features=features))


def made(folder: Path, model: dict[str, Any], kind: str = "plain") -> tuple[Path, Path]:
    """A finished run, and its source."""
    changes, placement = KINDS[kind]
    folder.mkdir(exist_ok=True)
    path = folder / "log.csv"
    rows().write_csv(path)
    plan = Plan.make({"data": {"source": str(path)}, "model": model, "seed": 3} | changes)
    source = grouped(path) if kind == "by a column" else None
    train_run(plan, folder / "run", placement, source=source, chance=SeededChance(4))
    return folder / "run", path


def grown(path: Path) -> None:
    """The source as it is some time later."""
    pl.concat([rows(), rows(70, 60), pl.DataFrame({"user_id": ["u00"], "item_id": [99], "rating": [1.0],
                                                   "timestamp": [10**6]})]).write_csv(path)  # fmt: skip


def answers(run: Path) -> tuple[Any, Any]:
    opened = open_run(run)
    metrics = {} if opened.plan.split == "none" else opened.measure(["ndcg@10"], "full")
    return fr.load_model(run).recommend(n=5).sort("user_id", "rank").rows(), metrics


# --- the source goes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "model"), in_turn(KINDS, [MF, EASE]))
def test_a_finished_run_answers_the_same_whatever_becomes_of_its_source(
    model: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    if (model is EASE and kind == "best") or (kind == "private" and model is EASE):
        model = MF | {"rounds": 3}
    run, path = made(tmp_path, model, kind)
    before = answers(run)
    (run / KEPT).rename(tmp_path / "aside")
    if kind != "by a column":
        assert answers(run) == before, "a run of an earlier version reads its source"
    (tmp_path / "aside").rename(run / KEPT)
    grown(path)
    assert answers(run) == before
    path.unlink()
    assert answers(run) == before
    assert verify_run(run).wrong is None
    report = json.loads((run / "report.json").read_text())
    again = train_run(read_plan(run), run, resume=True, chance=SeededChance(4))
    now = {
        "seconds": 0,
        "seconds_of": {},
        "went_on_at_round": 0,
        "peak_rss_mb": 0,
        "simulation": {},
    }  # what is of the process that says it
    assert again | now == report | now
    assert verify_run(run).wrong is None
    assert answers(run) == before


def test_a_run_holds_its_model_once(tmp_path: Path) -> None:
    run, _ = made(tmp_path, EASE)
    assert list((run / "checkpoint").iterdir()) == []
    run, _ = made(tmp_path / "best", MF | {"rounds": 4, "server_optimiser": "adam"}, "best")
    kept = json.loads((run / "report.json").read_text())["round_kept"]
    assert [path.name for path in (run / "checkpoint").iterdir()] == [f"server-{kept:06d}.safetensors"]


def test_a_run_of_an_earlier_version_with_whole_checkpoints_is_opened_and_closed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MF | {"rounds": 4, "server_optimiser": "adam"}
    with monkeypatch.context() as patch:
        patch.setattr(Run, "slim", lambda run, round, server: run.prune({round, 3}))
        run, _ = made(tmp_path, model, "best")
    (run / KEPT).unlink()
    list_files(run)
    assert f"round-{open_run(run).trained.round:06d}.safetensors" in [
        one.name for one in (run / "checkpoint").iterdir()
    ]
    before = dict(open_run(run).trained.state.server)
    assert before, "adam keeps moments"
    assert verify_run(run).wrong is None
    train_run(read_plan(run), run, resume=True)
    assert [one.name.partition("-")[0] for one in (run / "checkpoint").iterdir()] == ["server"]
    assert (run / KEPT).exists()
    assert verify_run(run).wrong is None
    after = open_run(run).trained.state.server
    assert {name: array.tobytes() for name, array in after.items()} == {n: a.tobytes() for n, a in before.items()}


def test_training_goes_on_from_a_run_whose_source_is_gone(tmp_path: Path, fedrec: Call) -> None:
    run, path = made(tmp_path, MF, "no split")
    newer = tmp_path / "newer.csv"
    grown(newer)
    words = ("train", "--data", newer, "--model", "mf", "--set", "embedding_size=4", "--set", "rounds=1", "--split",
             "none", "--from", run, "-q", "--out")  # fmt: skip
    assert fedrec(*words, tmp_path / "one").code == 0
    path.unlink()
    assert fedrec(*words, tmp_path / "two").code == 0
    one, two = ((tmp_path / name / "model/shared.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_training_that_is_not_done_needs_the_data_that_it_began_with(tmp_path: Path) -> None:
    from kill_driver import is_killed

    path = tmp_path / "log.csv"
    rows().write_csv(path)
    plan = Plan.make({"data": {"source": str(path)}, "model": MF, "seed": 3})
    assert is_killed(lambda: train_run(plan, tmp_path / "run"), 18)
    assert (tmp_path / "run" / "ledger.jsonl").exists()
    grown(path)
    with pytest.raises(RunError, match=r"is other data now .*goes on only with the data that it began with"):
        train_run(plan, tmp_path / "run", resume=True)
    path.unlink()
    with pytest.raises(RunError, match=r"no such file.*only with the data that it began with"):
        train_run(plan, tmp_path / "run", resume=True)
    rows().write_csv(path)
    train_run(plan, tmp_path / "run", resume=True)
    path.unlink()
    assert fr.load_model(tmp_path / "run").recommend(["u01"]).height


def test_who_needs_the_model_alone_reads_no_interactions(tmp_path: Path, fedrec: Call) -> None:
    run, path = made(tmp_path, EASE)
    path.unlink()
    shutil.rmtree(run / "private")
    (tmp_path / "h.csv").write_text("user_id,item_id\nzoe,1\nzoe,4\n")
    assert fedrec("similar", run, "--item", 1).code == 0
    assert fedrec("recommend", run, "--history", tmp_path / "h.csv").code == 0
    said = fedrec("recommend", run, "--user", "u01")
    assert (said.code, "keeps no interactions of its own" in said.err, "--data" in said.err) == (2, True, True)
    (run / "private").mkdir()
    (run / "private" / "federation.json").write_text("{}")
    assert fedrec("similar", run, "--item", 1).code == 0
    said = fedrec("recommend", run, "--user", "u01")
    assert (said.code, "trained over the nodes of a federation" in said.err) == (2, True)


# --- newer histories ------------------------------------------------------------------------------------------------


def test_trained_users_keep_their_rows_and_others_are_folded_in(tmp_path: Path) -> None:
    run, path = made(tmp_path, MF, "nodes")
    opened = open_run(run)
    latest = pl.DataFrame({"user_id": ["u03", "zoe"], "item_id": [29, 29], "rating": [5.0, 5.0],
                           "timestamp": [10**6, 10**6]})  # fmt: skip
    path.unlink()
    newer = fr.load_model(run, latest)
    shard = newer.opened.engine.shards[0]
    _, _, scores = next(shard.scores(opened.trained.state.shared, opened.trained.round, shard.known, np.arange(2)))
    place = opened.data.users.find(["u03"])
    home = next(one for one in opened.engine.shards if one.data.users.find(["u03"])[0] >= 0)
    mine = home.data.users.find(["u03"])
    _, _, trained = next(home.scores(opened.trained.state.shared, opened.trained.round, home.known, mine))
    assert place[0] >= 0
    assert np.array_equal(scores[0], trained[0]), "mf scores by what training left of the user"
    guest = opened.with_visitors(newer.opened.data.take_users(np.array([1])))
    _, _, visitor = next(guest.scores(opened.trained.state.shared, opened.trained.round, guest.known, np.arange(1)))
    assert np.array_equal(scores[1], visitor[0])
    told = newer.recommend(["u03"], n=30)["item_id"].to_list()
    assert 29 not in told, "what the user has seen since is not recommended"
    assert len(told) == 29, "and what the run kept is not what the user has seen now"
    with pytest.raises(InputError, match="unknown user"):
        newer.recommend(["u04"])


def test_newer_interactions_change_the_lists_of_a_model_that_reads_histories(tmp_path: Path) -> None:
    run, path = made(tmp_path, EASE)
    other = rows().with_columns(user_id=pl.concat_str(pl.lit("v"), "user_id"))
    expected = fr.load_model(run).recommend(n=3, history=other).rows()
    path.unlink()
    assert fr.load_model(run, other).recommend(n=3).rows() == expected
    (run / KEPT).unlink()
    assert fr.load_model(run, other).recommend(n=3).rows() == expected, "nobody's private rows are needed"


@pytest.mark.parametrize("kind", ["nodes", "private"])
def test_the_very_data_is_named_where_it_moved(kind: str, tmp_path: Path, fedrec: Call) -> None:
    run, path = made(tmp_path, MF, kind)
    before = answers(run)
    moved = tmp_path / "moved.csv"
    path.rename(moved)
    for _ in range(2):  # a run that keeps its interactions, and one of an earlier version
        model = fr.load_model(run, moved)
        assert model.recommend(n=5).sort("user_id", "rank").rows() == before[0]
        said = fedrec("evaluate", run, "--data", moved, "--metrics", "ndcg@10", "--json")
        assert (said.code, said.err) == (0, "")
        assert json.loads(said.out)["metrics"]["ndcg@10"] == pytest.approx(before[1]["ndcg@10"].value)
        (run / KEPT).unlink(missing_ok=True)
    grown(moved)
    said = fedrec("recommend", run, "--user", "u01", "--data", moved, "--unknown-items", "ignore")
    assert (said.code, "Whose private row is whose" in said.err) == (2, True)


def test_unknown_items_of_newer_data_follow_the_policy(tmp_path: Path, fedrec: Call) -> None:
    run, path = made(tmp_path, MF)
    grown(path)
    said = fedrec("recommend", run, "--user", "u65", "--data", path)
    assert (said.code, "99" in said.err, "--unknown-items" in said.err) == (2, True, True)
    said = fedrec("recommend", run, "--user", "u65", "--data", path, "--unknown-items", "warn", "--json")
    assert said.code == 0, said.err
    assert "1 row left out" in said.err
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fr.load_model(run, path, unknown_items="ignore").recommend(["u65"], n=3).height == 3
    assert fedrec("recommend", run, "--user", "u65", "--data", path, "--unknown-items", "skip").code == 2


def test_newer_data_are_split_as_the_plan_says_and_what_was_trained_on_is_told(tmp_path: Path, fedrec: Call) -> None:
    run, path = made(tmp_path, EASE)
    later = rows().with_columns(pl.col("timestamp") + 10**6, item_id=(pl.col("item_id") * 11 + 5) % 30)
    both = pl.concat([rows(), later.unique(["user_id", "item_id"], maintain_order=True)])
    both = both.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    both.write_csv(path)
    split = fr.leave_last_out(interactions_from(both))
    expected = fr.evaluate(fr.load_model(run), split, ["ndcg@10"])["value"][0]
    newer = fr.load_model(run, path)
    assert fr.evaluate(newer, metrics=["ndcg@10"])["value"][0] == pytest.approx(expected)
    said = fedrec("evaluate", run, "--data", path, "--metrics", "ndcg@10", "--json")
    assert json.loads(said.out)["metrics"]["ndcg@10"] == pytest.approx(expected)
    rows().filter(pl.col("timestamp") % 100 < 5).write_csv(path)
    said = fedrec("evaluate", run, "--data", path)
    assert said.code == 0
    assert "trained on" in said.err


def test_newer_data_are_read_and_cleaned_as_the_runs_own(tmp_path: Path, fedrec: Call) -> None:
    log = rows().rename({"user_id": "who"}).with_columns(what=pl.lit("buy"))
    log.write_csv(tmp_path / "log.csv")
    words = ("train", "--data", tmp_path / "log.csv", "--columns", "user_id=who", "--where", "what=buy", "--clean",
             "rating_at_least=2", "--model", "ease", "--split", "none", "-q", "--out", tmp_path / "run")  # fmt: skip
    assert fedrec(*words).code == 0
    seen = pl.DataFrame({"who": ["zoe"] * 3, "item_id": [1, 2, 3], "rating": [5.0, 1.0, 5.0], "timestamp": [1, 2, 3],
                         "what": ["buy", "buy", "look"]})  # fmt: skip
    seen.write_csv(tmp_path / "zoe.csv")
    newer = fr.load_model(tmp_path / "run", tmp_path / "zoe.csv")
    assert newer.opened.data.to_frame()["item_id"].to_list() == [1]
    seen.select("item_id", "rating", buyer="who").write_parquet(tmp_path / "zoe.parquet")
    with pytest.raises(InputError, match="user_id"):
        fr.load_model(tmp_path / "run", tmp_path / "zoe.parquet")
    newer = fr.load_model(tmp_path / "run", tmp_path / "zoe.parquet", columns={"user_id": "buyer"})
    assert newer.opened.data.n_users == 1


def test_a_training_goes_on_from_what_was_trained_on_and_not_from_newer_data(tmp_path: Path) -> None:
    run, _ = made(tmp_path, MF, "no split")
    latest = rows(70).filter(pl.col("timestamp") % 2 == 0)
    models = [fr.MF(embedding_size=4, rounds=1, seed=3).fit(rows(70), warm_start=fr.load_model(run, data))
              for data in (None, latest)]  # fmt: skip
    assert np.array_equal(models[0].shared["items"], models[1].shared["items"])


# --- what is kept ---------------------------------------------------------------------------------------------------


def kept(data: Interactions, folder: Path, nodes: int = 1) -> Kept:
    (folder / "private").mkdir(parents=True)
    plan = Plan.make({"data": {"source": "memory"}, "model": {"name": "popularity"}, "split": "none"})
    plan = plan.resolve(data, digest_of(data))
    keep_interactions(folder, data, LocalEngine.build(data, plan, nodes))
    found = Kept.read(folder, plan, data.catalog)
    assert found is not None
    return found


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize(
    "table",
    [
        rows(),
        rows().drop("timestamp"),
        rows().drop("rating"),
        rows().with_columns(pl.col("user_id").str.slice(1).cast(pl.Int64), pl.col("item_id").cast(pl.String)),
        rows().with_columns(part=pl.lit("train")),
        pl.concat([rows(), rows()]),
        pl.DataFrame({"user_id": ["é", "日", "z", "Z"], "item_id": [2, 1, 2, 2]}),
    ],
    ids=range(7),
)
def test_what_is_kept_are_the_very_interactions(table: pl.DataFrame, nodes: int, tmp_path: Path) -> None:
    data = interactions_from(table)
    found = kept(data, tmp_path / "run", nodes)
    assert digest_of(found.data) == digest_of(data)
    assert (found.places is None) == (nodes == 1)


def test_users_without_interactions_are_kept_too(tmp_path: Path) -> None:
    whole = interactions_from(rows())
    data = whole.where(whole.rows_of_users() % 3 > 0)
    assert (data.lengths == 0).sum() == 20
    assert digest_of(kept(data, tmp_path / "run", 2).data) == digest_of(data)


def hurt(change: Callable[[pl.DataFrame], pl.DataFrame], path: Path) -> None:
    change(pl.read_parquet(path)).write_parquet(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.head(table.height - 1), "digest is of|list of files"),
        (lambda table: table.reverse(), "not in order|list of files"),
        (lambda table: table.drop("user_id"), "missing|list of files"),
        (lambda table: table.with_columns(pl.col("item_id") + 1000), "catalog has not|list of files"),
        (lambda table: table.with_columns(pl.col("item_id").cast(pl.String)), "catalog has not|list of files"),
        (lambda table: table.with_columns(pl.col("rating").cast(pl.String)), "rating is String|list of files"),
        (lambda table: table.with_columns(rating=pl.lit(None, pl.Float32)), "without a value|list of files"),
        (lambda table: table.with_columns(part=pl.lit("tset")), "something else than train|list of files"),
        (lambda table: table.with_columns(node=pl.lit("x")), "node is String|list of files"),
        (lambda table: table.with_columns(pl.col("node") * 0), "private|list of files"),
        (lambda table: table.with_columns(pl.col("node") - 9), "node|list of files"),
        (lambda table: table.clear(), "digest is of|list of files"),
    ],
)
def test_kept_interactions_that_were_changed_are_named(
    change: Callable[[pl.DataFrame], pl.DataFrame], said: str, tmp_path: Path
) -> None:
    run, _ = made(tmp_path, MF, "nodes")
    hurt(change, run / KEPT)
    for _ in range(2):  # with the list of files, and without
        with pytest.raises(DamagedError, match=said) as error:
            open_run(run)
        assert str(run / "private") in str(error.value)
        (run / "record" / "files.jsonl").unlink(missing_ok=True)


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    run, _ = made(tmp_path, MF)
    shutil.rmtree(run / "record")
    for data in (b"", b"PAR1" * 9, (run / KEPT).read_bytes()[:-9]):
        (run / KEPT).write_bytes(data)
        with pytest.raises(DamagedError, match=r"private/interactions\.parquet was changed.*fedrec verify"):
            open_run(run)
        assert open_model(run).catalog.items.series.len() == 30, "the model alone is whole"


def test_a_catalog_of_another_run_is_not_believed(tmp_path: Path) -> None:
    run, _ = made(tmp_path, EASE)
    with pytest.raises(DamagedError, match=r"interactions\.parquet was changed"):
        Kept.read(run, read_plan(run), interactions_from(rows(3)).catalog)


def test_interactions_that_do_not_fit_on_the_disk_leave_no_folder(tmp_path: Path, fedrec: Call) -> None:
    rows().write_csv(tmp_path / "log.csv")
    with files_of_at_most(2_500):
        said = fedrec("train", "--data", tmp_path / "log.csv", "--model", "popularity", "--out", tmp_path / "run", "-q")
    assert (said.code, "private/interactions.parquet" in said.err) == (1, True), said.err
    assert not (tmp_path / "run").exists()
