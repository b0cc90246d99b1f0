"""Seconds of a round trip between a coordinator and three nodes: real processes and mutual TLS, on one machine."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.aggregation.wire import encoded_size
from fedrec.benchmarks.timing import Timing, repeat
from fedrec.data.partitions import partition
from fedrec.data.sources import LoadedSource
from fedrec.deploy.demo import staged
from fedrec.engines.local import LocalEngine
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import RoundCall
from fedrec.federation.plan import Plan
from fedrec.network.nvflare.post import NvflarePost
from fedrec.network.post import Post
from fedrec.network.remote import RemoteEngine
from fedrec.network.waiting import Waiting
from fedrec.record.ledger import Ledger
from fedrec.runs.federated import Members

__all__ = ["NODES", "round_trips", "transport_times"]

NODES = 3
_WAITING = Waiting(deadline=60.0, min_fraction=1.0)


def transport_times(source: LoadedSource, plan: Plan, warmup: int, repeats: int) -> dict[str, Any]:
    """Seconds of the plan's first round, repeated: over the network, plain and masked, and in one process.

    A node gives the same answer to the same call. In one process the nodes compute one after the other; the additional
    time over the network is transport.
    """
    data = source.interactions
    plan = plan.resolve(data, source.digest)
    agreement = Agreement.of(plan, data.catalog)
    state = agreement.start()
    spec = agreement.spec(state.shared, 0)
    assert spec is not None
    call = RoundCall(0, -1, state.shared, spec, agreement.share)
    places = partition(data, "hash", NODES, plan.seed)
    local = LocalEngine.build(data, plan, NODES)
    here = repeat(lambda: local.contribute(call), warmup, repeats)
    frame = max(encoded_size(part) for part in local.contribute(call))
    with (
        tempfile.TemporaryDirectory(prefix="fedrec-") as folder,
        staged(Path(folder), data, places, agreement.n_max) as stage,
    ):
        members = stage.federation.members
        post = NvflarePost(stage.federation.path, stage.federation.admin_kit)
        try:
            plain = round_trips(post, members, agreement, call, False, warmup, repeats)
            masked = round_trips(post, members, agreement, call, True, warmup, repeats)
        finally:
            post.close()
    overhead = Timing(tuple(np.array(plain.seconds) - here.median), warmup)
    return {
        "seconds_per_round": round(plain.median, 6),
        "plain": plain.facts(),
        "secure": masked.facts(),
        "one_process": here.facts(),
        "transport": overhead.facts(),
        "bytes": {"plain": frame, "secure": spec.nbytes},
        "nodes": NODES,
    }


def round_trips(
    post: Post, members: Members, agreement: Agreement, call: RoundCall, secure: bool, warmup: int, repeats: int
) -> Timing:
    """Seconds of the same call over a post, from the request to the sums; opening the run is not counted."""
    ledger = Ledger(None, rooted=True)
    # Nodes answer only what is on record.
    ledger.append("start", plan=agreement.plan.digest, catalog=members.catalog.digest)
    engine = RemoteEngine(post, members.key, members.nodes, secrets.token_hex(16), agreement, ledger, secure, _WAITING)
    engine.open()
    return repeat(lambda: engine.contribute(call), warmup, repeats)
