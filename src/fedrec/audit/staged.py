"""A federation of real nodes in this process, staged for a coordinator that lies: owners, their homes, their data."""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.interactions import Interactions
from fedrec.data.partitions import partition
from fedrec.errors import FedrecError, InputError
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import RoundCall
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.data_plan import DataPlan
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.base import Arrays, queries_of
from fedrec.network.post import LocalPost
from fedrec.network.remote import RemoteEngine
from fedrec.network.waiting import Waiting
from fedrec.node.host import NodeHost
from fedrec.owner.config import NodeConfig
from fedrec.privacy.accounting import epsilon_of
from fedrec.privacy.chance import SYSTEM, Chance
from fedrec.record.keys import SigningKey
from fedrec.secagg.policy import FEWEST_PARTIES

__all__ = ["Mode", "Staged", "modes_of", "stage"]

Mode = Literal["secure", "plain"]
_ROUNDS = 2
_BUDGET = 2.5
"""Runs of the plan that an owner's budget is enough for."""
_HONEST = Waiting(deadline=300.0, tries=1, pause=0.0, patience=0.0)


@dataclass(frozen=True, eq=False)
class Staged:
    """Owners of a federation and what they allow; every set of homes that is made from it is fresh.

    Args:
        folder: temporary, for data and homes.
        mode: whether sums leave nodes masked or plain.
        plan: as the coordinator offers it, resolved.
        catalog: the agreed items.
        coordinator: the real key, which every owner pins.
        keys: of the nodes.
        data: of the nodes.
        chance: where nodes draw secrets from.
        models: shared arrays of the first rounds of an honest run.
        trained: shared arrays after these rounds.
        largest_clip: the owners' largest bound on what one user adds, of a private plan.
    """

    folder: Path
    mode: Mode
    plan: Plan
    catalog: Catalog
    coordinator: SigningKey
    keys: Mapping[str, SigningKey]
    data: Mapping[str, Interactions]
    chance: Chance = SYSTEM
    models: list[Arrays] = field(default_factory=list)
    trained: Arrays = field(default_factory=dict)
    largest_clip: float | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)

    @property
    def secure(self) -> bool:
        """Whether sums leave nodes masked."""
        return self.mode == "secure"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the nodes, ascending."""
        return tuple(sorted(self.keys))

    @property
    def hidden(self) -> bool:
        """Whether nodes hide every sum in noise."""
        return self.plan.privacy is not None and self.plan.privacy.distributed

    @property
    def last(self) -> int:
        """The last round that attacks ask for."""
        return len(self.models) - 1

    def homes(self) -> Path:
        """A new folder for homes of nodes."""
        folder = self.folder / f"homes-{next(self._numbers)}"
        folder.mkdir()
        return folder

    def host(self, name: str, homes: Path, further: Sequence[SigningKey] = (), source: Path | None = None) -> NodeHost:
        """A node, started from what its home holds.

        Args:
            name: which.
            homes: where its home is.
            further: keys that its owner pins besides those of the nodes.
            source: where its data are, if they have changed.
        """
        least = self.plan.min_clients
        settings: dict[str, Any] = {
            "name": name,
            "home": name,
            "data": {"source": str(source or self.folder / f"{name}.parquet")},
            "policy": {
                "coordinator": str(self.coordinator.public()),
                "parties": [str(key.public()) for key in (*self.keys.values(), *further)],
                "min_clients": least,
                "vouch": max(1, min(least, self._drawn)),
                "most_clients": self.plan.n_max,
                "catalogs": [self.catalog.digest],
                "secure": self.secure,
                "allow_leaky": self.plan.leaky,
                "allow_updates": self.plan.keep_sums,
            },
            "privacy": self._floors,
        }
        return NodeHost(NodeConfig.make(settings, homes), self.keys[name], chance=self.chance)

    @cached_property
    def agreement(self) -> Agreement:
        """The plan, with its model and catalog."""
        return Agreement.of(self.plan, self.catalog)

    @property
    def _drawn(self) -> int:
        """Clients that hardly any cohort of a node falls short of, where cohorts are drawn."""
        share = self.agreement.share
        users = share * min(data.n_users for data in self.data.values())
        return int(users if share >= 1 else users - 2.0 * math.sqrt(users))

    @cached_property
    def _floors(self) -> dict[str, Any]:
        """The least privacy that owners insist on: that of the plan, for two runs."""
        terms = self.plan.privacy
        if terms is None:
            return {}
        noise = sorted(charge.effective for charge in self.agreement.charges)
        square = sum(1.0 / z**2 for z in noise[: terms.participations])
        run = terms.cost(self.agreement.charges).cohort
        return {
            "required": True,
            "distributed": terms.distributed,
            "epsilon": max(run, epsilon_of(1.0 / math.sqrt(_BUDGET * square), terms.delta, 1)),
            "delta": terms.delta,
            "max_run_epsilon": run,
            "max_clip": self.largest_clip,
        }


def modes_of(plan: Plan) -> tuple[Mode, ...]:
    """How a plan lets sums leave nodes.

    Raises:
        InputError: if a federation of nodes cannot be staged for it.
    """
    for found, name in ((plan.asynchronous, "asynchronous"), (plan.warm_start, "warm_start")):
        if found is not None:
            raise InputError(f"attacks of a coordinator ask for rounds of all nodes from the start; leave out {name}")
    if plan.robust is not None:
        return ("secure",) if plan.robust.over == "groups" else ("plain",)
    return ("secure",) if plan.privacy is not None and plan.privacy.distributed else ("secure", "plain")


def stage(plan: Plan, data: Interactions, digest: str, mode: Mode, folder: Path, chance: Chance = SYSTEM) -> Staged:
    """Spread users over nodes and run the first rounds honestly, which shows that nodes take the plan.

    Args:
        plan: not resolved for other data; how its data are cleaned is left out, for they are.
        data, digest: the users, and the digest of their data.
        mode: one of `modes_of`.
        folder: empty; it will hold the data.
        chance: where nodes draw secrets from.

    Raises:
        InputError: if nodes refuse the plan, or too few users are at a node for its sums to leave.
    """
    cleaned = DataPlan(source="memory")
    asked = plan.model_copy(update={"data": cleaned, "min_clients": max(2, plan.min_clients)}).resolve(data, digest)
    names = [f"node-{place}" for place in range(_nodes(plan, mode))]
    places = partition(data, "hash", len(names), plan.seed)
    parts = {name: data.take_users(np.flatnonzero(places == place)) for place, name in enumerate(names)}
    for name, own in parts.items():
        own.to_frame().write_parquet(folder / f"{name}.parquet")
    keys = {name: SigningKey(name, secrets.token_bytes(32)) for name in names}
    coordinator = SigningKey("coordinator", secrets.token_bytes(32))
    bare = Staged(folder, mode, asked, data.catalog, coordinator, keys, parts, chance)
    try:
        return _rehearsed(bare)
    except FedrecError as error:
        raise InputError(
            f"the federation to attack ({len(names)} nodes, {mode} sums) does not get through its first rounds: {error}"
        ) from None


def _nodes(plan: Plan, mode: Mode) -> int:
    """How many nodes: plain sums are attacked node by node; a secure sum among four can lose a node and go on."""
    if plan.robust is not None:
        return 5 if plan.robust.groups is None else FEWEST_PARTIES * plan.robust.groups
    return FEWEST_PARTIES + 1 if mode == "secure" else 2


class _Heard(RemoteEngine):
    """An honest coordinator's nodes; notes which shared arrays they are sent."""

    models: list[Arrays]

    def contribute(self, call: RoundCall) -> list[Sum]:
        self.models.append(call.shared)
        return super().contribute(call)


def _rehearsed(bare: Staged) -> Staged:
    """The stage with the models of its first rounds, and with the largest clip that they need."""
    homes, run = bare.homes(), Run(bare.plan, None)
    post = LocalPost({name: bare.host(name, homes) for name in bare.names})
    public = {name: key.public() for name, key in bare.keys.items()}
    engine = _Heard(post, bare.coordinator, public, "0" * 16, bare.agreement, run.ledger, bare.secure, _HONEST)
    engine.models = []
    engine.open()
    model = bare.agreement.model
    coordinator = Coordinator(bare.agreement, engine, run, engine.has_valid, chance=bare.chance)
    trained = coordinator.train(until=_ROUNDS)
    queries = [query for round, shared in enumerate(engine.models) for query in queries_of(model, shared, round)]
    clips = max((query.clip for query in queries), default=None)
    return Staged(
        bare.folder, bare.mode, bare.plan, bare.catalog, bare.coordinator, bare.keys, bare.data, bare.chance,
        engine.models, trained.state.shared, clips, bare._numbers,
    )  # fmt: skip
