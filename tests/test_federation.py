"""A federation's nodes behind a post against the local engine: the same plan gives the same bytes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given, settings

import fedrec as fr
from chosen_in_test import chosen, in_turn
from federation_in_test import COORDINATOR, Federation
from fedrec.data.sources import load_source
from fedrec.errors import InputError, PlanError, RunError
from fedrec.federation.messages import open_request
from fedrec.federation.plan import Plan
from fedrec.federation.run import is_run
from fedrec.network.post import Failure, LocalPost, by_reason
from fedrec.network.waiting import Waiting
from fedrec.node.host import NodeHost
from fedrec.record.ledger import Ledger
from fedrec.runs.federated import Members, train_federated
from fedrec.runs.published import save_served
from fedrec.runs.saved import open_run
from fedrec.runs.training import Placement, train_run
from fedrec.runs.verifying import verify_run
from runs_in_test import DATA, MODELS, each_kind, small_plan

NODES = 3
PLAIN = ("ease", "gpfedrec", "mf", "spectral")
"""Runs that are trained without the secure sum too; all others then, among the exhaustive tests."""
PATIENT = Waiting(deadline=60.0, pause=0.0, reconnect_timeout=0.0, sign=1.0)


class Owners(Federation):
    """A federation that keeps finished runs at its nodes, as real ones do."""

    def __init__(self, folder: Path, plan: Plan, nodes: int = NODES, secure: bool = False) -> None:
        open_data = plan.data.model_copy(update={"digest": None})
        super().__init__(folder, plan.model_copy(update={"data": open_data}), nodes, secure)

    def host(self, name: str, key: Any = None) -> NodeHost:
        return NodeHost(self.config(name), key or self.keys[name], save_served)

    def train(self, plan: Plan, out: Path, resume: bool = False) -> dict[str, Any]:
        members = Members("owners", COORDINATOR, self.public, self.catalog, 1024)
        return train_federated(plan, out, members, LocalPost(self.hosts()), self.secure, PATIENT, resume)

    def model_at(self, name: str) -> Path:
        return self.folder / f"{name}-home" / "models" / "latest"


def model_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir())}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of the local engine by name, trained once."""
    folder, done = tmp_path_factory.mktemp("local"), {}

    def run(name: str) -> tuple[Path, dict[str, Any]]:
        if name not in done:
            done[name] = folder / name, train_run(small_plan(name), folder / name, Placement(NODES))
        return done[name]

    return run


@pytest.mark.parametrize("name", each_kind())
def test_model_metrics_and_private_rows_are_those_of_one_process_under_the_secure_sum(
    name: str, local: Any, tmp_path: Path
) -> None:
    assert_as_in_one_process(name, True, local, tmp_path)


@pytest.mark.parametrize("name", chosen(PLAIN, MODELS))
def test_model_metrics_and_private_rows_are_those_of_one_process(name: str, local: Any, tmp_path: Path) -> None:
    assert_as_in_one_process(name, False, local, tmp_path)


def assert_as_in_one_process(name: str, secure: bool, local: Any, tmp_path: Path) -> None:
    alone, report = local(name)
    plan = Plan.read(alone / "plan.yaml")
    owners = Owners(tmp_path, plan, NODES, secure)
    found = owners.train(plan, tmp_path / "run")
    assert model_files(tmp_path / "run") == model_files(alone)
    assert found["metrics"] == report["metrics"]
    assert found["rounds"] == report["rounds"]
    opened = open_run(alone)
    private = opened.private()
    for node in owners.names:
        there = open_run(owners.model_at(node))
        users = there.data.users.series
        assert users.to_list() == owners.data[node].users.series.to_list()
        places = opened.data.users.find(users)
        for array, rows in (there.private() or {}).items():
            assert private is not None
            assert rows.tobytes() == private[array][places].tobytes(), array


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_positions_are_measured_from_decayed_histories_as_in_one_process(secure: bool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": {"source": DATA}, "split": "last:3", "seed": 5}
    settings |= {"model": MODELS["itemknn"] | {"decay": 0.8}, "evaluation": {"metrics": ["ndcg@10", "coverage@5"]}}
    report = train_run(Plan.make(settings), tmp_path / "alone", Placement(NODES))
    plan = Plan.read(tmp_path / "alone" / "plan.yaml")
    found = Owners(tmp_path, plan, NODES, secure).train(plan, tmp_path / "run")
    assert model_files(tmp_path / "run") == model_files(tmp_path / "alone")
    assert found["metrics"] == report["metrics"]
    assert found["standard_error"] == report["standard_error"]


@pytest.mark.parametrize("name", ["ease", "mf", "ials"])
def test_a_node_recommends_to_its_own_users_what_one_process_would(name: str, local: Any, tmp_path: Path) -> None:
    alone, _ = local(name)
    plan = Plan.read(alone / "plan.yaml")
    owners = Owners(tmp_path, plan, NODES)
    owners.train(plan, tmp_path / "run")
    everywhere = fr.load_model(alone)
    for node in owners.names:
        users = owners.data[node].users.series.to_list()[:5]
        here = fr.load_model(owners.model_at(node)).recommend(users, n=5)
        assert here["item_id"].to_list() == everywhere.recommend(users, n=5)["item_id"].to_list()


@pytest.mark.parametrize(("name", "secure"), [("ease", True), ("ials", False), ("mf", True)])
def test_weighted_models_are_those_of_one_process_and_odd_values_refuse_no_run(
    name: str, secure: bool, tmp_path: Path
) -> None:
    plays = 1 + pl.col("item_id") % 7 + pl.col("user_id") % 3
    table = fr.load_data(DATA).to_frame().drop("rating").with_columns(weight=plays)
    table.write_parquet(tmp_path / "plays.parquet")
    settings = {"data": {"source": str(tmp_path / "plays.parquet")}, "weights": {"form": "log", "alpha": 2}}
    plan = small_plan(name, **settings)
    train_run(plan, tmp_path / "alone", Placement(NODES))
    plan = Plan.read(tmp_path / "alone" / "plan.yaml")
    owners = Owners(tmp_path, plan, NODES, secure)
    odd = pl.read_parquet(tmp_path / "node-1.parquet")
    more = odd.head(1).with_columns(user_id=pl.lit(9000, pl.Int64), rating=pl.lit(-5.0, pl.Float32))
    pl.concat([more, odd]).write_parquet(tmp_path / "node-1.parquet")
    owners.train(plan, tmp_path / "run")
    assert model_files(tmp_path / "run") == model_files(tmp_path / "alone")


def test_ratings_outside_the_scale_are_left_out_at_their_node_and_refuse_no_run(tmp_path: Path) -> None:
    fr.load_data(DATA).to_frame().write_parquet(tmp_path / "ratings.parquet")
    train_run(small_plan("biased-mf", data={"source": str(tmp_path / "ratings.parquet")}), tmp_path / "alone")
    plan = Plan.read(tmp_path / "alone" / "plan.yaml")
    owners = Owners(tmp_path, plan, NODES)
    good = pl.read_parquet(tmp_path / "node-1.parquet")
    odd = [good.head(1).with_columns(user_id=pl.lit(9000 + n, pl.Int64), rating=pl.lit(r, pl.Float32))
           for n, r in enumerate((-5.0, 0.5, 5.5))]  # fmt: skip
    pl.concat([*odd, good]).write_parquet(tmp_path / "node-1.parquet")
    owners.train(plan, tmp_path / "run")
    assert model_files(tmp_path / "run") == model_files(tmp_path / "alone")


def test_the_coordinator_holds_no_users(local: Any, tmp_path: Path) -> None:
    alone, _ = local("mf")
    plan = Plan.read(alone / "plan.yaml")
    Owners(tmp_path, plan, NODES).train(plan, tmp_path / "run")
    left = sorted(str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert [name for name in left if name.startswith("private/")] == ["private/federation.json"]
    with pytest.raises(RunError, match="models/latest"):
        open_run(tmp_path / "run")
    assert verify_run(tmp_path / "run").wrong is None


def test_a_finished_run_that_is_resumed_says_so_again(local: Any, tmp_path: Path) -> None:
    alone, _ = local("mf")
    plan = Plan.read(alone / "plan.yaml")
    owners = Owners(tmp_path, plan, NODES)
    first = owners.train(plan, tmp_path / "run")
    files = model_files(tmp_path / "run")
    kept = {name: owners.model_at(name).stat().st_ino for name in owners.names}
    again = owners.train(plan, tmp_path / "run", resume=True)
    assert again["metrics"] == first["metrics"]
    assert model_files(tmp_path / "run") == files
    assert {name: owners.model_at(name).stat().st_ino for name in owners.names} == kept


def test_a_run_that_began_in_the_clear_is_not_resumed_as_if_it_were_masked(local: Any, tmp_path: Path) -> None:
    alone, _ = local("ease")
    plan = Plan.read(alone / "plan.yaml")
    owners = Owners(tmp_path, plan, NODES)
    owners.train(plan, tmp_path / "run")
    owners.secure = True
    with pytest.raises(RunError, match="began with sums in the clear"):
        owners.train(plan, tmp_path / "run", resume=True)


def private_plan(model: dict[str, Any], noise: str, **changes: Any) -> Plan:
    return Plan.make(
        {
            "data": {"source": DATA},
            "model": model,
            "privacy": {"epsilon": 8.0, "delta": 1e-4, "clip": 1.0, "users": 240, "noise": noise, **changes},
            "seed": 5,
        }
    )


@pytest.mark.parametrize(
    ("way", "model"),
    in_turn(
        [("central", False), ("central", True), ("distributed", True)],
        [{"name": "mf", "embedding_size": 4, "rounds": 2}, {"name": "ease"}],
    ),
)
def test_a_private_run_charges_every_owner_once(way: tuple[str, bool], model: dict[str, Any], tmp_path: Path) -> None:
    noise, secure = way
    plan = private_plan(model, noise)
    owners = Owners(tmp_path, plan, NODES, secure)
    agreed = plan.agree(owners.catalog, 1024)
    report = owners.train(agreed, tmp_path / "run")
    charged = report["rounds"]
    assert charged == len(agreed.build_model().budget_shares)
    for node in owners.names:
        budget = owners.config(node).open_budget()
        assert budget.runs(node) == 1
    owners.train(agreed, tmp_path / "run", resume=True)
    for node in owners.names:
        assert owners.config(node).open_budget().runs(node) == 1
    assert report["privacy"]["epsilons"]["cohort"] <= 8.0 * (1 + 1e-6)
    assert (report["metrics"] == {}) == (noise == "distributed")
    assert verify_run(tmp_path / "run").wrong is None


def test_a_lifetime_budget_holds_over_runs(tmp_path: Path) -> None:
    plan = private_plan({"name": "ease"}, "central")
    owners = Owners(tmp_path, plan, NODES)
    config = owners.config

    def limited(name: str) -> Any:
        chosen = config(name)
        floors = chosen.privacy.model_copy(update={"epsilon": 9.0, "delta": 1e-4})
        return chosen.model_copy(update={"privacy": floors})

    owners.config = limited  # type: ignore[method-assign]
    agreed = plan.agree(owners.catalog, 1024)
    owners.train(agreed, tmp_path / "first")
    with pytest.raises(PlanError, match="budget is 9"):
        owners.train(agreed, tmp_path / "second")
    assert not is_run(tmp_path / "second")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "temporal:0.8"}, "no party of a federation has"),
        ({"cohort": 50}, "give a share"),
        ({"data": {"source": DATA, "cleaning": {"k_core": 5}}}, "need all users' data"),
    ],
)
def test_what_only_all_data_together_can_tell_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    plan = small_plan("mf")
    owners = Owners(tmp_path, plan, NODES)
    with pytest.raises(PlanError, match=words):
        owners.train(Plan.make({**plan.model_dump(), **changes}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_agreed_plan_needs_no_data() -> None:
    catalog = fr.load_data(DATA).catalog
    plan = small_plan("mf").agree(catalog, 5000)
    assert (plan.n_max, plan.catalog, plan.data.digest) == (5000, catalog.digest, None)
    assert plan.agree(catalog, 1).digest == plan.digest
    with pytest.raises(PlanError, match="the digest of the catalog is"):
        plan.agree(fr.load_data("synthetic:users=40,items=100,interactions_per_user=10,seed=1").catalog, 5000)


ASYNCHRONOUS = {"name": "mf", "embedding_size": 8, "rounds": 6}


def test_a_buffer_of_all_nodes_has_the_bytes_of_plain_rounds(tmp_path: Path) -> None:
    plan = Plan.make({"data": {"source": DATA}, "model": ASYNCHRONOUS, "seed": 5})
    buffered = Plan.make(plan.model_dump() | {"asynchronous": {"buffer": NODES, "step": 1.0}})
    Owners(tmp_path / "a", plan).train(plan.agree(fr.load_data(DATA).catalog, 1024), tmp_path / "plain")
    found = Owners(tmp_path / "b", buffered).train(
        buffered.agree(fr.load_data(DATA).catalog, 1024), tmp_path / "buffered"
    )
    names = ("shared.safetensors", "catalog.jsonl")
    plain, other = model_files(tmp_path / "plain"), model_files(tmp_path / "buffered")
    assert {name: plain[name] for name in names} == {name: other[name] for name in names}
    assert found["rounds"] == 6


def test_slow_nodes_of_a_federation_are_not_waited_for(tmp_path: Path) -> None:
    plan = Plan.make({"data": {"source": DATA}, "model": ASYNCHRONOUS, "seed": 5, "asynchronous": {"buffer": 2}})
    owners = Owners(tmp_path, plan)
    slow = owners.names[0]

    def dawdle(name: str, frame: bytes, answer: Any) -> bytes:
        kind = open_request(frame, COORDINATOR.public(), 1 << 30)[0].kind
        if name == slow and kind == "contribute":
            time.sleep(0.7)
        return bytes(answer(frame))

    members = Members("owners", COORDINATOR, owners.public, owners.catalog, 1024)
    agreed = plan.agree(owners.catalog, 1024)
    report = train_federated(agreed, tmp_path / "run", members, LocalPost(owners.hosts(), dawdle), waiting=PATIENT)
    lines = Ledger(tmp_path / "run" / "ledger.jsonl", rooted=True).of_kind("round")
    parts = [part for line in lines for part in line["parts"]]
    assert report["rounds"] == 6
    assert all(len(line["parts"]) == 2 for line in lines)
    assert sum(part["node"] == slow for part in parts) < sum(part["node"] == owners.names[1] for part in parts)
    assert all(fr.load_model(owners.model_at(name)) for name in owners.names)
    again = train_federated(agreed, tmp_path / "run", members, LocalPost(owners.hosts()), waiting=PATIENT, resume=True)
    assert again["metrics"] == report["metrics"]


def test_an_asynchronous_run_goes_on_after_the_coordinator_ended(tmp_path: Path) -> None:
    plan = Plan.make({"data": {"source": DATA}, "model": ASYNCHRONOUS, "seed": 5, "asynchronous": {"buffer": 2}})
    owners = Owners(tmp_path, plan)
    members = Members("owners", COORDINATOR, owners.public, owners.catalog, 1024)

    def stop(progress: Any) -> None:
        if progress.round == 2:
            raise KeyboardInterrupt

    hosts = owners.hosts()
    agreed = plan.agree(owners.catalog, 1024)
    with pytest.raises(KeyboardInterrupt):
        train_federated(agreed, tmp_path / "run", members, LocalPost(hosts), waiting=PATIENT, watch=stop)
    report = train_federated(agreed, tmp_path / "run", members, LocalPost(hosts), waiting=PATIENT, resume=True)
    rounds = [line["round"] for line in Ledger(tmp_path / "run" / "ledger.jsonl", rooted=True).of_kind("round")]
    assert rounds == list(range(6))
    assert report["rounds"] == 6
    assert verify_run(tmp_path / "run").wrong is None


def test_nobody_is_asked_any_more_once_training_has_failed(tmp_path: Path) -> None:
    plan = Plan.make({"data": {"source": DATA}, "model": ASYNCHRONOUS, "seed": 5, "asynchronous": {"buffer": NODES}})
    owners = Owners(tmp_path, plan)
    members = Members("owners", COORDINATOR, owners.public, owners.catalog, 1024)
    gone, asked = owners.names[0], []

    def interfere(name: str, frame: bytes, answer: Any) -> bytes | Failure:
        kind = open_request(frame, COORDINATOR.public(), 1 << 30)[0].kind
        asked.append(kind)
        return Failure("gone", "it is not up") if (name, kind) == (gone, "contribute") else bytes(answer(frame))

    waiting = Waiting(deadline=0.2, pause=0.01, reconnect_timeout=0.0, sign=1.0, max_retries=0)
    before = set(threading.enumerate())
    with pytest.raises(RunError, match="no node answered"):
        train_federated(
            plan.agree(owners.catalog, 1024), tmp_path / "run", members, LocalPost(owners.hosts(), interfere),
            waiting=waiting,
        )  # fmt: skip
    known = len(asked)
    for thread in set(threading.enumerate()) - before:
        thread.join(5.0)
        assert not thread.is_alive()
    assert len(asked) <= known + 1, "more than what was on its way"


def test_buffers_are_not_masked(tmp_path: Path) -> None:
    plan = Plan.make({"data": {"source": DATA}, "model": ASYNCHRONOUS, "seed": 5, "asynchronous": {"buffer": 2}})
    with pytest.raises(PlanError, match="the coordinator can read a sum"):
        Owners(tmp_path, plan, secure=True).train(plan, tmp_path / "run")


def test_data_that_changed_in_the_middle_of_a_run_is_refused(tmp_path: Path) -> None:
    plan = Plan.make({"data": {"source": DATA}, "model": ASYNCHRONOUS, "seed": 5})
    owners = Owners(tmp_path, plan)

    def stop(progress: Any) -> None:
        if progress.round == 2:
            raise KeyboardInterrupt

    members = Members("owners", COORDINATOR, owners.public, owners.catalog, 1024)
    agreed = plan.agree(owners.catalog, 1024)
    with pytest.raises(KeyboardInterrupt):
        train_federated(agreed, tmp_path / "run", members, LocalPost(owners.hosts()), waiting=PATIENT, watch=stop)
    name = owners.names[0]
    rows = owners.data[name].to_frame()
    rows.head(rows.height - 30).write_parquet(owners.folder / f"{name}.parquet")
    with pytest.raises(PlanError, match=f"{name}: .*data changed since the run was opened"):
        owners.train(agreed, tmp_path / "run", resume=True)
    rows.write_parquet(owners.folder / f"{name}.parquet")
    assert owners.train(agreed, tmp_path / "run", resume=True)["rounds"] == 6


def test_the_same_refusal_of_all_nodes_is_said_once(tmp_path: Path) -> None:
    plan = Plan.make({"data": {"source": DATA}, "model": {"name": "ease"}, "seed": 5})
    owners = Owners(tmp_path, plan)
    owners.policy["models"] = ["popularity"]
    with pytest.raises(PlanError, match=r"^node-0, node-1 and node-2: [^;]*ease[^;]*$"):
        owners.train(plan.agree(owners.catalog, 1024), tmp_path / "run")


def test_a_source_that_is_not_the_one_its_owner_named_is_refused_without_a_word_on_it(tmp_path: Path) -> None:
    plan = Plan.make({"data": {"source": DATA}, "model": {"name": "ease"}, "seed": 5})
    owners = Owners(tmp_path, plan)
    agreed = plan.agree(owners.catalog, 1024)
    name = owners.names[0]
    source = owners.folder / f"{name}.parquet"
    named = load_source(source).digest
    owners.digests[name] = named
    assert owners.train(agreed, tmp_path / "run")["rounds"] == 1
    rows = pl.read_parquet(source)
    rows.head(rows.height - 30).write_parquet(source)
    with pytest.raises(PlanError, match=f"{name}: .*does not match data.digest") as refused:
        owners.train(agreed, tmp_path / "other")
    for secret in (named[:12], load_source(source).digest[:12], source.name):
        assert secret not in str(refused.value)


def as_a_folder(owners: Owners, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the folder of a federation, and the road to its nodes, be these owners in this process."""
    members = Members("owners", COORDINATOR, owners.public, owners.catalog, 1024)
    there = SimpleNamespace(members=members, waiting=PATIENT, admin_kit=None, check_own_kits=lambda tell: None)
    monkeypatch.setattr("fedrec.deploy.folder.FederationFolder.open", lambda path: there)
    post = LocalPost(owners.hosts())
    post.close = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr("fedrec.network.nvflare.post.NvflarePost", lambda *_, **__: post)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_a_federation_is_trained_from_python_as_by_the_command(
    secure: bool, local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, report = local("ials")
    plan = Plan.read(alone / "plan.yaml")
    as_a_folder(Owners(tmp_path, plan, NODES, secure), monkeypatch)
    shops = fr.Federation(tmp_path)
    assert shops.nodes == ("node-0", "node-1", "node-2")
    assert shops.report is None
    asked = {key: value for key, value in plan.model_dump().items() if key != "data"}
    model = shops.train(asked, tmp_path / "run", secure=secure)
    shared = "shared.safetensors"
    assert model_files(tmp_path / "run")[shared] == model_files(alone)[shared]
    assert shops.report is not None
    assert shops.report["metrics"] == report["metrics"]
    assert model.similar(1, n=3).height == 3
    assert model.recommend(history={"user_id": [1, 1], "item_id": [2, 3]}, n=4).height == 4
    with pytest.raises(RunError, match="their users are with them"):
        model.recommend([1])
    again = shops.train(asked, tmp_path / "run", resume=True)
    assert again.shared.keys() == model.shared.keys()


def test_an_estimator_may_say_what_a_federation_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan.make({"data": {"source": DATA}, "model": {"name": "ease"}, "seed": 5})
    as_a_folder(Owners(tmp_path, plan, NODES), monkeypatch)
    shops = fr.Federation(tmp_path)
    shops.train(fr.EASE(reg=40, plan={"split": "leave-last-out"}), tmp_path / "run")
    asked = Plan.read(tmp_path / "run" / "plan.yaml")
    assert (asked.model["reg"], asked.split, asked.data.source) == (40, "leave-last-out", "federation")
    with pytest.raises(
        InputError, match="plan must be a mapping of plan keys, the path of a plan, or an estimator, not int"
    ):
        shops.train(3, tmp_path / "other")  # type: ignore[arg-type]


def test_what_is_no_federation_is_told() -> None:
    with pytest.raises(InputError, match="nowhere"):
        fr.Federation("nowhere")


def test_every_sum_that_becomes_readable_is_counted_those_of_measurements_too(tmp_path: Path) -> None:
    evaluation = {"every": 2, "metrics": ["ndcg@10"]}
    model = {"name": "mf", "embedding_size": 4, "rounds": 4}
    plan = Plan.make({"data": {"source": DATA}, "model": model, "seed": 5, "evaluation": evaluation})
    read = {}
    for secure in (False, True):
        owners = Owners(tmp_path / str(secure), plan, NODES, secure)
        report = owners.train(plan.agree(owners.catalog, 1024), tmp_path / f"run-{secure}")
        read[secure] = report["federation"]["read"]
        saved = json.loads((tmp_path / f"run-{secure}" / "report.json").read_text())
        assert saved["federation"]["read"] == read[secure]
    sums = 4 + 2 + 2  # rounds, validations, and valid and test at the end
    assert (read[False]["of_single_nodes"], read[False]["totals"]) == (NODES * sums, 0)
    assert (read[True]["of_single_nodes"], read[True]["totals"]) == (0, sums)
    assert read[True]["fewest_nodes_in_a_total"] == NODES
    assert read[False]["fewest_nodes_in_a_total"] is None
    assert read[True]["most_masked_bytes_of_a_node"] > 0


REASONS = ["x", "each x", "node a: x", "node b: x", "node a x", "node b x"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(REASONS)))
def test_no_node_is_lost_where_reasons_are_said_once(said: dict[str, str]) -> None:
    heads = [part.partition(": ")[0] for part in by_reason(said).split("; ")] if said else []
    named = [name for head in heads for name in head.replace(" and ", ", ").split(", ")]
    assert sorted(named) == sorted(said)
