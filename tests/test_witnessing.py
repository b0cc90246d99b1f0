"""Nodes that watch the coordinator's record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from federation_in_test import COORDINATOR, STRANGER, Federation, small_plan
from fedrec.errors import DamagedError, PlanError, RunError
from fedrec.federation.run import Run
from fedrec.network.post import LocalPost
from fedrec.network.waiting import Waiting
from fedrec.network.witnessing import Witnessing
from fedrec.node import witness as witnessing
from fedrec.node.witness import Witness, told
from fedrec.record.keys import COSIGNATURE, SigningKey
from fedrec.record.ledger import Ledger
from fedrec.record.notes import Note, sign
from fedrec.record.signing import LEDGER_NOTE
from fedrec.runs.federated import Members, train_federated
from fedrec.runs.verifying import verify_run

NODE = SigningKey("node", bytes(31) + b"n")


def leaves(count: int, other: int | None = None) -> list[bytes]:
    ledger = Ledger(None, rooted=True)
    for number in range(count):
        ledger.append("round", round=number, changed=number == other)
    return ledger.leaves


def witness(path: Path | None = None) -> Witness:
    return Witness(path, COORDINATOR.public(), NODE)


def test_what_was_seen_is_on_the_disk(tmp_path: Path) -> None:
    first = witness(tmp_path / "seen")
    first.see(told(leaves(3), 0, COORDINATOR))
    again = witness(tmp_path / "seen")
    assert again.seen == 3
    again.see(told(leaves(5), 3, COORDINATOR))
    again.see(told(leaves(5), 1, COORDINATOR))  # an answer was lost, and it is told again
    assert witness(tmp_path / "seen").seen == 5


def test_what_is_told_at_once_is_flushed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr("fedrec.record.durable.os.fsync", flushed.append)
    one = witness(tmp_path / "seen")
    one.see(told(leaves(200), 0, COORDINATOR))
    assert len(flushed) <= 2
    assert witness(tmp_path / "seen").seen == one.seen == 200


def test_entries_that_a_crash_cut_short_are_told_again(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    witness(path).see(told(leaves(5), 0, COORDINATOR))
    path.write_bytes(path.read_bytes()[:200])
    again = witness(path)
    assert again.seen == 3
    again.see(told(leaves(5), 3, COORDINATOR))
    assert witness(path).seen == 5


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (told(leaves(5, other=1), 0, COORDINATOR), "changed or taken out"),
        (told(leaves(2), 0, COORDINATOR), "changed or taken out"),
        (told(leaves(6), 5, COORDINATOR), "this node knows 4"),
        (told(leaves(5), 4, STRANGER), "not signed by coordinator"),
        ({**told(leaves(5), 4, COORDINATOR), "leaves": []}, "changed or taken out"),
        (
            {**told(leaves(6), 4, COORDINATOR), "note": told(leaves(5), 4, COORDINATOR)["note"]},
            "changed or taken out",
        ),
    ],
)
def test_another_past_is_refused_and_nothing_is_kept_of_it(said: Any, words: str, tmp_path: Path) -> None:
    one = witness(tmp_path / "seen")
    one.see(told(leaves(4), 0, COORDINATOR))
    before = (tmp_path / "seen").read_bytes()
    with pytest.raises(PlanError, match=words):
        one.see(said)
    assert (tmp_path / "seen").read_bytes() == before


@pytest.mark.parametrize("said", [None, {}, {"first": "0", "leaves": [], "note": ""}, {"first": -1}, [1], {"note": 3}])
def test_what_is_not_whole_is_an_error(said: Any) -> None:
    with pytest.raises(DamagedError):
        witness().see(said)


def test_a_torn_line_was_not_seen(tmp_path: Path) -> None:
    one = witness(tmp_path / "seen")
    one.see(told(leaves(3), 0, COORDINATOR))
    data = (tmp_path / "seen").read_bytes()
    (tmp_path / "seen").write_bytes(data[:-9])
    again = witness(tmp_path / "seen")
    assert again.seen == 2
    again.see(told(leaves(4), 2, COORDINATOR))
    assert witness(tmp_path / "seen").seen == 4
    (tmp_path / "seen").write_bytes(b"not hashes\n")
    with pytest.raises(DamagedError, match="hashes of entries"):
        witness(tmp_path / "seen")


def test_a_finished_run_is_signed_by_everybody(tmp_path: Path) -> None:
    owners = Federation(tmp_path, small_plan())
    members = Members("owners", COORDINATOR, owners.public, owners.catalog, 1024)
    run = tmp_path / "run"
    report = train_federated(owners.plan, run, members, LocalPost(owners.hosts()), waiting=Waiting(pause=0.0))
    assert report["federation"]["cosigned"] == owners.names
    keys = [COORDINATOR.public(), *(key.public(COSIGNATURE) for key in owners.keys.values())]
    note = Note.parse((run / LEDGER_NOTE).read_bytes())
    assert len(note.signed_by(keys)) == 1 + len(owners.names)
    verdict = verify_run(run, keys)
    assert verdict.wrong is None
    assert len(verdict.signatures) >= 1 + len(owners.names)


def test_a_coordinator_that_rewrites_its_record_gets_no_further_sum(tmp_path: Path) -> None:
    owners = Federation(tmp_path, small_plan())
    members = Members("owners", COORDINATOR, owners.public, owners.catalog, 1024)
    run, hosts = tmp_path / "run", owners.hosts()

    def stop(progress: Any) -> None:
        if progress.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_federated(
            owners.plan, run, members, LocalPost(hosts), waiting=Waiting(pause=0.0, max_retries=0), watch=stop
        )
    lines = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    honest = Ledger(run / "ledger.jsonl", rooted=True)
    (run / "ledger.jsonl").unlink()
    forged = Ledger(run / "ledger.jsonl", rooted=True)
    for line in lines:
        fields = {key: value for key, value in line.items() if key not in ("kind", "root")}
        if line["kind"] == "round" and line["round"] == 0:
            fields["cohort"] += 1
        forged.append(line["kind"], **fields)
    assert len(forged.leaves) == len(honest.leaves)
    assert forged.leaves != honest.leaves
    with pytest.raises(PlanError, match="changed or taken out"):
        train_federated(
            owners.plan, run, members, LocalPost(hosts), waiting=Waiting(pause=0.0, max_retries=0), resume=True
        )


def test_a_call_without_the_record_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = Federation(tmp_path, small_plan())
    members = Members("owners", COORDINATOR, owners.public, owners.catalog, 1024)
    monkeypatch.setattr(Witnessing, "record", lambda self, name: {})
    waiting = Waiting(pause=0.0, max_retries=0, sign=0.1)
    with pytest.raises(RunError, match="what is told of the record is not whole"):
        train_federated(owners.plan, tmp_path / "run", members, LocalPost(owners.hosts()), waiting=waiting)


def test_what_is_told_of_a_record_that_grows_meanwhile_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = Federation(tmp_path, small_plan())
    run = Run(owners.plan, None)
    engine = owners.engine(LocalPost({}), run)
    run.ledger.append("start")

    def slowly(note: Note, key: SigningKey) -> Note:
        run.ledger.append("round", round=0)
        return sign(note, key)

    monkeypatch.setattr(witnessing, "sign", slowly)
    one = witness()
    one.see(engine.witnessing.record("node-0")["record"])
    assert (one.seen, len(run.ledger.leaves)) == (1, 2)
