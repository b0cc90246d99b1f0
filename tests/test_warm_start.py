"""Training that goes on from a finished run, and sums that only the change is added to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from chosen_in_test import in_turn
from conftest import Said
from fedrec.data.clients import Clients
from fedrec.errors import PlanError
from fedrec.federation.plan import Plan
from fedrec.federation.run import read_plan
from fedrec.federation.warm_start import Changed, Remembered, first_rows
from fedrec.models.private_state import OwnRows
from fedrec.record.durable import arrays_digest
from fedrec.runs.saved import open_run
from fedrec.runs.training import Placement, train_run
from kill_driver import is_killed
from runs_in_test import assert_same

ALL = fr.synthetic(users=150, items=60, interactions_per_user=14, seed=3).to_frame()
SUMS: dict[str, dict[str, Any]] = {
    "ease": {"name": "ease", "reg": 20.0},
    "ease-alpha": {"name": "ease", "alpha": 0.7},
    "itemknn": {"name": "itemknn", "neighbours": 10},
    "popularity": {"name": "popularity"},
    "slit": {"name": "slit", "decays": [0.3, 0.9], "alpha": 0.5},
}
MF = {"name": "mf", "embedding_size": 6, "rounds": 5}


def some(kind: str, table: pl.DataFrame = ALL) -> pl.DataFrame:
    """What was there before: without the newest rows of some users, without some users, without some items."""
    rank = pl.int_range(pl.len()).over("user_id")
    earlier = table.filter((pl.col("user_id") % 3 != 0) | (rank < pl.len().over("user_id") - 4))
    if kind == "grown":
        return earlier.filter((pl.col("user_id") % 7 != 0) & (pl.col("item_id") % 11 != 0))
    return earlier


def written(folder: Path, name: str, table: pl.DataFrame) -> str:
    path = folder / f"{name}.parquet"
    table.write_parquet(path)
    return str(path)


def trained(source: str, out: Path, model: dict[str, Any], nodes: int = 1, **changes: Any) -> dict[str, Any]:
    settings = {"data": {"source": source}, "model": model, "split": "none", "seed": 5} | changes
    return train_run(Plan.make(settings), out, Placement(nodes))


@pytest.mark.parametrize(("model", "kind", "nodes"), in_turn(SUMS, ["longer", "grown", "shrunk"], [3, 1]))
def test_adding_the_change_gives_the_bits_of_training_on_everything(
    model: str, kind: str, nodes: int, tmp_path: Path
) -> None:
    before, after = (ALL, some("grown")) if kind == "shrunk" else (some(kind), ALL)
    old, new = written(tmp_path, "old", before), written(tmp_path, "new", after)
    release = [{"step": "cap", "items": 9, "choose": "random"}] if model == "itemknn" else []
    trained(old, tmp_path / "first", SUMS[model], 2, keep_sums=True, release=release)
    report = trained(new, tmp_path / "added", SUMS[model], nodes, keep_sums=True, release=release,
                     warm_start=str(tmp_path / "first"))  # fmt: skip
    trained(new, tmp_path / "scratch", SUMS[model], nodes, keep_sums=True, release=release)
    assert report["warm_start"]["how"] == "adds the change"
    shared = [(tmp_path / run / "model" / "shared.safetensors").read_bytes() for run in ("added", "scratch")]
    assert shared[0] == shared[1]
    states = [open_run(tmp_path / run).trained.state.server for run in ("added", "scratch")]
    assert states[0].keys() == states[1].keys() != set()
    for name, array in states[0].items():
        assert array.tobytes() == states[1][name].tobytes()


def test_a_user_is_forgotten_to_the_bit(tmp_path: Path) -> None:
    without = ALL.filter(pl.col("user_id") != 17)
    trained(written(tmp_path, "all", ALL), tmp_path / "all", SUMS["ease"], keep_sums=True)
    source = written(tmp_path, "without", without)
    report = trained(source, tmp_path / "forgot", SUMS["ease"], warm_start=str(tmp_path / "all"), keep_sums=True)
    trained(source, tmp_path / "never", SUMS["ease"], keep_sums=True)
    assert report["cohort"] == 1
    assert report["simulation"]["sums_below_min_clients"] >= 1
    shared = [(tmp_path / run / "model" / "shared.safetensors").read_bytes() for run in ("forgot", "never")]
    assert shared[0] == shared[1]


def test_only_changed_users_are_summed(tmp_path: Path) -> None:
    old = written(tmp_path, "old", some("longer"))
    trained(old, tmp_path / "first", SUMS["ease"], keep_sums=True)
    report = trained(written(tmp_path, "new", ALL), tmp_path / "added", SUMS["ease"],
                     warm_start=str(tmp_path / "first"))  # fmt: skip
    assert report["cohort"] == ALL.filter(pl.col("user_id") % 3 == 0)["user_id"].n_unique()
    again = trained(old, tmp_path / "same", SUMS["ease"], warm_start=str(tmp_path / "first"))
    assert again["cohort"] == 0


def test_without_kept_sums_everybody_is_summed_again_and_it_says_so(tmp_path: Path) -> None:
    trained(written(tmp_path, "old", some("longer")), tmp_path / "first", SUMS["ease"])
    new = written(tmp_path, "new", ALL)
    report = trained(new, tmp_path / "again", SUMS["ease"], warm_start=str(tmp_path / "first"))
    assert report["warm_start"]["how"] == "computed anew"
    assert report["digests"]["model"] == trained(new, tmp_path / "scratch", SUMS["ease"])["digests"]["model"]


def test_rows_are_carried_by_typed_id(tmp_path: Path) -> None:
    trained(written(tmp_path, "old", some("grown")), tmp_path / "first", MF, 2)
    report = trained(written(tmp_path, "new", ALL), tmp_path / "warm", MF | {"rounds": 1, "learning_rate": 1e-30}, 3,
                     warm_start=str(tmp_path / "first"))  # fmt: skip
    assert report["warm_start"]["how"] == "goes on"
    trained(str(tmp_path / "new.parquet"), tmp_path / "cold", MF | {"rounds": 1, "learning_rate": 1e-30})
    first, warm, cold = (open_run(tmp_path / run) for run in ("first", "warm", "cold"))
    items = first.data.catalog.items.find(warm.data.catalog.items.series)
    rows = [run.trained.state.shared["items"] for run in (first, warm, cold)]
    assert 0 < np.sum(items < 0) < len(items)
    assert np.array_equal(rows[1][items >= 0], rows[0][items[items >= 0]])
    assert np.array_equal(rows[1][items < 0], rows[2][items < 0])
    users = first.data.users.find(warm.data.users.series)
    private = [run.private() for run in (first, warm, cold)]
    assert 0 < np.sum(users < 0) < len(users)
    mine = [np.asarray((rows or {})["users"]) for rows in private]
    assert np.array_equal(mine[1][users >= 0], mine[0][users[users >= 0]])
    assert np.array_equal(mine[1][users < 0], mine[2][users < 0])


def test_going_on_with_the_same_data_is_nearer_to_the_end(tmp_path: Path) -> None:
    source = written(tmp_path, "all", ALL)
    trained(source, tmp_path / "first", MF | {"rounds": 12})
    trained(source, tmp_path / "warm", MF | {"rounds": 1}, warm_start=str(tmp_path / "first"))
    trained(source, tmp_path / "cold", MF | {"rounds": 1})
    end, warm, cold = (open_run(tmp_path / name).trained.state.shared["items"] for name in ("first", "warm", "cold"))
    assert np.linalg.norm(warm - end) < 0.5 * np.linalg.norm(cold - end)


def test_ials_computes_its_gram_anew(tmp_path: Path) -> None:
    model = {"name": "ials", "embedding_size": 4, "rounds": 2}
    trained(written(tmp_path, "old", some("grown")), tmp_path / "first", model)
    report = trained(written(tmp_path, "new", ALL), tmp_path / "warm", model, warm_start=str(tmp_path / "first"))
    assert report["warm_start"]["how"] == "goes on"
    shared = open_run(tmp_path / "warm").trained.state.shared
    assert shared["gram"] == pytest.approx(shared["items"].astype(float).T @ shared["items"].astype(float), rel=1e-9)


@pytest.mark.parametrize("nodes", [2, 7])
def test_same_bits_for_any_nodes(nodes: int, tmp_path: Path) -> None:
    trained(written(tmp_path, "old", some("grown")), tmp_path / "first", MF)
    source = written(tmp_path, "new", ALL)
    for name, count in (("one", 1), ("many", nodes)):
        trained(source, tmp_path / name, MF, count, warm_start=str(tmp_path / "first"))
    assert_same(tmp_path / "one", tmp_path / "many")


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("model", ["mf", "ease"])
def test_killed_anywhere_and_resumed(model: str, stride: int, tmp_path: Path) -> None:
    settings = MF if model == "mf" else SUMS["ease"]
    keep = {"keep_sums": model == "ease"}
    trained(written(tmp_path, "old", some("grown")), tmp_path / "first", settings, **keep)
    source = written(tmp_path, "new", ALL)
    plan = Plan.make({"data": {"source": source}, "model": settings, "split": "none", "seed": 5} | keep
                     | {"warm_start": str(tmp_path / "first")})  # fmt: skip
    train_run(plan, tmp_path / "whole", Placement(2))
    write = 0

    def go_on() -> None:
        train_run(plan, tmp_path / "run", Placement(2), resume=True)

    while is_killed(go_on, write, half=write % 2 == 0):
        go_on()
        assert_same(tmp_path / "run", tmp_path / "whole")
        assert (tmp_path / "run/ledger.jsonl").read_bytes() == (tmp_path / "whole/ledger.jsonl").read_bytes()
        shutil.rmtree(tmp_path / "run")
        write += stride
    assert write > 5


def test_a_split_may_not_hold_out_what_was_trained_on(tmp_path: Path) -> None:
    source = written(tmp_path, "all", ALL)
    trained(source, tmp_path / "first", MF)
    with pytest.raises(PlanError, match="trained on 300 interactions that this split holds out"):
        trained(source, tmp_path / "run", MF, split="leave-last-out", warm_start=str(tmp_path / "first"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        (MF | {"embedding_size": 8}, {}, "embedding_size=6.*this plan has 8"),
        (MF | {"loss": "bpr"}, {}, "loss='bce'"),
        ({"name": "ials"}, {}, "run of model 'mf'"),
        (MF, {"warm_start": {"run": "first", "digest": "0" * 64}}, "not the run that this plan was made with"),
    ],
)
def test_what_cannot_go_on_names_the_key(
    model: dict[str, Any], changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = written(tmp_path, "all", ALL)
    trained(source, Path("first"), MF)
    with pytest.raises(PlanError, match=said):
        trained(source, Path("run"), model, **({"warm_start": "first"} | changes))
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": SUMS["ease-alpha"]}, "alpha is 0.0"),
        ({"cohort": 0.5, "keep_sums": False}, "cohort"),
        ({"release": [{"step": "cap", "items": 5}]}, "release"),
    ],
)
def test_sums_of_another_kind_cannot_be_added_to(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    source = written(tmp_path, "all", ALL)
    trained(source, tmp_path / "first", SUMS["ease"], keep_sums=True)
    with pytest.raises(PlanError, match=said):
        trained(source, tmp_path / "run", changes.pop("model", SUMS["ease"]), warm_start=str(tmp_path / "first"),
                **({"keep_sums": True} | changes))  # fmt: skip


def test_items_of_another_type_are_other_items(tmp_path: Path) -> None:
    trained(written(tmp_path, "all", ALL), tmp_path / "first", MF)
    text = written(tmp_path, "text", ALL.with_columns(pl.col("item_id").cast(pl.String)))
    with pytest.raises(PlanError, match=r"no item in common .*whole numbers in the earlier run, text in this data"):
        trained(text, tmp_path / "run", MF, warm_start=str(tmp_path / "first"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": MF, "keep_sums": True}, "keep_sums: with these settings mf has no sum"),
        ({"model": {"name": "ease", "rank": 4}, "keep_sums": True}, "keep_sums"),
        ({"model": SUMS["ease"], "keep_sums": True, "cohort": 0.5}, "cohort"),
        ({"model": MF, "warm_start": {"rum": "x"}}, "rum.*run"),
    ],
)
def test_plans_that_promise_too_much(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Plan.make({"data": {"source": "memory"}} | changes)


def test_a_leaky_run_stays_leaky(tmp_path: Path) -> None:
    source = written(tmp_path, "all", ALL)
    leaky: dict[str, Any] = {"negatives": "paper-leaky", "split": "leave-last-out"}
    trained(source, tmp_path / "first", MF, **leaky)
    with pytest.raises(PlanError, match="held-out items"):
        trained(source, tmp_path / "run", MF, split="leave-last-out", warm_start=str(tmp_path / "first"))
    report = trained(source, tmp_path / "run", MF, warm_start=str(tmp_path / "first"), **leaky)
    assert report["leaky"]


def test_the_plan_records_and_reproduces(fedrec: Callable[..., Said], tmp_path: Path) -> None:
    old, new = written(tmp_path, "old", some("grown")), written(tmp_path, "new", ALL)
    options = ("--model", "mf", "--set", "embedding_size=6", "--set", "rounds=3", "--split", "none", "--json")
    assert fedrec("train", "--data", old, *options, "--out", tmp_path / "first").code == 0
    said = fedrec("train", "--data", new, *options, "--from", tmp_path / "first", "--out", tmp_path / "warm")
    assert said.code == 0, said.err
    report = json.loads(said.out)
    assert report["warm_start"]["how"] == "goes on"
    plan = read_plan(tmp_path / "warm")
    assert plan.warm_start is not None
    assert plan.warm_start.digest == arrays_digest(open_run(tmp_path / "first").trained.state.shared)
    again = train_run(plan, tmp_path / "again")
    assert again["digests"] == report["digests"]


def test_the_library_goes_on_from_a_fitted_model() -> None:
    first = fr.MF(embedding_size=6, rounds=5, seed=5).fit(some("grown"))
    warm = fr.MF(embedding_size=6, rounds=2, seed=5).fit(ALL, warm_start=first)
    cold = fr.MF(embedding_size=6, rounds=2, seed=5).fit(ALL)
    assert warm.shared["items"].shape == cold.shared["items"].shape
    assert not np.array_equal(warm.shared["items"], cold.shared["items"])
    whole = fr.EASE(plan={"keep_sums": True}).fit(some("grown"))
    added = fr.EASE().fit(ALL, warm_start=whole, nodes=2)
    assert added.shared["weights"].tobytes() == fr.EASE().fit(ALL).shared["weights"].tobytes()


def test_changed_histories_are_those_that_differ() -> None:
    old = fr.interactions_from({"user_id": [1, 1, 2, 3], "item_id": [10, 30, 20, 10]})
    new = fr.interactions_from({"user_id": [1, 1, 2, 2, 4], "item_id": [10, 30, 20, 30, 20]})
    both = Changed.of(old.catalog, new.catalog)
    keys = [np.arange(count, dtype=np.uint64) for count in (new.n_users, old.n_users)]
    now, former = both.clients(Remembered(old, None), Clients.of(new, keys[0]), new.users, keys[1])
    assert now.keys.tolist() == [1, 2]
    assert former.keys.tolist() == [1, 2]


def test_private_ranges_follow_their_items() -> None:
    old = fr.interactions_from({"user_id": [1, 2], "item_id": [10, 30]})
    new = fr.interactions_from({"user_id": [0, 2, 2], "item_id": [20, 30, 40]})
    rows = OwnRows.of(np.array([0, 1, 3]), np.array([0, 0, 1]), np.array([[1.0], [2.0], [3.0]]))
    found = first_rows({"own": OwnRows.none(2, 1)}, new.users, new.catalog, Remembered(old, {"own": rows}))["own"]
    packed = found.packed()
    assert packed.lengths.tolist() == [0, 1]
    assert packed.items.tolist() == [new.catalog.items.find([30])[0]]
    assert packed.values.tolist() == [[3.0]]


@pytest.mark.parametrize("name", ["neumf", "sasrec"])
def test_networks_go_on_from_the_parameters_of_the_earlier_run(name: str, tmp_path: Path) -> None:
    """Also where a sketch makes the first parameters: it is not made again, and new items have rows of their own."""
    model = {"name": name, "rounds": 6, "window": 8, "embedding_size": 4, "learning_rate": 1e-9,
             **({"hidden": [4]} if name == "neumf" else {"blocks": 1, "heads": 1, "negatives": 8})}  # fmt: skip
    trained(written(tmp_path, "old", some("grown")), tmp_path / "first", model)
    trained(written(tmp_path, "new", ALL), tmp_path / "next", model, warm_start=str(tmp_path / "first"))
    first, after = (open_run(tmp_path / run) for run in ("first", "next"))
    old, new = first.trained.state.shared, after.trained.state.shared
    assert old.keys() == new.keys()
    places = after.catalog.items.find(first.catalog.items.series)
    assert len(after.catalog) > len(first.catalog)
    assert np.abs(new["items"][places] - old["items"]).max() < 1e-4
    assert np.isfinite(new["items"]).all()
