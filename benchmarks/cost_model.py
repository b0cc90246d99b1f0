"""What a round of a federation costs, on paper: bytes exactly, seconds and memory from a few measured constants.

    python benchmarks/cost_model.py          # 1,000 silos and 10^8 devices by a tree of relays

`federation.py` measures what this predicts. The formulas are explained in `docs/scale.md`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedrec.data.catalog import Catalog
from fedrec.data.keys import KeyedSource
from fedrec.evaluation.metrics import parse_metrics
from fedrec.federation.masked import COUNTS, layout_of
from fedrec.federation.measuring import measuring_spec
from fedrec.models.registry import build_model
from fedrec.secagg.bodies import encode_set
from fedrec.secagg.graph import Topology, topology
from fedrec.secagg.layout import Layout, Slot
from fedrec.secagg.wire import ADVERT_BYTES, HEADER_BYTES, SEALED_BYTES

SIGNATURE = 64
FRAME = HEADER_BYTES + SIGNATURE
SHARE = 66
KEY = 32
MANIFEST = 111

AES_BYTES_PER_SECOND = 3.4e9
"""Masks that one core makes and adds in a second (`benchmarks/secagg.py`: 33 streams of 4 MB in 39 ms)."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of one party, or of one node, in one sum."""

    up: int
    down: int


def secure_traffic(layout: Layout, shape: Topology, run: str) -> Traffic:
    """Bytes of one party in a secure aggregation that nobody leaves; exact."""
    n, k = shape.parties, shape.neighbours
    own = k + 1 if shape.complete else k
    bits = len(encode_set([], n))
    blocks = sum(HEADER_BYTES + 8 + block.nbytes for block in layout)
    up = 5 * FRAME + ADVERT_BYTES + SEALED_BYTES * k + blocks + KEY + KEY + SHARE * own
    names = sum(10 + len(slot.name.encode()) for slot in layout.slots)
    manifest = MANIFEST + len(run.encode()) + KEY * n + names
    roster = bits + n * (ADVERT_BYTES + SIGNATURE)
    agreed = 2 * bits + KEY * n
    down = 5 * FRAME + manifest + roster + bits + SEALED_BYTES * k + agreed + bits + SIGNATURE * own
    return Traffic(up, down)


REQUEST, ANSWER = 700, 450
"""Bytes of a signed request and of its answer beside what they carry, about."""
OPENING = 3_000
"""Bytes of the offer of a run beside the catalog, about."""
METRICS = ("hr@10", "ndcg@10", "recall@20", "ndcg@20")


def predicted(
    name: str, settings: Mapping[str, Any], secure: bool, nodes: int, catalog: Catalog, n_max: int
) -> dict[str, int]:
    """Bytes of frames up and down of one node in a whole run: opening, rounds, two measurements, the finished model.

    Masked sums as with `compress: none`; sums in the clear at their most, as numbers in the clear take fewer bits where
    all of them are small.
    """
    model = build_model(name, dict(settings))
    state = model.start(catalog, {}, KeyedSource.from_seed(0).child("start"))
    found = model.spec(state.shared, 0)
    assert found is not None
    spec, rounds = found.fit(n_max), int(getattr(model, "rounds", 1))
    metrics = measuring_spec(parse_metrics(METRICS), len(catalog), n_max)
    shared = sum(array.nbytes for array in state.shared.values())
    final = 4 * len(catalog) ** 2 if name == "ease" else shared
    asked = 2 + rounds + 2
    up, down = asked * ANSWER, asked * REQUEST + OPENING + len(catalog.to_json_lines()) + rounds * shared + final
    sums = [spec] * rounds + [metrics] * 2
    if not secure:
        return {"up": up + sum(one.nbytes for one in sums), "down": down}
    for one in sums:
        cost = secure_traffic(layout_of(one, None), topology(nodes), "0" * 32)
        up, down = up + cost.up + 5 * ANSWER, down + cost.down + 5 * REQUEST
    return {"up": up, "down": down}


def party_seconds(vector: int, shape: Topology) -> float:
    """A party's processor seconds: one stream for itself and one per neighbour."""
    return (shape.neighbours + 1) * vector / AES_BYTES_PER_SECOND


def coordinator_seconds(vector: int, shape: Topology, dead: int = 0) -> float:
    """The coordinator's: one stream per survivor, one per neighbour of each that is dead, and the additions."""
    alive = shape.parties - dead
    return (alive + dead * shape.neighbours) * vector / AES_BYTES_PER_SECOND


@dataclass(frozen=True)
class Link:
    """A machine's connection, in bytes a second each way, and the seconds of a message there and back."""

    up: float
    down: float
    trip: float


MEGABIT = 1e6 / 8
SILO = Link(1000 * MEGABIT, 1000 * MEGABIT, 0.03)
DEVICE = Link(10 * MEGABIT, 40 * MEGABIT, 0.1)
HALL = Link(10_000 * MEGABIT, 10_000 * MEGABIT, 0.005)
"""A relay's in its data centre."""

ADD_BYTES_PER_SECOND = 2e9
"""Frames that one core checks, decodes and adds in a second (`federation.py --post`)."""


@dataclass(frozen=True)
class Tree:
    """Members under relays under a coordinator.

    Args:
        members: nodes that take part in a round.
        fan_out: children of a relay, and of the coordinator.
        leaf, inner: connections of members, and of relays and coordinator.
        cores: of a relay.
    """

    members: int
    fan_out: int
    leaf: Link
    inner: Link = HALL
    cores: int = 16

    @property
    def depth(self) -> int:
        """Hops from a member to the coordinator."""
        return max(1, math.ceil(math.log(self.members) / math.log(self.fan_out) - 1e-9))

    @property
    def relays(self) -> int:
        """Relays in all, without the coordinator."""
        return sum(math.ceil(self.members / self.fan_out**level) for level in range(1, self.depth))

    def seconds(self, down: int, up: int, trips: int = 1) -> float:
        """One round on the network: the model down and a sum up through all levels, one level after the other.

        Every relay waits for the last of its children; blocks are not piped through, so this is the longest that it
        takes.
        """
        first = max(down / self.leaf.down, self.fan_out * down / self.inner.up)
        last = max(up / self.leaf.up, self.fan_out * up / self.inner.down)
        adding = self.fan_out * up / ADD_BYTES_PER_SECOND / self.cores
        between = self.fan_out * (down / self.inner.up + up / self.inner.down)
        waits = trips * (self.leaf.trip + (self.depth - 1) * self.inner.trip)
        return first + last + (self.depth - 1) * between + self.depth * adding + waits

    def relay_bytes(self, up: int) -> int:
        """Memory of a relay that holds its children's frames until it adds them, and one sum in 64 bits."""
        return self.fan_out * up + 2 * up


def on_paper() -> None:
    """Tables of `docs/scale.md`."""
    items, width = 50_000, 65
    vector = items * width * 4
    print(f"mf, 50,000 items, d = 64: a vector of {vector / 1e6:.1f} MB\n")
    print("1,000 silos, a gigabit each; relays with ten gigabit and 16 cores")
    table("children of a relay", "relays", "depth", "coordinator takes in", "a relay holds", "network, s")
    for fan in (1000, 100, 32, 10):
        tree = Tree(1000, fan, SILO)
        taken = math.ceil(1000 / fan ** (tree.depth - 1)) * vector
        seconds = tree.seconds(vector, vector)
        table(fan, tree.relays, tree.depth, gigabytes(taken), gigabytes(tree.relay_bytes(vector)), f"{seconds:.1f}")
    print("\nSecure aggregation on top")
    table("parties", "neighbours", "threshold", "up beside V, kB", "down beside S, kB", "a party, s",
          "coordinator, core s", "with a tenth dead")  # fmt: skip
    layout = Layout((Slot("items", items * width, 32), Slot("weight", 1, 32), COUNTS))
    for n in (10, 20, 50, 100, 300, 1000, 3000, 10_000):
        shape = topology(n)
        cost = secure_traffic(layout, shape, "0" * 64)
        own, all_alive = party_seconds(vector, shape), coordinator_seconds(vector, shape)
        table(f"{n:,}", shape.neighbours, shape.threshold, f"{(cost.up - layout.nbytes) / 1e3:,.1f}",
              f"{cost.down / 1e3:,.0f}", f"{own:.2f}", f"{all_alive:.2f}",
              f"{coordinator_seconds(vector, shape, n // 10):.1f}")  # fmt: skip
    print("\n10^8 devices, one in 1,000 drawn for a round, 10 Mbit/s up, 40 down; a quarter of the rows is summed")
    table("devices of a secure aggregation", "sums", "an aggregator takes in", "its core s, a tenth gone",
          "device up, MB", "device, network s", "whole round, s")  # fmt: skip
    part = vector // 4
    layout = Layout((Slot("items", items * width // 4, 32), Slot("weight", 1, 32), COUNTS))
    for group in (100, 300, 1000, 3000):
        shape, sums = topology(group), 100_000 // group
        cost = secure_traffic(layout, shape, "0" * 64)
        device = vector / DEVICE.down + cost.up / DEVICE.up + 5 * DEVICE.trip
        work = coordinator_seconds(part, shape, group // 10)
        above = Tree(sums, min(sums, 100), HALL).seconds(vector, part)
        whole = max(device, group * cost.up / HALL.down) + work / 16 + above
        table(f"{group:,}", f"{sums:,}", gigabytes(group * cost.up), f"{work:.1f}", f"{cost.up / 1e6:.2f}",
              f"{device:.1f}", f"{whole:.1f}")  # fmt: skip


def table(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |")


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    on_paper()


if __name__ == "__main__":
    main()
