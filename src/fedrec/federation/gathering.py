"""How the sum of a round comes to be: plainly, robustly, with noise, or from a buffer of sums as they arrive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedrec.aggregation.robust import Robust, robust_sum
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.aggregation.wire import encoded_size
from fedrec.federation.agreement import Agreement
from fedrec.federation.asynchronous import Buffering, arrivals_of
from fedrec.federation.calls import RoundCall
from fedrec.federation.engine import Engine
from fedrec.federation.run import Run
from fedrec.models.base import State
from fedrec.privacy.chance import Chance
from fedrec.privacy.protection import Protection

__all__ = ["Gathered", "Gathering", "counted", "gathering_of", "merged", "with_counting"]


@dataclass(frozen=True, eq=False)
class Gathered:
    """The sum of a round.

    Args:
        total: the sum, as the model may use it.
        line: what the ledger says of it.
    """

    total: Sum
    line: Mapping[str, Any]


class Gathering(ABC):
    """One way in which the sums of nodes become the sum of a round.

    `excess` is how much more noise the sum may have than the plan asks for, `start` what the first line of the ledger
    says of this way.
    """

    excess: float = 1.0
    start: Mapping[str, Any] = {}

    @abstractmethod
    def gather(self, call: RoundCall) -> Gathered:
        """Ask the nodes for their sums of a round, and make one of them."""

    def in_use(self) -> set[int]:
        """The rounds whose checkpoints are still needed, besides the last and the best."""
        return set()


class Plain(Gathering):
    """The sum over all nodes that took part.

    Args:
        engine: the nodes.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def gather(self, call: RoundCall) -> Gathered:
        """Add up the sums of the nodes."""
        sums = self.engine.contribute(call)
        total = merged(call.spec, sums, call.round)
        return Gathered(total, counted(total, call, sums) | _origins(sums, self.engine.took_part))


class Robustly(Gathering):
    """A robust mean over nodes, or over groups of nodes, times all clients.

    Args:
        engine: the nodes.
        how: the rule.
    """

    def __init__(self, engine: Engine, how: Robust) -> None:
        self.engine = engine
        self.how = how

    def gather(self, call: RoundCall) -> Gathered:
        """Ask for one sum a node, or a group, and apply the rule.

        Raises:
            PlanError: if there are fewer sums with clients than the rule needs.
        """
        sums = self.engine.contribute(replace(call, groups=self.how.groups or 1))
        total = robust_sum(call.spec, sums, call.round, self.how)
        return Gathered(total, counted(total, call, sums) | _origins(sums, self.engine.took_part))


class Noised(Gathering):
    """The sum over all nodes with noise, kept on the disk until the round is committed.

    A run that is resumed uses the same noise again. What the ledger says is public, so it has no exact count.

    Args:
        engine: the nodes.
        run: keeps the noised sum.
        protection: noise and charges.
    """

    def __init__(self, engine: Engine, run: Run, protection: Protection) -> None:
        self.engine = engine
        self.run = run
        self.protection = protection
        self.excess = protection.excess
        self.start = {"run": protection.run, "noise_is_secret": protection.chance.secure}

    def gather(self, call: RoundCall) -> Gathered:
        """Add up the sums of the nodes and add noise; or take the noised sum that a crash left.

        Raises:
            DamagedError: if what a crash left is not a noised sum of this round.
        """
        round, shared, protection = call.round, call.shared, self.protection
        kept = self.run.noised(round, call.spec, shared)
        if kept is None:
            sums = self.engine.contribute(replace(call, privacy=protection.round_terms(round)))
            released = protection.release(merged(call.spec, sums, round), shared)
            kept = dict(released.arrays), _origins(sums, self.engine.took_part)
            self.run.keep_noised(round, call.spec, shared, *kept)
        arrays, origins = kept
        total = Sum(call.spec, round, arrays, protection.clients, noise=protection.scales(shared, round))
        counts = {
            "cohort": protection.clients,
            "left_out": None,
            "saturated": None,
            "bytes": _dense_bytes(call),
        }
        return Gathered(total, {**counts, **origins, **protection.line(round)})


class Buffered(Gathering):
    """The sum of as many nodes as the plan asks for, each of the version of the model that the node worked on.

    Args:
        buffering: takes sums as they arrive.
    """

    def __init__(self, buffering: Buffering) -> None:
        self.buffering = buffering
        self.start = {"arrivals": buffering.arrivals.says}

    def gather(self, call: RoundCall) -> Gathered:
        """Let idle nodes begin with the newest version, and take sums until the buffer is full.

        Raises:
            PlanError: if there are fewer nodes than sums are asked for.
        """
        full = self.buffering.fill(call)
        return Gathered(full.total, counted(full.total, call, full.parts) | _origins(full.parts) | full.line)

    def in_use(self) -> set[int]:
        """The rounds whose models nodes still work on."""
        return self.buffering.in_use()


def gathering_of(
    agreement: Agreement, engine: Engine, run: Run, begin: Callable[[], State], chance: Chance
) -> Gathering:
    """The way in which a plan gathers sums.

    Args:
        agreement: the plan.
        engine: the nodes.
        run: its ledger and what a crash left of it.
        begin: makes the state before round 0.
        chance: where the noise of a private run comes from.

    Raises:
        PlanError: if the nodes of the engine cannot do what the plan asks for.
        RunError: if the run began with other arrivals.
    """
    plan = agreement.plan
    if plan.asynchronous is not None:
        return Buffered(Buffering(plan.asynchronous, arrivals_of(engine), run, begin))
    private = plan.private()
    if private is not None:
        terms, model = private
        started = run.ledger.of_kind("start")
        number = started[0]["run"] if started else engine.run or chance.secret("run").key.hex()
        share, n_max, parties = agreement.share, agreement.n_max, engine.parties
        return Noised(engine, run, Protection(terms, model, share, n_max, number, chance, parties))
    return Plain(engine) if plan.robust is None else Robustly(engine, plan.robust)


def merged(spec: SumSpec, sums: Sequence[Sum], round: int) -> Sum:
    """The sum over nodes."""
    total = Sum.zeros(spec, round)
    for part in sums:
        total.merge(part)
    return total


def with_counting(line: Mapping[str, Any], counted: Sum) -> dict[str, Any]:
    """What the ledger says of a round, with the bytes of the sum of counts of items that came before it."""
    moved = {kind: dict(ways) for kind, ways in line["bytes"].items()}
    moved["secure_per_party"]["up"] += counted.masked_bytes or 0
    return {**line, "bytes": moved}


def _origins(sums: Sequence[Sum], nodes: Sequence[str] = ()) -> dict[str, list[str]]:
    """What the ledger says of where a sum comes from: what nodes that keep receipts commit to, in the order of the
    nodes; which nodes took part, where that may change; and the transcript that these agreed on."""
    said = {
        "sums": [commitment for part in sums for commitment in part.commitments],
        "nodes": list(nodes),
        "transcript": sorted({part.transcript for part in sums if part.transcript}),
    }
    return {name: texts for name, texts in said.items() if texts}


def counted(total: Sum, call: RoundCall, sums: Sequence[Sum]) -> dict[str, Any]:
    """What the ledger counts in a round."""
    return {
        "cohort": total.clients,
        "left_out": total.left_out,
        "saturated": total.saturated,
        "bytes": _bytes(call, sums),
    }


def _bytes(call: RoundCall, sums: Sequence[Sum]) -> dict[str, dict[str, int]]:
    """What the node that sent most sent: plainly, and masked; the kind that did not happen is of dense arrays."""
    found = _dense_bytes(call)
    for part in sums:
        if part.masked_bytes is not None:
            found["secure_per_party"]["up"] = part.masked_bytes
            return found
    found["plain_per_node"]["up"] = max(encoded_size(part) for part in sums)
    return found


def _dense_bytes(call: RoundCall) -> dict[str, dict[str, int]]:
    down = sum(array.nbytes for array in call.shared.values()) + (0 if call.counts is None else call.counts.nbytes)
    return {kind: {"up": call.spec.nbytes, "down": down} for kind in ("plain_per_node", "secure_per_party")}
