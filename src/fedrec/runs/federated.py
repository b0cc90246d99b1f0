"""A whole training run over the nodes of a federation: agree, open, train, measure, report."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.data.catalog import Catalog
from fedrec.documents import MOST_SETTINGS, parse_json, read_file
from fedrec.engines.memory import check_memory
from fedrec.errors import DamagedError, FedrecError, RunError
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import Part
from fedrec.federation.compatibility import check_together, place_of
from fedrec.federation.coordinator import Coordinator, Progress
from fedrec.federation.plan import Plan
from fedrec.federation.run import PRIVATE_ASIDE, Run, check_free, is_run, read_plan
from fedrec.network.post import Post
from fedrec.network.remote import RemoteEngine
from fedrec.network.waiting import PATIENT, Waiting
from fedrec.privacy.chance import SYSTEM, Chance
from fedrec.progress import RUN, Stopwatch, stage
from fedrec.record.durable import replace_file
from fedrec.record.keys import PublicKey, SigningKey
from fedrec.runs.reports import close_run, measured_parts, report_of
from fedrec.runs.saved import FEDERATED
from fedrec.runs.transferring import open_transfer, taken_of, transfer_report, with_transfer
from fedrec.runs.verifying import sign_run

__all__ = ["Members", "train_federated"]


@dataclass(frozen=True, eq=False)
class Members:
    """Who is in a federation, and what they agreed on.

    Args:
        name: of the federation.
        key: the coordinator's.
        nodes: public keys by name.
        catalog: the agreed items.
        max_clients: agreed maximum number of users of all nodes together.
    """

    name: str
    key: SigningKey
    nodes: Mapping[str, PublicKey]
    catalog: Catalog
    max_clients: int


def train_federated(
    plan: Plan,
    folder: Path,
    members: Members,
    post: Post,
    secure: bool = False,
    waiting: Waiting = PATIENT,
    resume: bool = False,
    watch: Callable[[Progress], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
    chance: Chance = SYSTEM,
    clock: Stopwatch | None = None,
) -> dict[str, Any]:
    """Train a plan among the nodes of a federation; the run's folder is the coordinator's and holds nobody's data.

    With `resume`, a run that exists goes on where it stopped, with its own plan, masked or not as it began, whoever is
    up. An error before the first round is committed leaves no folder behind. Seconds are those of `clock`, where it
    runs already; what is returned counts them to the end, the file to the moment before it is signed.

    Returns:
        The report (`report.json`), and in its `federation` who signed the record with it, as `cosigned`: they sign what
        the run has ended with, so the file cannot say it. The signatures are in `record/ledger.note`.

    Raises:
        PlanError: if the plan cannot be kept, or a node refuses it; says which and why.
        RunError: if too few nodes are up, or `secure` is asked of a run that began in the clear.
    """
    if clock is None:
        with Stopwatch(*RUN, base="prepare") as clock:
            return train_federated(plan, folder, members, post, secure, waiting, resume, watch, tell, chance, clock)
    resume = resume and is_run(folder)
    if resume:
        plan = read_plan(folder)
        _put_in_place(folder)
        number, masked = _kept_terms(folder, members)
        if secure and not masked:
            raise RunError(f"{folder} began with sums in the clear and goes on so; train anew to mask them")
        secure = masked
    else:
        check_free(folder)
        plan, number = plan.agree(members.catalog, members.max_clients), secrets.token_hex(16)
    transferred = None
    if resume:
        transferred = open_transfer(plan, members.catalog, folder)
    else:
        plan, transferred = with_transfer(plan, members.catalog)
    check_together(plan.case, place_of(secure))
    agreement = Agreement.of(plan, members.catalog)
    check_memory(agreement.model, len(members.catalog), agreement.transfer_memory)
    run = Run.open(folder) if resume else _create(plan, folder, members, number, secure)
    went_on = len(run.ledger.of_kind("round")) if resume else None
    engine: RemoteEngine | None = None
    try:
        if transferred is not None:
            transferred.keep(folder)
        engine = RemoteEngine(post, members.key, members.nodes, number, agreement, run.ledger, secure, waiting, tell)
        with stage("prepare", "offering the run to the nodes"):
            engine.open()
        taken = taken_of(transferred)
        coordinator = Coordinator(agreement, engine, run, engine.has_valid, watch, chance=chance, taken=taken)
        trained = coordinator.train()
        held_out: dict[Part, bool] = {"valid": engine.has_valid, "test": engine.has_test}
        measured = measured_parts(coordinator, trained, [part for part, there in held_out.items() if there])
        home = {
            "secure": secure,
            "federation": {
                "name": members.name,
                "nodes": list(members.nodes),
                "unreached": list(engine.unreached),
                "traffic": engine.traffic(),
                "read": engine.read.figures(),
            },
            "data": {"source": plan.data.source, "items": len(members.catalog)},
            "split": {"method": plan.split},
            "nodes": len(members.nodes),
        }
        report = report_of(coordinator, trained, run, folder, measured, home) | transfer_report(run, transferred)
        close_run(run, trained, report, clock, went_on)
        with stage("write", "having the record signed by the nodes"):
            sign_run(folder, members.key)
            report["federation"]["cosigned"] = list(engine.cosign(folder))
        return report | clock.figures()
    except (FedrecError, OSError, MemoryError):
        if not resume:
            run.discard()
        raise
    finally:
        if engine is not None:
            engine.close()
        run.close()


def _create(plan: Plan, folder: Path, members: Members, number: str, secure: bool) -> Run:
    """A new run. Its terms are on the disk before it is one, so that a run never lacks them, wherever a crash comes."""
    terms = {"federation": members.name, "number": number, "secure": secure}
    aside = folder / PRIVATE_ASIDE / Path(FEDERATED).name
    aside.parent.mkdir(parents=True, exist_ok=True)
    replace_file(aside, json.dumps(terms).encode() + b"\n")
    run = Run.create(plan, folder)
    _put_in_place(folder)
    return run


def _put_in_place(folder: Path) -> None:
    if (folder / PRIVATE_ASIDE).exists():
        (folder / PRIVATE_ASIDE).rename((folder / FEDERATED).parent)


def _kept_terms(folder: Path, members: Members) -> tuple[str, bool]:
    path = folder / FEDERATED
    try:
        terms = parse_json(read_file(path, MOST_SETTINGS))
        name, number, secure = terms["federation"], terms["number"], terms["secure"]
    except FileNotFoundError:
        raise RunError(f"{folder} was not trained by a federation; resume it without --federation") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedError(f"{path} is damaged") from None
    if name != members.name:
        raise RunError(f"{folder} is a run of the federation {name!r}, not of {members.name!r}")
    if not isinstance(number, str) or not isinstance(secure, bool):
        raise DamagedError(f"{path} is damaged")
    return number, secure
