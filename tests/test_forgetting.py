"""Forgetting: a run without some users has the bytes of one that never had them, and does not say who they were."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from chosen_in_test import every
from conftest import Said
from fedrec.audit.membership import likeness
from fedrec.data.clients import Clients
from fedrec.data.databases.logs import open_events
from fedrec.data.digests import digest_of
from fedrec.data.events import Event
from fedrec.data.reading.reports import ReadReport, no_rows_left_out
from fedrec.data.sources import LoadedSource
from fedrec.engines.local import LocalEngine
from fedrec.errors import DamagedError, FedrecError, InputError
from fedrec.federation.plan import Plan
from fedrec.privacy.chance import SeededChance
from fedrec.privacy.groups import group_promise
from fedrec.record.durable import arrays_digest
from fedrec.runs import forgetting
from fedrec.runs.finished import OpenedRun
from fedrec.runs.forgettable import Forgettable
from fedrec.runs.forgetting import forget_users
from fedrec.runs.remains import holders
from fedrec.runs.saved import FEDERATED, open_run, save_run
from fedrec.runs.training import Placement, train_run
from fedrec.runs.verifying import verify_run
from runs_in_test import DATA, MODELS, NETWORKS, assert_same, small_plan

Fedrec = Callable[..., Said]
ALL = pl.concat(
    [
        fr.synthetic(users=120, items=50, interactions_per_user=12, seed=3).to_frame(),
        pl.DataFrame({"user_id": [17, 17], "item_id": [998, 999], "timestamp": [1.0, 2.0]}),  # what nobody else has
    ],
    how="diagonal",
).select("user_id", "item_id", "timestamp")
SUMS: dict[str, dict[str, Any]] = {
    "ease": {"name": "ease", "reg": 20.0, "alpha": 0.7},
    "itemknn": {"name": "itemknn", "neighbours": 10},
    "popularity": {"name": "popularity"},
    "slit": {"name": "slit", "decays": [0.3, 0.9], "alpha": 0.5},
}
MF = {"name": "mf", "embedding_size": 4, "rounds": 3}
GONE = [17, 4, 33]


def trained(folder: Path, table: pl.DataFrame, model: dict[str, Any], nodes: int = 1, **changes: Any) -> Path:
    """A run of a table that is beside it."""
    folder.mkdir(parents=True)
    table.write_parquet(folder / "data.parquet")
    settings = {"data": {"source": str(folder / "data.parquet")}, "model": model, "seed": 5} | changes
    train_run(Plan.make(settings), folder / "run", Placement(nodes))
    return folder / "run"


def without(table: pl.DataFrame, users: list[Any] = GONE) -> pl.DataFrame:
    return table.filter(~pl.col("user_id").is_in(users))


def forget(run: Path, users: list[Any], out: Path, **options: Any) -> dict[str, Any]:
    return forget_users(Forgettable.open(run), users, out, **options)


def everything(folder: Path) -> bytes:
    """All that the files of a run say: their bytes and, of tables, what they hold."""
    said = b""
    for path in sorted(folder.rglob("*")):
        said += str(path.relative_to(folder)).encode()
        if path.is_file():
            said += pl.read_parquet(path).write_csv().encode() if path.suffix == ".parquet" else path.read_bytes()
    return said


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that kept its sums."""
    return trained(tmp_path_factory.mktemp("summed") / "of", ALL, SUMS["ease"], keep_sums=True)


@pytest.fixture(scope="module")
def factors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with private rows, of three nodes."""
    return trained(tmp_path_factory.mktemp("factors") / "of", ALL, MF, 3)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under differential privacy."""
    promise = {"epsilon": 2.0, "delta": 1e-6}
    return trained(tmp_path_factory.mktemp("private") / "of", ALL, {"name": "ease"}, privacy=promise)


@pytest.mark.parametrize(("model", "order"), every(18, itertools.product(SUMS, itertools.permutations(GONE)), start=1))
def test_subtracting_in_any_order_gives_the_bytes_of_training_without_the_users(
    model: str, order: tuple[int, ...], tmp_path: Path
) -> None:
    run = trained(tmp_path / "all", ALL, SUMS[model], 2, keep_sums=True)
    for step, user in enumerate(order):
        report = forget(run, [user], tmp_path / f"step-{step}")
        assert report["how"] == "subtract"
        run = tmp_path / f"step-{step}"
    never = trained(tmp_path / "never", without(ALL), SUMS[model], 2, keep_sums=True)
    names = ("shared.safetensors", "catalog.jsonl")
    assert [(run / "model" / name).read_bytes() for name in names] == [
        (never / "model" / name).read_bytes() for name in names
    ]
    sums = [open_run(folder).trained.state.server for folder in (run, never)]
    assert arrays_digest(sums[0]) == arrays_digest(sums[1])
    assert pl.read_parquet(run / "private/interactions.parquet").equals(
        pl.read_parquet(never / "private/interactions.parquet")
    )
    assert verify_run(run).wrong is None


def test_subtracting_and_retraining_leave_the_same_record(summed: Path, tmp_path: Path) -> None:
    """Nothing of the record depends on the change, which is the histories of those who are gone."""
    forget(summed, GONE, tmp_path / "subtracted", how="subtract")
    forget(summed, GONE, tmp_path / "retrained", how="retrain")
    assert_same(tmp_path / "subtracted", tmp_path / "retrained")
    lines = [
        [json.loads(line) for line in (tmp_path / name / "ledger.jsonl").read_text().splitlines()]
        for name in ("subtracted", "retrained")
    ]
    assert [line[0].pop("forgotten") for line in lines] == [
        {"users": 3, "how": "subtract"},
        {"users": 3, "how": "retrain"},
    ]
    assert lines[0][1].pop("sums") == []
    assert len(lines[1][1].pop("sums")) == 1
    for line in (*lines[0], *lines[1]):
        del line["root"]
    assert lines[0] == lines[1]
    assert not list((tmp_path / "subtracted").rglob("receipts.jsonl"))


def test_retraining_gives_the_model_and_the_rows_of_training_without_the_users(factors: Path, tmp_path: Path) -> None:
    report = forget(factors, GONE, tmp_path / "out", prove=True)
    never = trained(tmp_path / "never", without(ALL), MF)
    assert (report["how"], report["users"], report["left_with_them"]["items"]) == ("retrain", 3, 2)
    opened, other = open_run(tmp_path / "out"), open_run(never)
    assert report["proof"] == {"digest": arrays_digest(other.trained.state.shared), "equal": True}
    assert report["digests"]["after"] == report["proof"]["digest"] != report["digests"]["before"]
    assert arrays_digest(opened.private() or {}) == arrays_digest(other.private() or {})
    assert json.loads((tmp_path / "out/private/placement.json").read_text())["nodes"] == 3
    assert verify_run(tmp_path / "out").wrong is None


@pytest.mark.parametrize(
    "cleaning",
    every(2, [{"k_core": 9}, {"min_item_interactions": 24, "shrink_catalog": False}, {"min_item_interactions": 24}]),
)
def test_cleaning_across_users_is_held_to_again(cleaning: dict[str, Any], tmp_path: Path) -> None:
    source = {"source": str(tmp_path / "data.parquet"), "cleaning": cleaning}
    ALL.write_parquet(tmp_path / "data.parquet")
    gone = list(range(0, 120, 5))
    train_run(Plan.make({"data": source, "model": SUMS["ease"], "keep_sums": True}), tmp_path / "run")
    kept = Forgettable.open(tmp_path / "run").users
    there = [user for user, place in zip(gone, kept.find(gone), strict=True) if place >= 0]
    report = forget(tmp_path / "run", there, tmp_path / "out", prove=True)
    without(ALL, gone).write_parquet(tmp_path / "data.parquet")
    train_run(Plan.make({"data": source, "model": SUMS["ease"], "keep_sums": True}), tmp_path / "never")
    assert report["left_with_them"]["interactions"] > 0
    assert report["digests"]["after"] == arrays_digest(open_run(tmp_path / "never").trained.state.shared)


def test_items_that_a_file_declares_stay_when_nobody_has_them(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": [998, 2000], "title": ["a", "b"]}).write_csv(tmp_path / "items.csv")
    ALL.write_parquet(tmp_path / "data.parquet")
    data = {"source": str(tmp_path / "data.parquet"), "catalog": str(tmp_path / "items.csv")}
    train_run(Plan.make({"data": data, "model": {"name": "popularity"}}), tmp_path / "run")
    forget(tmp_path / "run", [17], tmp_path / "out")
    assert open_run(tmp_path / "out").catalog.items.find([998, 999, 2000]).tolist() == [50, -1, 51]
    (tmp_path / "items.csv").unlink()
    with pytest.raises(InputError, match=r"items\.csv"):
        forget(tmp_path / "run", [17], tmp_path / "again")


def test_nothing_of_the_new_run_or_of_the_report_says_who_left(tmp_path: Path, fedrec: Fedrec) -> None:
    named = ALL.with_columns(pl.format("user-{}", "user_id").alias("user_id")).with_columns(
        pl.when(pl.col("user_id") == "user-17").then(pl.lit("Ottokar-Prohaska")).otherwise("user_id").alias("user_id")
    )
    for number, (model, how) in enumerate([(SUMS["ease"], "subtract"), (MF, "retrain")]):
        run = trained(tmp_path / f"of-{number}", named, model, keep_sums=model is not MF)
        assert b"Ottokar-Prohaska" in everything(run)
        out = tmp_path / f"out-{number}"
        said = fedrec("forget", run, "--user", "Ottokar-Prohaska", "--out", out, "--prove", "--json")
        assert said.code == 0, said.err
        assert json.loads(said.out)["how"] == how
        assert "Ottokar" not in said.out + said.err
        assert b"Ottokar" not in everything(out)
        assert b"user-4" in everything(out)


def test_a_private_run_keeps_its_model_and_says_what_epsilon_covers(
    private: Path, tmp_path: Path, fedrec: Fedrec
) -> None:
    said = fedrec("forget", private, "--user", 17, "--user", 4, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    words = " ".join(said.out.split())
    assert "from which nothing was removed" in words
    assert "epsilon 2 x 2 = 4 at delta 2 x 1e-06 x e^(1 x 2) = 1.48e-05" in words
    model = [(folder / "model/shared.safetensors").read_bytes() for folder in (private, tmp_path / "out")]
    assert model[0] == model[1]
    left = pl.read_parquet(tmp_path / "out/private/interactions.parquet")
    assert set(left["user_id"]) == set(without(ALL, [17, 4])["user_id"])
    assert json.loads((tmp_path / "out/forgotten.json").read_text())["how"] == "covered"
    fr.load_model(tmp_path / "out").recommend([33])


def test_a_private_run_trained_again_costs_the_others_as_much_again(private: Path, tmp_path: Path) -> None:
    report = forget(private, [17], tmp_path / "out", how="retrain")
    assert (report["how"], report["privacy"]["epsilon_of_both_runs"]) == ("retrain", 4.0)
    assert report["digests"]["before"] != report["digests"]["after"]
    assert verify_run(tmp_path / "out").wrong is None


def test_a_promise_to_a_group_is_the_product_of_the_promises_to_each() -> None:
    assert group_promise(0.5, 1e-7, 1) == (0.5, 1e-7)
    epsilon, delta = group_promise(0.5, 1e-7, 4)
    steps = 1e-7 * sum(math.exp(0.5 * step) for step in range(4))  # ε and δ, composed one user after the other
    assert epsilon == 2.0
    assert steps <= delta == pytest.approx(4e-7 * math.exp(1.5))
    assert group_promise(400.0, 1e-9, 3)[1] == math.inf


def test_noise_that_can_be_drawn_again_covers_nobody(tmp_path: Path) -> None:
    ALL.write_parquet(tmp_path / "data.parquet")
    plan = {"data": {"source": str(tmp_path / "data.parquet")}, "model": {"name": "popularity"}}
    promise = {"epsilon": 2.0, "delta": 1e-6}
    train_run(Plan.make(plan | {"privacy": promise}), tmp_path / "run", chance=SeededChance(1))
    with pytest.raises(InputError, match="its noise can be drawn again, so that its epsilon covers nobody"):
        forget(tmp_path / "run", [17], tmp_path / "out")


def test_the_attack_on_membership_finds_forgotten_users_no_better_than_strangers(tmp_path: Path) -> None:
    everyone = fr.synthetic(users=450, items=1500, interactions_per_user=20, seed=2)
    members, gone, strangers = (np.arange(first, 450, 3) for first in range(3))
    data = everyone.take_users(np.sort(np.concatenate([members, gone])))
    model = fr.ItemKNN(plan={"keep_sums": True, "split": "none"}).plan
    source = LoadedSource(data, ReadReport("clicks", "table", {}, len(data), no_rows_left_out()), "", digest_of(data))
    plan = Plan.make(model.model_dump() | {"data": {"source": "clicks", "cleaning": {"shrink_catalog": False}}})
    train_run(plan, tmp_path / "run", source=source)
    forget(tmp_path / "run", everyone.users.take(gone).to_list(), tmp_path / "out")
    clients = Clients.of(everyone, np.arange(450, dtype=np.uint64))

    def advantage(run: str, group: np.ndarray) -> float:
        """Probability that somebody of the group looks more like a member than a stranger does."""
        ((name, total),) = open_run(tmp_path / run).as_earlier("run")[0].sums.items()
        scores = likeness(total.astype(np.float64), name, clients, {})
        return float(np.mean(scores[group][:, None] > scores[strangers][None, :]))

    three_deviations = 3 * math.sqrt((150 + 150 + 1) / (12 * 150 * 150))
    assert advantage("run", gone) > 0.5 + three_deviations
    assert advantage("out", members) > 0.5 + three_deviations
    assert abs(advantage("out", gone) - 0.5) < three_deviations


def test_users_who_asked_a_server_are_forgotten(summed: Path, tmp_path: Path, fedrec: Fedrec) -> None:
    log = open_events(str(tmp_path / "events.db"), False, False)
    log.add([Event("a", 4, 1, "click", 1.0), Event("b", 5, 1, "click", 1.0)])
    for user in (4, 33, 123456):
        log.forget(user, 2.0)
    log.close()
    said = fedrec("forget", summed, "--asked", tmp_path / "events.db", "--out", tmp_path / "out", "--json")
    assert json.loads(said.out)["users"] == 2
    assert open_run(tmp_path / "out").data.users.find([4, 33, 5]).tolist()[:2] == [-1, -1]
    again = fedrec("forget", tmp_path / "out", "--asked", tmp_path / "events.db", "--out", tmp_path / "more")
    assert again.code == 2
    assert "of the users who asked to be forgotten (3) none is in" in again.err


def test_ids_come_from_a_file_too(summed: Path, tmp_path: Path, fedrec: Fedrec) -> None:
    (tmp_path / "ids.csv").write_text("user_id\n17\n4\n")
    said = fedrec("forget", summed, "--users", tmp_path / "ids.csv", "--user", 33, "--out", tmp_path / "out", "--json")
    assert json.loads(said.out)["users"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--users", "nowhere.txt"), "--users nowhere.txt: No such file"),
        (("--users", "junk.txt"), "--users junk.txt: the file is not UTF-8 text"),
        (("--users", "empty.txt"), "no user is named"),
        (("--asked", "nowhere.db"), "there is no such file, so there are no events"),
        (("--asked", "empty.db"), "empty.db: nobody asked to be forgotten"),
        (("--asked", "text.db"), "none is in"),
        (("--user", "017"), "id '017' is not a whole number"),
        ((), "give --user ID, --users FILE or --asked LOG"),
    ],
)
def test_a_command_that_names_nobody_is_refused(
    options: tuple[str, ...], words: str, summed: Path, tmp_path: Path, fedrec: Fedrec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.txt").touch()
    for name, text in (("empty.db", False), ("text.db", True)):
        log = open_events(name, text, text)
        if text:
            log.forget("user-17", 2.0)
        log.close()
    said = fedrec("forget", summed, "--out", "out", *options)
    assert (said.code, words in said.err) == (2, True), said.err
    assert not Path("out").exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize("model", [*MODELS, *NETWORKS])
def test_every_model_forgets_to_the_bytes_of_training_without_the_users(model: str, tmp_path: Path) -> None:
    network = {"data": {"source": DATA}, "model": {"name": model, **NETWORKS.get(model, {})}, "seed": 5}
    plan = Plan.make(network) if model in NETWORKS else small_plan(model)
    train_run(plan, tmp_path / "run", Placement(2))
    report = forget(tmp_path / "run", [3, 9], tmp_path / "out", prove=True)
    assert report["digests"]["before"] != report["digests"]["after"] == report["proof"]["digest"]
    assert verify_run(tmp_path / "out").wrong is None


def test_the_finished_run_still_holds_the_users_until_it_is_deleted(factors: Path, tmp_path: Path) -> None:
    shutil.copytree(factors, tmp_path / "run")
    (tmp_path / "run" / "lists.csv").write_text("17,998\n")
    report = forget(tmp_path / "run", [17], tmp_path / "out")
    held = report["still_hold"]
    assert held["private/interactions.parquet"] == "interactions"
    assert held["private/node-0/base.safetensors"] == "private rows of a model"
    assert held["model/catalog.jsonl"] == "items that only they have"
    assert held["lists.csv"] == "unknown: fedrec did not write this file here"
    assert report["sources"] == [str(factors.parent / "data.parquet")]
    again = forget(tmp_path / "out", [4], tmp_path / "third", delete=True)
    assert (again["deleted"], again["still_hold"], (tmp_path / "out").exists()) == (True, {}, False)
    assert set(holders(tmp_path / "third", 0)) >= {"private/interactions.parquet", "model/shared.safetensors"}


def test_a_user_who_took_no_part_leaves_the_data_and_not_the_model(tmp_path: Path) -> None:
    table = pl.concat(
        [ALL, pl.DataFrame({"user_id": [500], "item_id": [1], "timestamp": [9e9]})], how="diagonal_relaxed"
    )
    run = trained(tmp_path / "of", table, SUMS["ease"], keep_sums=True, split="temporal:0.8")
    report = forget(run, [500], tmp_path / "out")
    assert (report["users"], report["without_training"]) == (1, 1)
    assert report["digests"]["before"] == report["digests"]["after"]
    assert open_run(tmp_path / "out").data.users.find([500]) == [-1]


def test_a_saved_model_is_trained_again_if_that_makes_the_model_it_is(tmp_path: Path) -> None:
    model = fr.EASE().fit(fr.leave_last_out(fr.interactions_from(ALL)))
    model.save(tmp_path / "saved")
    assert forget(tmp_path / "saved", [17], tmp_path / "out", prove=True)["how"] == "retrain"
    opened = model.opened
    some = opened.data.take_users(np.arange(60))
    engine = LocalEngine.of_split(opened.agreement.divided(some), opened.plan)
    save_run(OpenedRun.here(opened.agreement, opened.trained, engine, some), tmp_path / "of a node")
    with pytest.raises(InputError, match="nodes of a federation, or another model, had a part in it"):
        forget(tmp_path / "of a node", [4], tmp_path / "never")


def test_a_run_that_goes_on_from_another_model_is_refused(factors: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "of", ALL, MF, warm_start=str(factors))
    with pytest.raises(InputError, match=r"goes on from .* Forget them in that run, and go on from the new one"):
        forget(run, [17], tmp_path / "out")


def test_forgetting_that_fails_leaves_nothing(summed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(summed)
    monkeypatch.setattr(Forgettable, "trained_again", lambda *_: "0" * 64)
    with pytest.raises(DamagedError, match="training without the users gives another model"):
        forget(summed, [17], tmp_path / "out", prove=True, delete=True)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(forgetting, "list_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        forget(summed, [17], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert everything(summed) == before


Refused = Callable[[Path, Path], dict[str, Any]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run, out: forget(run, [77777], out), "user 77777 is not in"),
        (lambda run, out: forget(run, [17, 77777, 77778], out), "user 77777 and 1 more users are not in"),
        (lambda run, out: forget(run, ["17"], out), "Ids of this data are whole numbers, without quotes"),
        (lambda run, out: forget(run, [], out), "no user is named"),
        (lambda run, out: forget(run, ALL["user_id"].unique().to_list(), out), "these are all users"),
        (lambda run, out: forget(run, [17], out, how="subtrac"), "how: 'subtrac' is not known. Did you mean"),
        (lambda run, out: forget(run, [17], run), "exists already"),
        (lambda run, out: forget(run, [17], run / "inside"), "is inside the run"),
        (lambda run, out: forget(out / "nowhere", [17], out), "is not a run"),
        (lambda run, out: fr.forget(run, out=out), "no user is named"),
    ],
)  # fmt: skip
def test_what_cannot_be_forgotten_is_refused_in_words(call: Refused, words: str, summed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        call(summed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_each_way_says_where_it_is_impossible(factors: Path, private: Path, tmp_path: Path) -> None:
    def refused(run: Path, users: list[int], words: str, **options: Any) -> None:
        with pytest.raises(InputError, match=words):
            forget(run, users, tmp_path / "out", **options)

    refused(factors, [17], r"model 'mf' is more than one sum over its users. Use --how retrain", how="subtract")
    refused(private, [17], "sums with noise do not say what a user added", how="subtract")
    refused(private, [17], "noise is drawn anew in each training", how="retrain", prove=True)
    refused(private, list(range(1, 40)), "which for 39 users together is epsilon 78 at a delta of 1 or more")
    plain = trained(tmp_path / "plain", ALL, {"name": "popularity"})
    refused(plain, [17], "the run kept no sums; runs that are trained with --set keep_sums=true do", how="subtract")


def damage(folder: Path, what: str) -> None:
    """Something of a run that is not as it was left."""
    if what == "a link":
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to(folder.with_name("elsewhere"))
    elif what == "of a federation":
        (folder / FEDERATED).write_text("{}")
    elif what == "no interactions":
        (folder / "private/interactions.parquet").unlink()
    elif what == "no list of files":
        shutil.rmtree(folder / "record")
    else:
        path = folder / what
        path.write_bytes(path.read_bytes()[:-1] + b"!")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("a link", "is a link; name the run that it points to"),
        ("of a federation", "was trained over the nodes of a federation"),
        ("no interactions", "keeps no interactions"),
        ("no list of files", "is damaged or was not finished"),
        ("private/interactions.parquet", "private/interactions.parquet: was changed"),
        ("checkpoint/server-000000.safetensors", "server-000000.safetensors: was changed"),
        ("model/shared.safetensors", "shared.safetensors"),
    ],
)
def test_a_run_that_is_not_whole_forgets_nobody(what: str, words: str, summed: Path, tmp_path: Path) -> None:
    shutil.copytree(summed, tmp_path / "run")
    damage(tmp_path / "run", what)
    with pytest.raises(FedrecError, match=words):
        forget(tmp_path / "run", [17], tmp_path / "out")
    assert not (tmp_path / "out").exists()
