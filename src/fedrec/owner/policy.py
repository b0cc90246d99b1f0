"""What a node refuses: every reason why a plan may not run on its owner's data."""

from __future__ import annotations

from collections.abc import Sequence

from fedrec.data.splits import SplitMethod
from fedrec.errors import PlanError
from fedrec.federation.compatibility import broken_rules, place_of
from fedrec.federation.plan import Plan
from fedrec.owner.config import NodeConfig, public_key
from fedrec.owner.privacy_floors import expected_clients, privacy_refusals
from fedrec.owner.private_data import cleaning_refusals
from fedrec.privacy.budget import Budget
from fedrec.record.keys import PublicKey
from fedrec.secagg.graph import COLLUDING, floor_of, topology
from fedrec.secagg.policy import FEWEST_PARTIES
from fedrec.secagg.policy import Floors as SecureFloors

__all__ = ["admit", "refusals", "secure_floors"]


def admit(
    config: NodeConfig,
    plan: Plan,
    *,
    coordinator: str,
    parties: Sequence[str] = (),
    secure: bool,
    budget: Budget | None,
    users: int | None = None,
    items: int | None = None,
) -> None:
    """Check that the owner allows a plan; arguments as of `refusals`.

    Raises:
        PlanError: with every reason why not.
    """
    reasons = refusals(
        config, plan, coordinator=coordinator, parties=parties, secure=secure, budget=budget, users=users, items=items
    )
    if reasons:
        listed = reasons if len(reasons) == 1 else [f"({number}) {reason}" for number, reason in enumerate(reasons, 1)]
        raise PlanError(f"node {config.name} refuses the plan {plan.digest[:12]}…: {'; '.join(listed)}")


def refusals(
    config: NodeConfig,
    plan: Plan,
    *,
    coordinator: str,
    parties: Sequence[str] = (),
    secure: bool,
    budget: Budget | None,
    users: int | None = None,
    items: int | None = None,
) -> list[str]:
    """Every reason why the owner does not allow a plan: which floor, what is asked, and what could be changed.

    Reads no data, and says nothing of it: reasons may be sent to the coordinator.

    Args:
        config: the owner's.
        plan: as the coordinator signed it.
        coordinator: its public key.
        parties: public keys of the nodes of the secure sum, this one included.
        secure: whether sums leave masked.
        budget: the owner's journal; `None` for a run that has its reservation in it already.
        users, items: of the node's data and of the catalog, once they are known.
    """
    asked = plan.model.get("rounds")
    if isinstance(asked, int) and asked > config.limits.rounds:  # all that follows takes time that grows with them
        words = f"the plan has {asked:,} rounds, and this node takes part in {config.limits.rounds:,} at most"
        return [f"limits.rounds: {words}. Ask for fewer, or the owner raises limits.rounds"]
    return [
        *_who(config, coordinator, parties, secure),
        *_company(config, plan, parties, secure),
        *_what(config, plan),
        *cleaning_refusals(config, plan),
        *_sums(config, plan, secure, users),
        *privacy_refusals(config.privacy, config.name, plan, budget),
        *_resources(config, plan, items),
    ]


def secure_floors(config: NodeConfig, plan: Plan) -> SecureFloors:
    """What the node insists on in the secure sums of a plan, as a party.

    Raises:
        PlanError: if no coordinator is pinned.
    """
    if config.policy.coordinator is None:
        raise PlanError("policy.coordinator: none is pinned, so there is nobody whose sums could be joined")
    coordinator = PublicKey.parse(config.policy.coordinator).key
    clients = max(config.policy.min_clients, plan.min_clients)
    return SecureFloors(coordinator, config.pinned, clients=clients)


def _who(config: NodeConfig, coordinator: str, parties: Sequence[str], secure: bool) -> list[str]:
    """Whose orders, and in whose company."""
    policy = config.policy
    found: list[str] = []
    if policy.coordinator is None:
        found.append(
            "policy.coordinator: none is pinned, so nobody's orders are taken. The owner pins the coordinator's key, "
            "after checking it by another way"
        )
        return found
    try:
        asking = public_key(coordinator, "coordinator")
        keys = [public_key(text, f"party {number}") for number, text in enumerate(parties, 1)]
    except PlanError as error:
        return [str(error)]
    if PublicKey.parse(policy.coordinator).key != asking.key:
        found.append(
            f"policy.coordinator: {asking.name} ({asking.hash.hex()}) is not the pinned coordinator, "
            f"{_shown(policy.coordinator)}. Ask with that key, or the owner pins this one"
        )
    if not secure:
        return found
    strangers = [f"{key.name} ({key.hash.hex()})" for key in keys if key.key not in config.pinned]
    if strangers:
        found.append(
            f"policy.parties: {', '.join(strangers)} {'is' if len(strangers) == 1 else 'are'} not pinned, and may be "
            "the coordinator under another name. Leave them out, or the owner pins their keys, after checking them by "
            "another way"
        )
    if len({key.key for key in keys}) < FEWEST_PARTIES:
        found.append(
            f"parties: a secure sum hides a node among others and takes {FEWEST_PARTIES} different ones; the plan has "
            f"{len({key.key for key in keys})}"
        )
    own = {PublicKey.parse(text).key for text in policy.parties if PublicKey.parse(text).name == config.name}
    if not own:
        found.append(f"policy.parties: the node's own key, {config.name}+…, is not among them; the owner adds it")
    elif not own & {key.key for key in keys}:
        found.append(f"parties: {config.name} itself, by its pinned key, is not among those of the secure sum")
    return found


def _company(config: NodeConfig, plan: Plan, parties: Sequence[str], secure: bool) -> list[str]:
    """Whether a sum hides the node even if a tenth of the pinned nodes are the coordinator's, and all of them in it."""
    colluders = floor_of(COLLUDING, len(config.pinned))
    groups = 1 if plan.robust is None else plan.robust.groups or 1
    least = len(set(parties)) // groups
    if not secure or least < FEWEST_PARTIES:
        return []
    noise = plan.privacy is not None and plan.privacy.distributed
    if least >= colluders + 2 and not (noise and topology(least).colluders < colluders):
        return []
    words = f"{colluders} of the {len(config.pinned)} pinned nodes may be the coordinator's, and a sum of {least}"
    return [f"parties: {words} does not hide a node from so many. Ask for sums of more nodes"]


def _what(config: NodeConfig, plan: Plan) -> list[str]:
    """What is computed."""
    policy = config.policy
    found: list[str] = []
    if policy.catalogs and plan.catalog not in policy.catalogs:
        found.append(
            f"policy.catalogs: the plan's catalog {(plan.catalog or 'none')[:12]} is none of the "
            f"{len(policy.catalogs)} that are allowed. Ask with the catalog that was agreed on"
        )
    if policy.catalogs and plan.features is not None and plan.features not in policy.catalogs:
        found.append(
            "policy.catalogs: the plan's model learns from what the catalog says of the items, and the digest of that, "
            f"{plan.features}, is not allowed. Read what the catalog says, then add the digest"
        )
    if policy.most_clients is not None and (plan.n_max or 0) < policy.most_clients:
        found.append(
            f"policy.most_clients: the plan says that there are {plan.n_max} clients at most over all nodes; "
            f"{policy.most_clients} was agreed on"
        )
    if policy.plans and plan.digest not in policy.plans:
        found.append(
            f"policy.plans: the plan's digest {plan.digest} is not among the {len(policy.plans)} that are allowed. The "
            "owner may add it after reading the plan"
        )
    name = str(plan.model["name"])
    if policy.models and name not in policy.models:
        found.append(
            f"policy.models: model {name} is not allowed, {', '.join(policy.models)} "
            f"{'is' if len(policy.models) == 1 else 'are'}. Ask for one of these, or the owner adds it"
        )
    if plan.leaky and not policy.allow_leaky:
        found.append(
            "policy.allow_leaky: negatives: paper-leaky tells training about held-out interactions, so that its "
            "figures mean nothing. Ask for negatives: clean, or the owner sets policy.allow_leaky = true"
        )
    split = SplitMethod.parse(plan.split)
    if split.name == "temporal" and split.cuts is None:
        found.append(
            f"split: {plan.split} cuts at a time that only somebody who sees everybody's data could compute. Ask for "
            "temporal@T1,T2, two times in seconds"
        )
    if plan.warm_start is not None and plan.warm_start.digest is None:
        found.append(
            "warm_start: the plan names a folder of the coordinator's and no digest, so the node cannot know which run "
            "it goes on from. Ask with the digest"
        )
    if (plan.warm_start is not None or plan.keep_sums) and not policy.allow_updates:
        asked = " and ".join(
            text
            for text, asks in (
                ("keep_sums keeps exact sums over users at the coordinator, to be compared with later ones",
                 plan.keep_sums),
                ("warm_start may ask for the sum over those users alone whose history changed",
                 plan.warm_start is not None),
            )
            if asks
        )  # fmt: skip
        found.append(f"policy.allow_updates: {asked}. Leave it out, or the owner sets policy.allow_updates = true")
    return found


def _sums(config: NodeConfig, plan: Plan, secure: bool, users: int | None) -> list[str]:
    """Over how many clients what leaves the node is, and who may read it."""
    policy, floor = config.policy, config.policy.min_clients
    found: list[str] = []
    if policy.secure and not secure:
        found.append(
            "policy.secure: sums leave this node masked only, and the run is not a secure one. Ask for the secure sum, "
            "or the owner sets policy.secure = false"
        )
    if plan.n_max is not None and plan.n_max < max(floor, plan.min_clients):
        found.append(
            f"policy.min_clients: the plan says that there are {plan.n_max} clients at most over all nodes, and no sum "
            f"is over fewer than {max(floor, plan.min_clients)}. Ask with the number that was agreed on"
        )
    if plan.privacy is not None and (plan.privacy.users or 0) > (plan.n_max or 0):
        found.append(
            f"privacy.users: the plan speaks of {plan.privacy.users} users, and of {plan.n_max} clients at most over "
            "all nodes. Ask with n_max at least as large"
        )
    if plan.min_clients < floor:
        found.append(
            f"policy.min_clients: the plan lets out sums over {plan.min_clients} clients; the floor is {floor}. Raise "
            "the plan's min_clients, or the owner lowers policy.min_clients"
        )
    if plan.privacy is None and policy.min_item_clients is not None:
        least = None if plan.items is None else plan.items.least
        if least is None or least < policy.min_item_clients:
            asked = "lets every item take part" if least is None else f"lets items of {least} clients take part"
            found.append(
                f"policy.min_item_clients: the plan {asked}, so a sum may show that one user had a rare item; the "
                f"floor is {policy.min_item_clients}. Set items: {{least: {policy.min_item_clients}}} or privacy in "
                "the plan, or the owner lowers policy.min_item_clients"
            )
    found += broken_rules(plan.case, place_of(secure))
    if not secure and _drawn(plan, users) < floor:
        found.append(
            f"policy.min_clients: a round draws fewer than {floor} of this node's users as a rule, so its sums could "
            "not leave unmasked. Ask for the secure sum or a larger cohort, or the owner lowers policy.min_clients"
        )
    expected = expected_clients(plan)
    if secure and expected is not None and expected < floor:
        found.append(
            f"policy.min_clients: a round of all nodes expects {expected:g} clients, and the floor is {floor}. Ask for "
            "a larger cohort, or the owner lowers policy.min_clients"
        )
    measured = _measured(plan, users, secure)
    if measured is not None and measured < floor:
        found.append(
            f"policy.min_clients: {plan.split} measures on fewer than {floor} users, so metrics would be sums over too "
            "few. Hold out more users or split otherwise, or the owner lowers policy.min_clients"
        )
    return found


def _drawn(plan: Plan, users: int | None) -> float:
    """Clients of this node that a round draws, at most, as far as is known."""
    most = None if plan.privacy is None else plan.privacy.max_cohort
    known = [plan.n_max * plan.share() if plan.n_max is not None else None, most,
             None if users is None else users * plan.share()]  # fmt: skip
    return min((number for number in known if number is not None), default=float("inf"))


def _measured(plan: Plan, users: int | None, secure: bool) -> float | None:
    """Users that metrics are summed over, at most, as far as is known."""
    split = SplitMethod.parse(plan.split)
    there = plan.n_max if users is None or secure else users
    if there is None or split.name != "new-users" or split.share is None:
        return None
    return there * split.share


def _resources(config: NodeConfig, plan: Plan, items: int | None) -> list[str]:
    """What of the machine it would take."""
    if items is None:
        return []
    try:
        config.limits.check_model(plan.build_model(), items)
    except PlanError as error:
        return [str(error)]
    return []


def _shown(text: str) -> str:
    key = PublicKey.parse(text)
    return f"{key.name} ({key.hash.hex()})"
