"""What opening a run tells: nothing exact of users under privacy, and not often."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation_in_test import COORDINATOR, RUN, STRANGER, Federation, small_plan
from fedrec.data.cleaning import Cleaning
from fedrec.data.keys import KeyedSource
from fedrec.errors import DamagedError, PlanError
from fedrec.federation.calls import RoundCall
from fedrec.federation.plan import Plan
from fedrec.node.opening import honest_of
from fedrec.node.openings import Openings
from fedrec.owner.policy import refusals
from fedrec.privacy.chance import SYSTEM
from fedrec.privacy.protection import Protection
from lying_in_test import Liar, declared_clients, manifest_of
from owners_in_test import KEYS, PRIVATE, owned, planned

HIDDEN = {"epsilon": 1.0, "delta": 1e-6, "users": 240, "noise": "distributed"}
DAY = 86_400


def hidden_plan(**changes: Any) -> Plan:
    settings = {"cohort": 1.0, "split": "none", "min_clients": 32, "privacy": HIDDEN}
    return small_plan({"name": "popularity"}, **(settings | changes))


def federation_of(folder: Path, plan: Plan, **policy: Any) -> Federation:
    return Federation(folder, plan, secure=True, policy={"secure": True, "min_clients": 32, **policy})


def keep_users(federation: Federation, most: int) -> None:
    """Leave node-0 with fewer users."""
    frame = federation.data["node-0"].to_frame()
    users = frame["user_id"].unique(maintain_order=True).head(most)
    frame.filter(frame["user_id"].is_in(users.to_list())).write_parquet(federation.folder / "node-0.parquet")


def declared_first(federation: Federation, run: str = RUN) -> int:
    """How many clients node-0 declares in the first round's secure aggregation, by its advert."""
    liar, plan = Liar(federation), federation.plan
    reply = liar.open(plan, federation.catalog, run)
    assert reply.problem is None, reply.fields
    assert (reply.fields["valid"], reply.fields["test"]) == (False, False)
    assert plan.privacy is not None
    agreed = federation.agreement
    state = agreed.model.start(federation.catalog, {}, KeyedSource.from_seed(0))
    who, honest, _ = honest_of([str(key) for key in federation.public.values()])
    protection = Protection(plan.privacy, agreed.model, agreed.share, agreed.n_max, run, SYSTEM, (4, honest, who))
    spec = agreed.spec(state.shared, 0, protection.excess)
    assert spec is not None
    call = RoundCall(0, -1, state.shared, spec, agreed.share, privacy=protection.round_terms(0))
    reply = liar.call("contribute", call, run=run)
    assert reply.problem is None, reply.fields
    transcript = reply.fields["call"]
    manifest = manifest_of(federation, call, transcript, protection.charges[0].noise_multiplier, run)
    return declared_clients(liar, manifest, transcript, run)


# --- exact answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("users", [31, 32, 50, 5])
@pytest.mark.parametrize(("declared", "said"), [(None, 32), (12, 12)])
def test_where_sums_hide_in_noise_a_node_declares_its_owners_number_whatever_it_has(
    users: int, declared: int | None, said: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = {} if declared is None else {"declared_min_users": declared}
    federation = federation_of(tmp_path, hidden_plan(), **policy)
    keep_users(federation, users)
    with caplog.at_level(logging.WARNING, logger="fedrec.node"):
        assert declared_first(federation) == said
    assert (f"fewer than the {said} that this node declares" in caplog.text) == (users < said), "only the owner knows"


def test_where_sums_hide_in_noise_a_plan_for_fewer_users_than_there_are_is_not_told_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = federation_of(tmp_path, hidden_plan())
    assert federation.data["node-0"].n_users > 40
    hidden = hidden_plan(privacy={**HIDDEN, "users": 40}).agree(federation.catalog, 40)
    with caplog.at_level(logging.WARNING, logger="fedrec.node"):
        assert Liar(federation).open(hidden, federation.catalog).problem is None
    assert "more than the plan's n_max = 40" in caplog.text
    plain = small_plan({"name": "popularity"}, cohort=1.0, min_clients=32).agree(federation.catalog, 40)
    reply = Liar(federation).open(plain, federation.catalog, "f" * 16)
    assert "more users than the plan's n_max = 40" in str(reply.fields["text"])


@pytest.mark.parametrize(
    "cleaning",
    [{"min_user_interactions": 14}, {"rating_at_least": 3.0}, {"rating_at_most": 3.0}, {"merge_repeats": False}],
)
def test_a_private_plan_may_not_choose_how_a_node_cleans_its_data(cleaning: dict[str, Any], tmp_path: Path) -> None:
    data = {"source": "x", "cleaning": cleaning}
    plan = hidden_plan(data=data)
    federation = federation_of(tmp_path, hidden_plan())
    plan = plan.agree(federation.catalog, 1024)
    (federation.folder / "node-0.parquet").unlink()  # it is refused before data is read
    reply = Liar(federation).open(plan, federation.catalog)
    name, value = next(iter(cleaning.items()))
    assert reply.problem == "refused"
    assert f"policy.cleaning: the plan requests the cleaning {name} {value}" in str(reply.fields["text"])


def test_an_owner_may_name_the_cleaning_of_plans_or_the_plan_itself() -> None:
    cleaning = {"rating_at_least": 4.0}
    private = planned(privacy=PRIVATE, data={"source": "x", "cleaning": {**cleaning, "shrink_catalog": False}})
    open_to_all = planned(data={"source": "x", "cleaning": cleaning})

    def heads(config: Any, plan: Plan) -> list[str]:
        found = refusals(config, plan, coordinator=KEYS["coordinator"], secure=False, budget=None)
        return [text.partition(":")[0] for text in found]

    assert heads(owned(), private) == ["policy.cleaning"]
    assert heads(owned(policy__cleaning=cleaning), private) == []
    assert heads(owned(policy__plans=[private.digest]), private) == []
    assert heads(owned(policy__cleaning={"rating_at_least": 3.0}), private) == ["policy.cleaning"]
    assert heads(owned(policy__cleaning=cleaning), planned(privacy=PRIVATE)) == []
    assert heads(owned(), open_to_all) == []
    assert heads(owned(policy__cleaning={"rating_at_least": 3.0}), open_to_all) == ["policy.cleaning"]


@pytest.mark.parametrize(("own", "named"), [({"k_core": 2}, "k_core"), ({"min_item_interactions": 3}, "min_item_int")])
def test_an_owners_cleaning_across_users_does_not_go_with_private_plans(own: dict[str, int], named: str) -> None:
    config = owned(data__cleaning=own)
    private, plain = planned(privacy=PRIVATE), planned()
    (said,) = refusals(config, private, coordinator=KEYS["coordinator"], secure=False, budget=None)
    assert said.startswith(f"data.cleaning: this node's own cleaning ({named}")
    assert refusals(config, plain, coordinator=KEYS["coordinator"], secure=False, budget=None) == []
    alone = owned(data__cleaning={"min_user_interactions": 3, "rating_at_least": 2.0})
    assert refusals(alone, private, coordinator=KEYS["coordinator"], secure=False, budget=None) == []


@pytest.mark.parametrize("pinned", [False, True])
def test_whether_a_few_items_were_touched_meanwhile_is_not_told(pinned: bool, tmp_path: Path) -> None:
    """A run that is opened again is refused for any change of the source, or for a change under the pinned catalog."""
    federation = federation_of(tmp_path, hidden_plan())
    few = federation.catalog.take(np.arange(2))
    if pinned:
        federation.policy["catalogs"] = [few.digest]
    plan = hidden_plan().agree(few, 1024)
    assert Liar(federation).open(plan, few).problem is None
    frame = federation.data["node-0"].to_frame()
    others = frame.filter(~frame["item_id"].is_in(few.items.series.to_list()))
    others_less = frame.join(others.head(1), on=["user_id", "item_id"], how="anti")
    others_less.write_parquet(federation.folder / "node-0.parquet")
    reply = Liar(federation).open(plan, few)
    assert (reply.problem is None) == pinned, "other items changed"


# --- how often ------------------------------------------------------------------------------------------------------


def test_a_coordinator_opens_so_many_runs_a_day_and_any_of_them_again(tmp_path: Path) -> None:
    federation = federation_of(tmp_path, hidden_plan(), openings_per_day=3)
    liar = Liar(federation)
    runs = [f"{number:016x}" for number in range(4)]
    for run in runs[:3]:
        assert liar.open(federation.plan, federation.catalog, run).problem is None
    reply = liar.open(federation.plan, federation.catalog, runs[3])
    assert reply.problem == "refused"
    assert "policy.openings_per_day: coordinator has opened 3 runs here within a day" in str(reply.fields["text"])
    folders = federation.folder / "node-0-home" / "runs"
    assert sorted(path.name for path in folders.iterdir()) == runs[:3], "a run that is not opened leaves nothing here"
    restarted = Liar(federation)
    assert restarted.open(federation.plan, federation.catalog, runs[1]).problem is None
    assert restarted.open(federation.plan, federation.catalog, runs[3]).problem == "refused"


def test_a_refused_plan_is_an_opening_too_and_is_noted_before_it_is_judged(tmp_path: Path) -> None:
    federation = federation_of(tmp_path, hidden_plan(), openings_per_day=1, models=["ease"])
    liar = Liar(federation)
    assert "policy.models" in str(liar.open(federation.plan, federation.catalog, "a" * 16).fields["text"])
    assert (federation.folder / "node-0-home" / "openings.jsonl").read_text().count("\n") == 1
    assert "openings_per_day" in str(liar.open(federation.plan, federation.catalog, "b" * 16).fields["text"])


def test_openings_count_for_a_day_and_for_one_coordinator(tmp_path: Path) -> None:
    now = [1_000_000.0]
    one, other = COORDINATOR.public(), STRANGER.public()
    openings = Openings(tmp_path / "home" / "openings.jsonl", 2, lambda: now[0])
    openings.admit("a", one)
    now[0] += DAY / 2
    openings.admit("b", one)
    with pytest.raises(PlanError, match="has opened 2 runs here within a day"):
        openings.admit("c", one)
    openings.admit("c", other)
    now[0] -= 3 * DAY
    with pytest.raises(PlanError):
        openings.admit("d", one)
    now[0] += 3 * DAY + DAY / 2
    Openings(tmp_path / "home" / "openings.jsonl", 2, lambda: now[0]).admit("d", one)
    with pytest.raises(PlanError):
        openings.admit("e", one)


def test_a_journal_of_openings_that_was_changed_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "openings.jsonl"
    path.write_text('{"kind":"opening","run":"a","coordinator":"00"}\n')
    with pytest.raises(DamagedError, match="line 1: run or time is missing or wrong; restore the file"):
        Openings(path, 2).admit("b", COORDINATOR.public())


def test_cleaning_says_which_of_its_steps_look_across_users() -> None:
    assert Cleaning(rating_at_least=3, min_user_interactions=2).across_users == ()
    assert Cleaning(k_core=2, min_item_interactions=2).across_users == ("min_item_interactions", "k_core")
