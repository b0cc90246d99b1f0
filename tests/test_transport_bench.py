"""The benchmark of transport asks nodes as a training does, record and all."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation_in_test import COORDINATOR, Federation, small_plan
from fedrec.benchmarks.transport import round_trips
from fedrec.federation.calls import RoundCall
from fedrec.network.post import LocalPost
from fedrec.runs.federated import Members


@pytest.mark.parametrize("secure", [False, True])
def test_nodes_answer_every_round_trip(secure: bool, tmp_path: Path) -> None:
    owners = Federation(tmp_path, small_plan(), nodes=3, secure=secure)
    agreement = owners.agreement
    state = agreement.start()
    spec = agreement.spec(state.shared, 0)
    assert spec is not None
    call = RoundCall(0, -1, state.shared, spec, agreement.share)
    members = Members("bench", COORDINATOR, owners.public, owners.catalog, agreement.n_max)
    timing = round_trips(LocalPost(owners.hosts()), members, agreement, call, secure, warmup=1, repeats=2)
    assert len(timing.seconds) == 2
    assert min(timing.seconds) > 0
