"""What a coordinator that lies gets out of a node: no more than the node's policy promises."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec as fr
from federation_in_test import MF, RUN, WAITING, Federation, small_plan
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.aggregation.wire import decode_sum
from fedrec.data.keys import KeyedSource
from fedrec.engines.local import LocalEngine
from fedrec.errors import DamagedError, FedrecError, PlanError, RunError
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.fitting import Fitting
from fedrec.federation.item_floor import SERVED, add_noise, floor_spec
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.base import State
from fedrec.models.linear.gram import gram_matrix
from fedrec.network.post import LocalPost
from fedrec.node.opening import honest_of
from fedrec.owner.config import PrivacyFloors
from fedrec.privacy.chance import SYSTEM
from fedrec.privacy.protection import Protection
from fedrec.privacy.shares import Stream, discrete_gaussian
from lying_in_test import Coming, Liar, declared_clients, manifest_of
from runs_in_test import MODELS

SECURE: dict[str, Any] = {"min_clients": 32, "secure": True}
EASE = small_plan({"name": "ease"}, cohort=1.0)
PRIVATE = {"epsilon": 2.0, "delta": 1e-6, "users": 240}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("fedrec.node").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("fedrec.node").setLevel(logging.NOTSET)


def started(plan: Plan, federation: Federation) -> State:
    return plan.build_model().start(federation.catalog, {}, KeyedSource.from_seed(1))


def first_call(federation: Federation) -> RoundCall:
    agreement, state = federation.agreement, started(federation.plan, federation)
    spec = agreement.spec(state.shared, 0)
    assert spec is not None
    return RoundCall(0, -1, state.shared, spec, agreement.share)


# --- budgets --------------------------------------------------------------------------------------------------------


def private_node(folder: Path) -> tuple[Liar, RoundCall]:
    """A node that adds its share of noise and has a budget of epsilon 8, and a round of a run that costs 2."""
    plan = small_plan(
        {"name": "ease"}, cohort=1.0, evaluation={"every": 0}, privacy={**PRIVATE, "noise": "distributed"}
    )
    federation = Federation(folder, plan, secure=True)
    host = federation.host("node-0")
    floors = PrivacyFloors(required=True, distributed=True, epsilon=8.0, delta=1e-6, max_run_epsilon=4.0)
    host.config = host.config.model_copy(update={"privacy": floors})
    plan = federation.plan
    assert plan.privacy is not None
    who, honest, _ = honest_of([str(key) for key in federation.public.values()])
    agreed, state = federation.agreement, started(plan, federation)
    protection = Protection(plan.privacy, agreed.model, agreed.share, agreed.n_max, RUN, SYSTEM, (4, honest, who))
    spec = agreed.spec(state.shared, 0, protection.excess)
    assert spec is not None
    return Liar(federation, host=host), RoundCall(
        0, -1, state.shared, spec, agreed.share, privacy=protection.round_terms(0)
    )


def test_a_round_is_charged_to_the_run_that_is_open(tmp_path: Path) -> None:
    liar, call = private_node(tmp_path)
    plan, catalog = liar.federation.plan, liar.federation.catalog
    assert liar.open(plan, catalog).problem is None
    assert liar.call("contribute", call).problem is None
    other = secrets.token_hex(16)
    assert liar.open(plan, catalog, other).problem is None
    said = liar.call("contribute", call, run=other)
    assert said.problem == "refused"
    assert "names another run than the open one" in said.fields["text"]


def test_runs_without_end_end_with_the_budget(tmp_path: Path) -> None:
    liar, call = private_node(tmp_path)
    assert call.privacy is not None
    opened = 0
    for _ in range(12):
        run = secrets.token_hex(16)
        if liar.open(liar.federation.plan, liar.federation.catalog, run).problem is not None:
            break
        said = liar.call("contribute", replace(call, privacy=replace(call.privacy, run=run)), run=run)
        opened += said.problem is None
    assert 4 <= opened < 12
    assert liar.host.config.read_budget().epsilon("node-0") <= 8.0


@pytest.mark.parametrize(
    "changes", [{"run": 7}, {"noise_multiplier": "x"}, {"delta": None}, {"honest": 1.5}, {"parties": 3}, {"clip": []}]
)
def test_terms_of_another_kind_are_no_terms_and_reach_no_journal(changes: dict[str, Any], tmp_path: Path) -> None:
    liar, call = private_node(tmp_path)
    plan, catalog = liar.federation.plan, liar.federation.catalog
    assert liar.open(plan, catalog).problem is None
    assert call.privacy is not None
    said = liar.call("contribute", replace(call, privacy=replace(call.privacy, **changes)))
    assert said.problem == "damaged"
    assert liar.open(plan, catalog, secrets.token_hex(16)).problem is None


def test_noise_cannot_be_made_to_overflow(tmp_path: Path) -> None:
    liar, call = private_node(tmp_path)
    assert liar.open(liar.federation.plan, liar.federation.catalog).problem is None
    arrays = tuple(replace(array, ring=64, scale_bits=63, bound=2.0) for array in call.spec.arrays)
    said = liar.call("contribute", replace(call, spec=SumSpec(arrays, call.spec.n_max)))
    assert said.problem == "refused"
    assert "another grid than the plan's" in said.fields["text"]
    assert liar.host.config.read_budget().epsilon("node-0") == pytest.approx(0.0), "nothing was charged for it"
    with pytest.raises(ValueError, match="deviations must be above 0"):
        discrete_gaussian(np.array([1.0, 2.0**60]), Stream(b"key").words)


# --- opening --------------------------------------------------------------------------------------------------------


def asked_for(federation: Federation, items: list[int], **changes: Any) -> tuple[Plan, Any]:
    catalog = federation.catalog.take(np.array(sorted(items)))
    settings = {"data": {"source": "x"}, "model": {"name": "ease"}, "privacy": {**PRIVATE, "noise": "distributed"}}
    return Plan.make(settings | changes).agree(catalog, 100_000), catalog


def test_whether_a_run_opens_says_nothing_of_single_users(tmp_path: Path) -> None:
    federation = Federation(tmp_path, EASE, secure=True, policy=SECURE)
    data = federation.data["node-0"]
    user = int(np.argmax(data.lengths))
    *known, last = data.items[data.indptr[user] : data.indptr[user + 1]].tolist()
    federation.policy["cleaning"] = {"min_user_interactions": len(known) + 1}
    liar, told = Liar(federation), set()
    for item in [last, *(item for item in range(60) if item not in known)][:8]:
        cleaning = {"min_user_interactions": len(known) + 1}
        plan, catalog = asked_for(federation, [*known, item], data={"source": "x", "cleaning": cleaning})
        said = liar.open(plan, catalog, secrets.token_hex(16))
        told.add((said.problem, *((key, value) for key, value in sorted(said.fields.items()) if key != "session")))
    assert told == {(None, ("min_clients", 32), ("seen", 0), ("test", False), ("valid", False))}


def test_a_node_with_nothing_left_is_as_one_that_adds_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path, EASE, secure=True, policy=SECURE)
    liar = Liar(federation)
    for name, settings in MODELS.items():
        if settings["name"] == "biased-mf":
            continue  # it needs ratings, and a node without any says so, whoever its users are
        cleaning = {"min_user_interactions": 200}
        plan, catalog = asked_for(
            federation, list(range(60)), data={"source": "x", "cleaning": cleaning}, model=settings, privacy=None
        )
        run, model = secrets.token_hex(16), plan.build_model()
        assert liar.open(plan, catalog, run).problem is None, name
        state = model.start(catalog, model.public(catalog), KeyedSource.from_seed(1))
        spec = model.spec(state.shared, 0)
        assert spec is not None
        said = liar.call("contribute", RoundCall(0, -1, state.shared, spec.fit(100_000), plan.share()), run=run)
        assert said.problem is None, (name, said.fields)
        assert liar.host._opened is not None
        shared = {"shared": liar.host._opened.shared[0]}
        for kind, fields in (("keep", {"committed": -1}), ("finish", {"committed": 0, "kept": 0})):
            said = liar.ask(kind, {**fields, **shared}, run=run)
            assert said.problem is None, (name, kind, said.fields)


@pytest.mark.parametrize("name", sorted({"mf", "fcf", "ease", "pfedrec", "spectral"}))
def test_a_round_has_the_arrays_and_the_grid_of_the_plan(name: str, tmp_path: Path) -> None:
    federation = Federation(tmp_path, small_plan(MODELS[name], cohort=1.0))
    liar, call = Liar(federation), first_call(federation)
    assert liar.open(federation.plan, federation.catalog).problem is None
    first = call.spec.arrays[0]
    fewer = replace(first, shape=(first.shape[0] - 1, *first.shape[1:]))
    for wrong in (fewer, replace(first, scale_bits=first.scale_bits + 1), replace(first, bound=first.bound * 2)):
        said = liar.call("contribute", replace(call, spec=replace(call.spec, arrays=(wrong, *call.spec.arrays[1:]))))
        assert said.problem == "refused"
        assert "other arrays or another grid" in said.fields["text"]
    assert liar.call("contribute", call).problem is None


def test_no_plan_is_for_fewer_users_than_the_floor(tmp_path: Path) -> None:
    federation = Federation(tmp_path, EASE, secure=True, policy=SECURE)
    plan, catalog = asked_for(federation, list(range(60)), n_max=1)
    said = Liar(federation).open(plan, catalog)
    assert said.problem == "refused"
    assert "every sum needs at least 32" in said.fields["text"]
    assert "100000" not in said.fields["text"]


def test_plain_sums_of_few_users_are_refused_in_the_same_words(tmp_path: Path) -> None:
    federation = Federation(tmp_path, EASE, policy={"min_clients": 32})
    liar, words = Liar(federation), set()
    for least in (8, 12, 200):  # some, few and no users have as many
        cleaning = {"min_user_interactions": least}
        plan, catalog = asked_for(
            federation, list(range(60)), data={"source": "x", "cleaning": cleaning}, privacy=None, min_clients=32
        )
        said = liar.open(plan, catalog, secrets.token_hex(16))
        words.add((said.problem, said.fields.get("text")))
    words -= {(None, None)}
    assert {problem for problem, _ in words} == {"refused"}
    assert {str(text).partition(";")[0] for _, text in words} == {
        "with this catalog and cleaning the node has fewer than 32 users, so its sums cannot leave unmasked"
    }


def test_held_out_parts_of_few_users_are_not_spoken_of(tmp_path: Path) -> None:
    federation = Federation(tmp_path, EASE, secure=True, policy=SECURE)
    liar, times = Liar(federation), federation.data["node-0"].times
    assert times is not None
    latest = float(np.sort(times)[-3])  # few interactions are later
    plan, catalog = asked_for(federation, list(range(60)), split=f"temporal@{latest},{latest}")
    assert liar.open(plan, catalog).fields["test"] is False


def test_what_owners_agreed_on_is_all_that_opens(tmp_path: Path) -> None:
    federation = Federation(tmp_path, EASE)
    plan, catalog = federation.plan, federation.catalog
    for policy, words in (
        ({"catalogs": ["0" * 64]}, "policy.catalogs: the plan has catalog"),
        ({"max_clients": 5000}, "policy.max_clients: the plan has n_max = "),
    ):
        federation.policy = {"min_clients": 20, **policy}
        said = Liar(federation).open(plan, catalog)
        assert said.problem == "refused"
        assert words in said.fields["text"]
    federation.policy = {"min_clients": 20, "catalogs": [catalog.digest], "max_clients": plan.n_max}
    assert Liar(federation).open(plan, catalog).problem is None


# --- masked parts ---------------------------------------------------------------------------------------------------


def test_a_masked_part_is_not_opened_again_for_nearly_the_same_round(tmp_path: Path) -> None:
    there = Coming(tmp_path, small_plan({**MF, "rounds": 2}, cohort=1.0))
    call = first_call(there.federation)
    there.engine.contribute(call)
    there.gone.add("node-3")
    moved = {name: array.copy() for name, array in call.shared.items()}
    moved["items"][0, 0] += 1e-6
    with pytest.raises(RunError, match="was opened together with node-3, and these nodes are missing now"):
        there.engine.contribute(call)
    with pytest.raises(RunError, match="shared array 'x'"):
        there.engine.contribute(replace(call, shared={**call.shared, "x": np.zeros(1, dtype=np.float32)}))
    with pytest.raises(PlanError, match="round 0 was asked for before under another transcript"):
        there.engine.contribute(replace(call, shared=moved))


def test_a_masked_measurement_is_not_opened_again_in_another_order(tmp_path: Path) -> None:
    plan = small_plan({"name": "popularity"}, cohort=1.0, evaluation={"metrics": ["ndcg@10", "recall@10"]})
    there = Coming(tmp_path, plan)
    shared = started(there.federation.plan, there.federation).shared
    most = there.federation.plan.n_max
    assert most is not None
    metrics = parse_metrics(["ndcg@10", "recall@10"])
    call = EvaluationCall(-1, shared, "test", parse_protocol("full"), metrics, most)
    there.engine.evaluate(call)
    there.gone.add("node-3")
    with pytest.raises(FedrecError, match="recall@10, ndcg@10 are asked for; agreed were"):
        there.engine.evaluate(replace(call, metrics=metrics[::-1]))
    with pytest.raises(RunError, match="these nodes are missing now"):
        there.engine.evaluate(call)
    with pytest.raises(PlanError, match="test metrics after round -1 was asked for before under another transcript"):
        there.engine.evaluate(replace(call, shared={"counts": shared["counts"] + 1}))


def test_a_sum_is_not_the_part_of_one_node_with_others_that_have_none(tmp_path: Path) -> None:
    federation = Federation(tmp_path, EASE, secure=True, policy={"secure": True})
    items = np.unique(federation.data["node-0"].items)[:3]
    for name in federation.names[1:]:
        mine = federation.data[name]
        mine.where(~np.isin(mine.items, items)).to_frame().write_parquet(tmp_path / f"{name}.parquet")
    federation.catalog = federation.catalog.take(items)
    federation.plan = EASE.agree(federation.catalog, 1024)
    outcome = federation.train(LocalPost(federation.hosts()), waiting=replace(WAITING, max_retries=0))
    assert isinstance(outcome.error, RunError)
    assert "0 of 20, without the largest declarations" in str(outcome.error)


@pytest.mark.parametrize(("item_users", "declared", "said"), [(20, None, 0), (60, None, 32), (20, 15, 15), (10, 15, 0)])
def test_a_node_declares_its_owners_number_or_none(
    item_users: int, declared: int | None, said: int, tmp_path: Path
) -> None:
    policy = SECURE if declared is None else {**SECURE, "declared_min_users": declared}
    federation = Federation(tmp_path, small_plan({"name": "popularity"}, cohort=1.0, min_clients=32), secure=True,
                            policy=policy)  # fmt: skip
    path = tmp_path / "node-0.parquet"
    frame = federation.data["node-0"].to_frame()
    users = frame["user_id"].unique(maintain_order=True).head(item_users)
    frame.filter(frame["user_id"].is_in(users.to_list())).write_parquet(path)
    if federation.data["node-0"].n_users < item_users:
        pytest.skip("the node has fewer users")
    liar, call = Liar(federation), first_call(federation)
    assert liar.open(federation.plan, federation.catalog).problem is None
    digest = liar.call("contribute", call).fields["call"]
    assert declared_clients(liar, manifest_of(federation, call, digest), digest) == said


# --- shared arrays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("name", MODELS)
def test_every_array_that_a_model_shares_fits(name: str, private: bool) -> None:
    settings: dict[str, Any] = {
        "data": {"source": "synthetic:users=240,items=60,interactions_per_user=12,seed=3,ratings=true"}
    }
    settings |= {"model": MODELS[name], "seed": 5}
    if private:
        if name not in ("content", "ease", "ials", "itemknn", "mf", "popularity", "slit", "spectral"):
            return
        model = {"name": MODELS[name]["name"], **({"rank": 12} if name in ("slit", "spectral") else {})}
        settings |= {"model": model, "privacy": {"epsilon": 20.0, "delta": 1e-4}}
    data = fr.load_data(settings["data"]["source"])
    plan = Plan.make(settings).resolve(data, "0" * 64)
    fitting, seen = Fitting(Agreement.of(plan, data.catalog)), []

    class Watched(LocalEngine):
        def contribute(self, call: RoundCall) -> list[Sum]:
            fitting.check(call.shared)
            seen.append(call.shared)
            return super().contribute(call)

    engine = Watched.build(data, plan, 2, "hash")
    trained = Coordinator(Agreement.of(plan, data.catalog), engine, Run(plan, None), False).train()
    fitting.check(trained.state.shared)
    assert seen
    for shared in (seen[-1], trained.state.shared):
        for key, array in shared.items():
            cut: Any = array[:1] if array.ndim else array
            for wrong in (cut.copy(), array.astype(np.complex64), np.concatenate([array, array])):
                if wrong.shape != array.shape or wrong.dtype != array.dtype:
                    with pytest.raises(DamagedError, match="shared array"):
                        fitting.check({**shared, key: wrong})
            if array.size:
                bad = array.copy()
                bad.reshape(-1)[0] = np.nan if array.dtype.kind == "f" else 10**6
                with pytest.raises(DamagedError, match="shared array"):
                    fitting.check({**shared, key: bad})
        with pytest.raises(DamagedError, match="shared array 'extra'"):
            fitting.check({**shared, "extra": np.zeros(1, dtype=np.float32)})


def test_arrays_that_go_together_are_equally_wide() -> None:
    data = fr.load_data("synthetic:users=240,items=60,interactions_per_user=12,seed=3")
    plan = Plan.make({"data": {"source": "x"}, "model": {"name": "itemknn"}}).resolve(data, "0" * 64)
    fitting, near = Fitting(Agreement.of(plan, data.catalog)), np.zeros((60, 8), dtype=np.int32)
    fitting.check({"neighbours": near, "similarities": np.zeros((60, 8), dtype=np.float32)})
    for first in ("neighbours", "similarities"):
        crafted: dict[str, np.ndarray] = {"neighbours": near, "similarities": np.zeros((60, 0), dtype=np.float32)}
        with pytest.raises(DamagedError, match="shared array"):
            fitting.check({first: crafted.pop(first), **crafted})
    with pytest.raises(DamagedError, match="shared array"):
        fitting.check({"neighbours": np.zeros((60, 61), np.int32), "similarities": np.zeros((60, 61), np.float32)})


@pytest.mark.parametrize("kind", ["contribute", "evaluate", "keep", "finish"])
def test_crafted_arrays_reach_no_kernel(kind: str, tmp_path: Path) -> None:
    federation = Federation(tmp_path, small_plan(MF))
    liar, call = Liar(federation), first_call(federation)
    assert liar.open(federation.plan, federation.catalog).problem is None
    cut = {"items": call.shared["items"][:1].copy()}
    if kind == "contribute":
        said = liar.call(kind, call, cut)
    else:
        most = federation.plan.n_max
        assert most is not None
        measuring = EvaluationCall(-1, cut, "test", parse_protocol("full"), parse_metrics(), most)
        said = liar.call(kind, measuring)
    assert said.problem == "damaged"
    assert "shared array 'items'" in said.fields["text"]
    assert liar.call("contribute", call).problem is None


def test_rounds_that_are_spoken_of_exist(tmp_path: Path) -> None:
    federation = Federation(tmp_path, small_plan(MF))
    liar, call = Liar(federation), first_call(federation)
    assert liar.open(federation.plan, federation.catalog).problem is None
    assert liar.call("contribute", call).problem is None
    began = time.monotonic()
    for kind, fields in (
        ("keep", {"committed": 10**15}),
        ("finish", {"committed": 10**15, "kept": 0}),
        ("finish", {"committed": 1, "kept": 2}),
        ("keep", {"committed": -2}),
    ):
        shared = {"shared": liar.host._opened.shared[0]} if liar.host._opened is not None else {}
        assert liar.ask(kind, {**fields, **shared}).problem == "refused"
    assert time.monotonic() - began < 5.0


# --- items ----------------------------------------------------------------------------------------------------------


def floored(folder: Path, **policy: Any) -> tuple[Liar, np.ndarray]:
    """A node of a run with a floor for items, and how many of its clients have each item."""
    plan = small_plan({"name": "ease"}, cohort=1.0, items={"least": 20, "noise": 4.0})
    federation = Federation(folder, plan, policy=policy)
    liar = Liar(federation)
    assert liar.open(federation.plan, federation.catalog).problem is None
    assert liar.host._opened is not None
    items = liar.host._opened.node.shards[0].clients.items
    return liar, np.bincount(items, minlength=len(federation.catalog))


def test_noise_on_counts_of_items_is_the_nodes_secret(tmp_path: Path) -> None:
    liar, exact = floored(tmp_path)
    plan = liar.federation.plan
    assert plan.items is not None
    assert plan.n_max is not None
    spec = floor_spec(len(exact), plan.items, plan.n_max)
    said = [decode_sum(liar.call("count", CountCall(spec, 4.0)).parts[0], spec) for _ in range(2)]
    assert np.array_equal(said[0].arrays["counts"], said[1].arrays["counts"]), "the same whenever it is asked"
    guessed = Sum.zeros(spec)
    add_noise(guessed, 4.0, KeyedSource.from_seed(plan.seed).child("item floor", "node-0"))
    unit = int(spec["counts"].unit)
    left = (said[0].arrays["counts"] - guessed.arrays["counts"]).reshape(-1) // unit
    assert np.count_nonzero(left != exact) > len(exact) / 2


def test_items_that_take_part_are_named_and_stay(tmp_path: Path) -> None:
    liar, exact = floored(tmp_path)
    call = first_call(liar.federation)
    said = liar.call("contribute", call)
    assert said.problem == "damaged"
    assert "'served' is missing" in said.fields["text"]
    served = exact >= 20
    assert liar.call("contribute", call, {**call.shared, SERVED: served}).problem is None
    said = liar.call("contribute", call, {**call.shared, SERVED: np.ones_like(served)})
    assert said.problem == "refused"
    assert "a run cannot change its items" in said.fields["text"]


def test_a_plain_sum_is_clear_of_items_of_few_clients_of_the_node(tmp_path: Path) -> None:
    liar, exact = floored(tmp_path, min_item_clients=20)
    call = first_call(liar.federation)
    said = liar.call("contribute", call, {**call.shared, SERVED: np.ones(len(exact), dtype=bool)})
    gram = gram_matrix(decode_sum(said.parts[0], call.spec), len(exact))
    assert 0 < np.count_nonzero(exact < 20) < len(exact)
    assert np.array_equal(np.diag(gram) > 0, exact >= 20)
