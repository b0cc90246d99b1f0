"""Which plans a node refuses, with every reason."""

from __future__ import annotations

from collections.abc import Sequence

from fedrec.data.splits import SplitMethod
from fedrec.errors import PlanError
from fedrec.federation.compatibility import broken_rules, place_of
from fedrec.federation.plan import Plan
from fedrec.models.blend import names_in
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
    """Check that the owner allows a plan; the arguments are those of `refusals`.

    Raises:
        PlanError: if the owner does not allow the plan; the text has every reason.
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
    """Every reason why the owner does not allow a plan: the key of node.toml, what the plan requests, what to change.

    Reads no data and reveals no data, as the reasons may be sent to the coordinator.

    Args:
        config: the owner's configuration.
        plan: the plan that the coordinator signed.
        coordinator: public key of the coordinator.
        parties: public keys of the nodes of secure aggregation, this node included.
        secure: whether sums leave masked.
        budget: the owner's journal; `None` for a run whose reservation is in the journal already.
        users: number of users in the node's data; `None` if not known yet.
        items: number of items in the catalog; `None` if not known yet.
    """
    rounds = plan.build_model().rounds
    if rounds > config.limits.rounds:  # the time of all further checks grows with rounds
        words = f"the plan has {rounds:,} rounds, and this node accepts at most {config.limits.rounds:,}"
        return [f"limits.rounds: {words}. Use fewer rounds, or the owner raises limits.rounds"]
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
    """What the node requires of secure aggregation in a plan.

    Raises:
        PlanError: if `policy.coordinator` has no key.
    """
    if config.policy.coordinator is None:
        raise PlanError("policy.coordinator: set the coordinator's public key; without it the node joins no sum")
    coordinator = PublicKey.parse(config.policy.coordinator).key
    clients = max(config.policy.min_clients, plan.min_clients)
    return SecureFloors(coordinator, config.pinned, clients=clients)


def _who(config: NodeConfig, coordinator: str, parties: Sequence[str], secure: bool) -> list[str]:
    """Reasons against the coordinator and the other nodes."""
    policy = config.policy
    reasons: list[str] = []
    if policy.coordinator is None:
        reasons.append(
            "policy.coordinator: no key is set, so the node refuses every plan. The owner adds the coordinator's "
            "public key, after checking it by telephone or in person"
        )
        return reasons
    try:
        asking = public_key(coordinator, "coordinator")
        keys = [public_key(text, f"party {number}") for number, text in enumerate(parties, 1)]
    except PlanError as error:
        return [str(error)]
    if PublicKey.parse(policy.coordinator).key != asking.key:
        reasons.append(
            f"policy.coordinator: the plan comes from {asking.name} ({asking.hash.hex()}), and the node obeys "
            f"{_shown(policy.coordinator)} only. Use that key, or the owner changes policy.coordinator"
        )
    if not secure:
        return reasons
    strangers = [f"{key.name} ({key.hash.hex()})" for key in keys if key.key not in config.pinned]
    if strangers:
        reasons.append(
            f"policy.parties: the keys of {', '.join(strangers)} are not listed, and may belong to the coordinator. "
            "Leave these nodes out, or the owner adds their keys, after checking them by telephone or in person"
        )
    if len({key.key for key in keys}) < FEWEST_PARTIES:
        reasons.append(
            f"parties: secure aggregation needs at least {FEWEST_PARTIES} different nodes, and the plan has "
            f"{len({key.key for key in keys})}. Invite more nodes"
        )
    own = {PublicKey.parse(text).key for text in policy.parties if PublicKey.parse(text).name == config.name}
    if not own:
        reasons.append(f"policy.parties: the node's own key, {config.name}+…, is missing; the owner adds this key")
    elif not own & {key.key for key in keys}:
        reasons.append(
            f"parties: the key of {config.name} in policy.parties is not among the keys of secure aggregation. Use the "
            "key that the owner of this node gave"
        )
    return reasons


def _company(config: NodeConfig, plan: Plan, parties: Sequence[str], secure: bool) -> list[str]:
    """Whether a sum hides the node even if a tenth of the parties collude with the coordinator and are all in it."""
    colluders = floor_of(COLLUDING, len(config.pinned))
    groups = 1 if plan.robust is None else plan.robust.groups or 1
    smallest = len(set(parties)) // groups
    if not secure or smallest < FEWEST_PARTIES:
        return []
    noise = plan.privacy is not None and plan.privacy.distributed
    if smallest >= colluders + 2 and not (noise and topology(smallest).colluders < colluders):
        return []
    words = f"a sum of {smallest} nodes does not hide this node if {colluders} of the {len(config.pinned)} nodes in"
    return [f"parties: {words} policy.parties collude with the coordinator. Use sums of more nodes"]


def _what(config: NodeConfig, plan: Plan) -> list[str]:
    """Reasons against what the plan computes."""
    policy = config.policy
    reasons: list[str] = []
    if policy.catalogs and plan.catalog not in policy.catalogs:
        catalog = "no catalog" if plan.catalog is None else f"catalog {plan.catalog[:12]}…"
        reasons.append(
            f"policy.catalogs: the plan has {catalog}, which the owner does not allow. Use the agreed catalog, or the "
            "owner adds the digest of this catalog"
        )
    if policy.catalogs and plan.features is not None and plan.features not in policy.catalogs:
        reasons.append(
            "policy.catalogs: the plan's model learns from the features of the catalog, and their digest "
            f"{plan.features} is not listed. The owner may add the digest after reading the features"
        )
    if policy.max_clients is not None and (plan.n_max or 0) < policy.max_clients:
        most = "no n_max" if plan.n_max is None else f"n_max = {plan.n_max}"
        reasons.append(
            f"policy.max_clients: the plan has {most}, and the nodes agreed on {policy.max_clients} clients of all "
            f"nodes together. Set n_max to {policy.max_clients}, or the owner changes policy.max_clients"
        )
    if policy.plans and plan.digest not in policy.plans:
        reasons.append(
            f"policy.plans: the plan's digest {plan.digest} is not listed. The owner may add the digest after reading "
            "the plan"
        )
    unlisted = [name for name in names_in(plan.build_model()) if policy.models and name not in policy.models]
    if unlisted:
        names = " and ".join(unlisted)
        reasons.append(
            f"policy.models: model {names} is not listed. Use {' or '.join(policy.models)}, or the owner adds {names}"
        )
    if plan.leaky and not policy.allow_leaky:
        reasons.append(
            "policy.allow_leaky: negatives: paper-leaky lets training see held-out interactions, so its metrics are "
            "not valid. Use negatives: clean, or the owner sets policy.allow_leaky = true"
        )
    split = SplitMethod.parse(plan.split)
    if split.name == "temporal" and split.cuts is None:
        reasons.append(
            f"split: {plan.split} splits at times that depend on the data of all nodes, which nobody sees. Use "
            "temporal@T1,T2 with two times in seconds"
        )
    if plan.warm_start is not None and plan.warm_start.digest is None:
        reasons.append(
            "warm_start: the plan has no digest of the earlier run, so the node cannot check which run continues. Set "
            "warm_start.digest"
        )
    if (plan.warm_start is not None or plan.keep_sums) and not policy.allow_updates:
        uses: list[str] = []
        if plan.keep_sums:
            uses.append("keep_sums keeps exact sums at the coordinator, which can compare them with later sums")
        if plan.warm_start is not None:
            uses.append("warm_start may request the sum over those users only whose history changed")
        reasons.append(
            f"policy.allow_updates: {' and '.join(uses)}. Remove {'these keys' if len(uses) > 1 else 'this key'} from "
            "the plan, or the owner sets policy.allow_updates = true"
        )
    return reasons


def _sums(config: NodeConfig, plan: Plan, secure: bool, users: int | None) -> list[str]:
    """Reasons about the number of clients of a sum, and about who can read the sum."""
    policy, floor = config.policy, config.policy.min_clients
    reasons: list[str] = []
    if policy.secure and not secure:
        reasons.append(
            "policy.secure: sums leave this node masked only, and the run has no secure aggregation. Start the run "
            "with --secure, or the owner sets policy.secure = false"
        )
    if plan.n_max is not None and plan.n_max < max(floor, plan.min_clients):
        reasons.append(
            f"policy.min_clients: the plan has n_max = {plan.n_max}, and every sum needs at least "
            f"{max(floor, plan.min_clients)} clients. Set n_max to the agreed maximum number of clients"
        )
    if plan.privacy is not None and (plan.privacy.users or 0) > (plan.n_max or 0):
        most = "no n_max" if plan.n_max is None else f"n_max = {plan.n_max}"
        reasons.append(
            f"privacy.users: the plan has privacy.users = {plan.privacy.users} and {most}. Set n_max to at least "
            "privacy.users"
        )
    if plan.min_clients < floor:
        reasons.append(
            f"policy.min_clients: the plan allows sums over {plan.min_clients} clients, and this node needs at least "
            f"{floor}. Raise the plan's min_clients, or the owner lowers policy.min_clients"
        )
    if plan.privacy is None and policy.min_item_clients is not None:
        least = None if plan.items is None else plan.items.least
        if least is None or least < policy.min_item_clients:
            uses = "all items" if least is None else f"items with {least} clients"
            reasons.append(
                f"policy.min_item_clients: the plan uses {uses}, and this node needs {policy.min_item_clients} clients "
                "for each item, as a sum can show that one user had a rare item. Set items: "
                f"{{least: {policy.min_item_clients}}} or privacy in the plan, or the owner lowers "
                "policy.min_item_clients"
            )
    reasons += broken_rules(plan.case, place_of(secure))
    if not secure and _drawn(plan, users) < floor:
        reasons.append(
            f"policy.min_clients: most rounds draw fewer than {floor} of this node's users, so its sums cannot leave "
            "unmasked. Use secure aggregation or a larger cohort, or the owner lowers policy.min_clients"
        )
    expected = expected_clients(plan)
    if secure and expected is not None and expected < floor:
        reasons.append(
            f"policy.min_clients: a round of all nodes has about {expected:g} clients, and this node needs at least "
            f"{floor}. Use a larger cohort, or the owner lowers policy.min_clients"
        )
    measured = _measured(plan, users, secure)
    if measured is not None and measured < floor:
        reasons.append(
            f"policy.min_clients: split {plan.split} computes metrics on fewer than {floor} users. Hold out more "
            "users, use another split, or the owner lowers policy.min_clients"
        )
    return reasons


def _drawn(plan: Plan, users: int | None) -> float:
    """Upper bound of the number of this node's clients in a round; infinite if nothing bounds the number."""
    bounds = [
        None if plan.n_max is None else plan.n_max * plan.share(),
        None if plan.privacy is None else plan.privacy.max_cohort,
        None if users is None else users * plan.share(),
    ]
    return min((bound for bound in bounds if bound is not None), default=float("inf"))


def _measured(plan: Plan, users: int | None, secure: bool) -> float | None:
    """Upper bound of the number of users in a sum of metrics; `None` if nothing bounds the number."""
    split = SplitMethod.parse(plan.split)
    most = plan.n_max if users is None or secure else users
    if most is None or split.name != "new-users" or split.share is None:
        return None
    return most * split.share


def _resources(config: NodeConfig, plan: Plan, items: int | None) -> list[str]:
    """Reasons about the memory that the plan needs."""
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
