"""What an owner allows, in sentences that can be part of a contract."""

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
        run: identifier of the run.
        epsilon: epsilon that the run reserved, at the owner's delta; `None` if the owner set no delta.
        answered: number of rounds that the node has answered.
        rounds: agreed number of rounds.
    """

    run: str
    epsilon: float | None
    answered: int
    rounds: int | None

    def to_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return dict(vars(self))


def explain_policy(config: NodeConfig, budget: Budget) -> list[str]:
    """What the node allows, one paragraph for each subject, from the coordinator it obeys to its resource limits.

    Args:
        config: the owner's configuration.
        budget: the node's journal of privacy charges.
    """
    texts = {
        "Coordinator": _coordinator(config),
        "Other nodes": _other_nodes(config),
        "Plans": _plans(config),
        "Data": f"the node reads {_source(config)} and no other data. Only node.toml can change this: the node does "
        "not open the data source that a plan names, and a plan cannot contain code.",
        "What leaves this machine": _leaves(config),
        "What never leaves it": "interactions, user ids, model parameters of single users, recommendations, rows left "
        "out when the data was read, database passwords and secret keys.",
        "Privacy of users": _floors(config),
        "Privacy budget": _budget(config, budget),
        "Resource limits": _limits(config),
    }
    return [f"{head}: {text}" for head, text in texts.items()]


def cautions(config: NodeConfig, users: int | None = None) -> list[str]:
    """Warnings about settings that the owner may not have intended, one sentence each.

    Args:
        config: the owner's configuration.
        users: number of users in the data; `None` if the data was not read.
    """
    policy, floors = config.policy, config.privacy
    warnings = unprotected(config)
    declared = policy.declared_min_users or policy.min_clients
    if users is not None and users < declared:
        warnings.append(
            f"policy.declared_min_users: the node declares {declared} users in secure aggregation with privacy, and "
            f"the data has {users}; set a number that the data always has"
        )
    if users is not None and policy.max_clients is not None and users > policy.max_clients:
        warnings.append(
            f"policy.max_clients: the data has {users} users, more than the agreed {policy.max_clients} of all nodes "
            "together, so sums may overflow; agree on a larger number"
        )
    if config.data.cleaning.across_users:
        warnings.append(
            f"data.cleaning ({', '.join(config.data.cleaning.across_users)}) makes the rows of one user depend on "
            "other users, so the node refuses every plan with privacy"
        )
    if not policy.secure:
        warnings.append(
            "policy.secure is false: sums may leave unmasked, and the coordinator can then read the sums of this node "
            "alone"
        )
    if (floors.epsilon is not None or floors.required) and not floors.distributed:
        warnings.append(
            "privacy.distributed is false: in a plan with privacy the coordinator may add the noise, and sees the "
            "exact sums before"
        )
    if policy.secure and len(policy.parties) < 3:
        warnings.append(
            f"policy.parties has {len(policy.parties)} of the 3 or more keys that secure aggregation needs, including "
            "this node's own: the node refuses every plan until you add the keys of other nodes"
        )
    key = own_key(config)
    if key is None:
        warnings.append(f"{config.identity_path} does not exist: 'fedrec node init' makes the node's key")
    elif policy.parties and key.key not in config.pinned:
        warnings.append(f"policy.parties lacks this node's own key, {key}")
    if _others_read(config.home):
        warnings.append(f"other users of this machine can open {config.home}; run 'chmod 700 {config.home}'")
    return warnings


def unprotected(config: NodeConfig) -> list[str]:
    """The warning for an owner who allows plans without privacy; empty for any other owner."""
    if config.privacy.required:
        return []
    unpaid = "; such runs do not count in the privacy budget" if config.privacy.epsilon is not None else ""
    risk = "plans without privacy are allowed, and their exact sums can reveal what single users did"
    return [f"privacy.required is false: {risk}{unpaid}"]


def own_key(config: NodeConfig) -> PublicKey | None:
    """The node's public key; `None` if the node has no key file.

    Raises:
        InputError: if the file is not a key, or other users of the machine may read it.
    """
    if not config.identity_path.exists():
        return None
    return SigningKey.load(config.name, config.identity_path).public()


def run_losses(config: NodeConfig) -> list[RunLoss]:
    """What each run may cost the node's users, in the order in which the runs began.

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
    for line in lines:  # every line of the journal is about this node, whatever its name was at the time
        if line["kind"] == "open":
            square = float(line["reserved"])
            spent = 0.0 if square == 0 else None if delta is None else epsilon_of(1 / math.sqrt(square), delta, 1)
            charges = {other["round"] for other in lines if other["kind"] == "charge" and other["run"] == line["run"]}
            losses.append(RunLoss(line["run"], spent, len(charges), line["terms"].get("rounds")))
    return losses


def _coordinator(config: NodeConfig) -> str:
    if config.policy.coordinator is None:
        return "none. policy.coordinator has no key, so the node refuses every plan."
    return (
        f"the node obeys {_named(config.policy.coordinator)} only. This coordinator signs every request, and the node "
        "accepts each request once."
    )


def _other_nodes(config: NodeConfig) -> str:
    others = [text for text in config.policy.parties if PublicKey.parse(text).name != config.name]
    if not others:
        return "none. policy.parties has no key of another node, so this node takes part in no secure aggregation."
    named = ", ".join(map(_named, others))
    return (
        f"this node takes part in secure aggregation with {named} and with no other node. In secure aggregation at "
        "least three nodes mask their sums: the coordinator can read the total, but not the sum of a single node."
    )


def _plans(config: NodeConfig) -> str:
    policy = config.policy
    which = f"the {len(policy.plans)} plans listed in policy.plans" if policy.plans else "every plan"
    models = f" with a model of {', '.join(policy.models)}" if policy.models else ""
    refused = [
        text
        for text, allowed in (
            ("plans that let training see held-out interactions", policy.allow_leaky),
            ("plans that keep exact sums or continue an earlier run", policy.allow_updates),
        )
        if not allowed
    ]
    never = f" The node refuses {' and '.join(refused)}." if refused else ""
    catalog = (
        "The plan must use the agreed catalog."
        if policy.catalogs
        else "The coordinator may choose any catalog of items; policy.catalogs would allow the agreed catalog only."
    )
    most = (
        f"The plan must allow for at least {policy.max_clients} users of all nodes together."
        if policy.max_clients
        else "The coordinator may choose the maximum number of users, and can find out how many users this node has by "
        "trying several; policy.max_clients prevents that."
    )
    cleaned = (
        "Plans may request the cleaning in policy.cleaning, or no cleaning."
        if policy.cleaning is not None
        else "Plans with privacy may not request cleaning; other plans may request any."
    )
    often = (
        f"The coordinator may open {policy.openings_per_day} runs a day; the node records each in "
        f"{config.openings_path}."
    )
    return f"the node accepts {which}{models} that meets all rules below. {catalog} {most} {cleaned} {often}{never}"


def _source(config: NodeConfig) -> str:
    data = config.data
    part = f"table {data.table} of " if data.table is not None else ""
    if data.query is not None:
        part = "the result of the query in node.toml from "
    return f"{part}{redacted(data.source)}"


def _leaves(config: NodeConfig) -> str:
    policy = config.policy
    masked = (
        "Sums leave masked only: the coordinator can read the total of at least three nodes, but not the sum of this "
        "node"
        if policy.secure
        else "Sums may leave unmasked, and the coordinator can then read the sums of this node alone"
    )
    rare = (
        "A sum over many users can still show that a single user had a rare item."
        if policy.min_item_clients is None
        else f"In sums without noise, items with fewer than {policy.min_item_clients} users are left out: this node "
        "removes these items from unmasked sums; for masked sums the coordinator says which items they are."
    )
    return (
        "sums over users, for training, for counting items and for metrics. Every sum that the coordinator can read "
        f"covers at least {policy.min_clients} users. {masked}. Sums without noise are exact, and the coordinator can "
        f"subtract sums of different rounds and runs from each other. {rare} Besides sums, these facts leave: the "
        "node's name and public key, its version of fedrec, whether it has data to compute metrics on, when it "
        "answers, why it refuses, and salted digests of what it sent."
    )


def _floors(config: NodeConfig) -> str:
    floors, delta = config.privacy, config.privacy.delta
    allowed = (
        "every plan must promise user-level differential privacy"
        if floors.required
        else "plans without differential privacy are allowed too"
    )
    rules: list[str] = []
    if floors.max_run_epsilon is not None:
        rules.append(f"a run has an epsilon of at most {floors.max_run_epsilon} at delta {delta}")
    if floors.min_noise_multiplier is not None:
        rules.append(f"the noise of a round is at least {floors.min_noise_multiplier} times the clip")
    if floors.max_clip is not None:
        rules.append(f"the clip, the most that one user adds to a sum, is at most {floors.max_clip}")
    if floors.distributed:
        rules.append("the nodes add the noise themselves, before they mask their sums")
    cohort = (
        f" Every plan, with privacy or without, must expect at least {floors.min_cohort} clients in a round."
        if floors.min_cohort
        else ""
    )
    return f"{allowed}. In a plan with privacy: {'; '.join(rules) or 'no further rule'}.{cohort}"


def _budget(config: NodeConfig, budget: Budget) -> str:
    limits, spent, runs = budget.limits, budget.epsilon(config.name), budget.runs(config.name)
    many = f"{runs} run{'s' if runs != 1 else ''} with privacy"
    if limits is None:
        return f"not set. The node took part in {many}, and there is no limit on all runs together."
    left = max(0.0, limits.epsilon - spent)
    return (
        f"over all runs a user loses an epsilon of at most {limits.epsilon:g}, except with probability delta = "
        f"{limits.delta:g}. The node took part in {many}: epsilon {number(spent)} is spent and {number(left)} is left. "
        "The total grows by less than the epsilon of a run, so the epsilon of the next run may be larger than what is "
        "left."
    )


def _limits(config: NodeConfig) -> str:
    limits = config.limits
    many = "" if limits.threads == 1 else "s"
    threads = "all processor cores" if limits.threads is None else f"at most {limits.threads} thread{many}"
    memory = "all memory" if limits.memory_gb is None else f"at most {limits.memory_gb:g} GiB of memory"
    return (
        f"the node uses {threads} and {memory}, and accepts plans of at most {limits.rounds:,} rounds. It keeps its "
        f"files in {config.home}."
    )


def _named(text: str) -> str:
    key = PublicKey.parse(text)
    return f"{key.name} (key {key.hash.hex()})"


def _others_read(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
    except OSError:
        return False
