"""What an owner allows, in words that can stand in a contract."""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.documents import read_file
from fedrec.errors import DamagedError
from fedrec.owner.config import NodeConfig, redacted
from fedrec.privacy.accounting import epsilon_of
from fedrec.privacy.budget import Budget
from fedrec.privacy.words import number
from fedrec.record.keys import PublicKey, SigningKey
from fedrec.record.ledger import read_lines

__all__ = ["RunLoss", "cautions", "explain_policy", "own_key", "run_losses", "unprotected"]


@dataclass(frozen=True)
class RunLoss:
    """What one run may cost the users of a node.

    Args:
        run: its number.
        epsilon: that it reserved, at the owner's delta; `None` where the owner set none.
        answered: rounds that were answered so far.
        rounds: that were agreed on.
    """

    run: str
    epsilon: float | None
    answered: int
    rounds: int | None

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return dict(vars(self))


def explain_policy(config: NodeConfig, budget: Budget) -> list[str]:
    """Sentences: whose orders, in whose company, what is read, what leaves and what never does, and the floors.

    Args:
        config: the owner's.
        budget: its journal.
    """
    texts = {
        "Whose orders": _orders(config),
        "In whose company": _company(config),
        "Which plans": _plans(config),
        "What is read": f"{_source(config)}, and nothing else. Only this file says so: what a plan names as its data "
        "is not opened, and no plan brings code.",
        "What leaves this machine": _leaves(config),
        "What never leaves it": "interactions, the ids of users, what the model keeps for a single user, what a user "
        "is recommended, what was left out when data was read, the password of a database, and the secret keys.",
        "Privacy of users": _floors(config),
        "Budget": _budget(config, budget),
        "Limits": _limits(config),
    }
    return [f"{head}: {text}" for head, text in texts.items()]


def cautions(config: NodeConfig, users: int | None = None) -> list[str]:
    """What an owner may not have meant: one sentence each.

    Args:
        config: the owner's.
        users: of the data, where it was read.
    """
    policy, floors = config.policy, config.privacy
    found = unprotected(config)
    vouched = policy.vouch or policy.min_clients
    if users is not None and users < vouched:
        found.append(
            f"policy.vouch: the data has {users} users, and in private secure sums the node vouches for {vouched}; set "
            "a number of users that are surely here"
        )
    if users is not None and policy.most_clients is not None and users > policy.most_clients:
        found.append(
            f"policy.most_clients: the data has {users} users, more than all nodes together were to have, and sums may "
            "overflow; agree on another number"
        )
    if config.data.cleaning.across_users:
        found.append(
            f"data.cleaning ({', '.join(config.data.cleaning.across_users)}) looks across users, so every plan with "
            "privacy is refused"
        )
    if not policy.secure:
        found.append(
            "policy.secure is false, so a run may take this node's sums in the clear: its coordinator then sees them "
            "apart from those of the other nodes"
        )
    if (floors.epsilon is not None or floors.required) and not floors.distributed:
        found.append(
            "privacy.distributed is false: in a private run the coordinator may be the one who adds the noise, and "
            "then sees sums without it"
        )
    if policy.secure and len(policy.parties) < 3:
        found.append(
            f"sums leave masked only, which takes 3 pinned nodes with this one, and policy.parties has "
            f"{len(policy.parties)}: every plan is refused until the others' keys are added"
        )
    key = own_key(config)
    if key is None:
        found.append(f"{config.identity_path} is not there: 'fedrec node init' makes the node's key")
    elif policy.parties and key.key not in config.pinned:
        found.append(f"policy.parties lacks this node's own key, {key}")
    if _others_read(config.home):
        found.append(f"{config.home} may be read by others; chmod 700 {config.home}")
    return found


def unprotected(config: NodeConfig) -> list[str]:
    """The one sentence that an owner must hear who allows plans without privacy; nothing else."""
    if config.privacy.required:
        return []
    unpaid = ", and such runs cost nothing of the budget" if config.privacy.epsilon is not None else ""
    said = "plans that promise users nothing are allowed, and from exact sums one can work out what single users did"
    return [f"privacy.required is false: {said}{unpaid}"]


def own_key(config: NodeConfig) -> PublicKey | None:
    """The node's public key; `None` where it has no key file.

    Raises:
        InputError: if the file is not a key, or others may read it.
    """
    if not config.identity_path.exists():
        return None
    return SigningKey.load(config.name, config.identity_path).public()


def run_losses(config: NodeConfig) -> list[RunLoss]:
    """What each run may cost the node's users, in the order in which they began.

    Raises:
        DamagedError: if the journal was changed.
    """
    path = config.budget_path
    if not path.exists():
        return []
    try:
        data = read_file(path)
    except (OSError, ValueError) as error:
        raise DamagedError(f"budget {path} cannot be read: {error}") from None
    lines, _ = read_lines(data[: data.rfind(b"\n") + 1], str(path), rooted=False)
    delta = config.privacy.delta
    losses = []
    for line in lines:  # the journal is this node's alone, whatever it was called
        if line["kind"] == "open":
            square = float(line["reserved"])
            spent = 0.0 if square == 0 else None if delta is None else epsilon_of(1 / math.sqrt(square), delta, 1)
            charges = {other["round"] for other in lines if other["kind"] == "charge" and other["run"] == line["run"]}
            losses.append(RunLoss(line["run"], spent, len(charges), line["terms"].get("rounds")))
    return losses


def _orders(config: NodeConfig) -> str:
    if config.policy.coordinator is None:
        return "nobody's. No coordinator is pinned, so every plan is refused."
    return (
        f"those of {_named(config.policy.coordinator)} and of nobody else. Every order must carry its signature, and "
        "none counts twice."
    )


def _company(config: NodeConfig) -> str:
    others = [text for text in config.policy.parties if PublicKey.parse(text).name != config.name]
    if not others:
        return "nobody's. No other node is pinned, so this one takes part in no secure sum."
    named = ", ".join(map(_named, others))
    return (
        f"{named} may be in a secure sum with this node, and no other node. In such a sum three nodes or more mask "
        "what they send, and the coordinator learns the total and no node's part."
    )


def _plans(config: NodeConfig) -> str:
    policy = config.policy
    which = f"those {len(policy.plans)} whose digests are listed" if policy.plans else "any"
    models = f", of the models {', '.join(policy.models)}" if policy.models else ""
    refused = [
        text
        for text, allowed in (
            ("plans that tell training about held-out interactions", policy.allow_leaky),
            ("plans that keep exact sums or go on from an earlier run", policy.allow_updates),
        )
        if not allowed
    ]
    never = f" Refused: {' and '.join(refused)}." if refused else ""
    catalog = (
        "over the agreed catalog only"
        if policy.catalogs
        else "over any items that the coordinator names (policy.catalogs would pin the agreed ones)"
    )
    most = (
        f"for {policy.most_clients} users of all nodes together"
        if policy.most_clients
        else "for any number of users, by which a coordinator can find out how many are here (policy.most_clients)"
    )
    cleaned = (
        " Plans may clean the data as policy.cleaning says, or not at all."
        if policy.cleaning is not None
        else " Plans with privacy may not clean the data, others may."
    )
    often = f" The coordinator may open {policy.openings_per_day} runs a day; each is noted in {config.openings_path}."
    return f"{which}{models}, {catalog} and {most}, if the plan meets all that is said below.{cleaned}{often}{never}"


def _source(config: NodeConfig) -> str:
    data = config.data
    part = f"table {data.table} of " if data.table is not None else ""
    if data.query is not None:
        part = "what the query in this configuration selects from "
    return f"{part}{redacted(data.source)}"


def _leaves(config: NodeConfig) -> str:
    policy = config.policy
    masked = (
        "They leave masked only, so that their total over three nodes or more can be read and they cannot"
        if policy.secure
        else "They may leave as they are, and the coordinator may then read this node's sums by themselves"
    )
    rare = (
        " A sum over many users may still show that one of them had a rare item."
        if policy.min_item_clients is None
        else f" Items of fewer than {policy.min_item_clients} users are to stay out of sums without noise: this node "
        "clears them from what leaves in the clear; of masked sums the coordinator says which they are."
    )
    return (
        "sums over users: of training, of counts of items and of measuring. What can be read of them covers "
        f"{policy.min_clients} users or more. {masked}. Without noise sums are exact, and those of different rounds "
        f"and runs can be subtracted from each other.{rare} Besides: the node's name and public key, its version of "
        "fedrec, whether it has anything to measure on, when it answers, why it refuses, and salted digests of what "
        "it sent."
    )


def _floors(config: NodeConfig) -> str:
    floors, delta = config.privacy, config.privacy.delta
    first = (
        "only plans that promise user-level differential privacy are allowed"
        if floors.required
        else "plans that promise users nothing are allowed too"
    )
    least = [
        text
        for text, asked in (
            (f"a run costs users epsilon {floors.max_run_epsilon} at most, at delta {delta}", floors.max_run_epsilon),
            (f"a round has noise of {floors.min_noise_multiplier} per unit of clip or more",
             floors.min_noise_multiplier),
            (f"one user adds {floors.max_clip} at most", floors.max_clip),
            ("the nodes add the noise themselves, before they mask", floors.distributed or None),
        )
        if asked is not None
    ]  # fmt: skip
    cohort = f" By what a plan says, a round has {floors.min_cohort} clients or more." if floors.min_cohort else ""
    return f"{first}. Of a private plan: {'; '.join(least) or 'no floor is set'}.{cohort}"


def _budget(config: NodeConfig, budget: Budget) -> str:
    limits, spent, runs = budget.limits, budget.epsilon(config.name), budget.runs(config.name)
    many = f"{runs} private run{'s' if runs != 1 else ''}" if runs else "No private run"
    if limits is None:
        return f"none is set. {many} took place so far, and all of them together have no limit."
    left = max(0.0, limits.epsilon - spent)
    return (
        f"over all runs, users lose epsilon {limits.epsilon:g} at most, but for a chance of delta = {limits.delta:g}. "
        f"{many} took place so far; epsilon {number(spent)} is spent and {number(left)} is left. Losses do not add up "
        "one for one: what is left says how far the total may still rise."
    )


def _limits(config: NodeConfig) -> str:
    limits = config.limits
    threads = "all cores" if limits.threads is None else f"{limits.threads} thread{'s' if limits.threads != 1 else ''}"
    memory = "as much memory as there is" if limits.memory_gb is None else f"{limits.memory_gb:g} GiB of memory"
    return f"{threads}, {memory} and {limits.rounds:,} rounds of a plan. What the node keeps is in {config.home}."


def _named(text: str) -> str:
    key = PublicKey.parse(text)
    return f"{key.name} (key {key.hash.hex()})"


def _others_read(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
    except OSError:
        return False
