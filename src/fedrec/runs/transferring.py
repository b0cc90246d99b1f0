"""Taking over item weights from a finished run: opened once, kept with the new run, and reported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.catalog import Catalog
from fedrec.documents import MOST_SETTINGS, parse_json, read_file
from fedrec.errors import DamagedError, PlanError
from fedrec.federation.fitting import SUM
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.federation.transfer import Taken, TransferSource, taken_from
from fedrec.models.factors.following import FollowsFactors
from fedrec.progress import stage
from fedrec.record.durable import arrays_digest, load_arrays, replace_file, save_arrays
from fedrec.runs.finished import OpenedRun
from fedrec.runs.saved import open_model

__all__ = ["Transferred", "open_transfer", "taken_of", "transfer_report", "with_transfer"]

_FOLDER = "transfer"
_WEIGHTS, _ITEMS, _FOUND = (f"{_FOLDER}/{name}" for name in ("source.safetensors", "items.csv", "found.json"))


@dataclass(frozen=True, eq=False)
class Transferred:
    """What a run takes over, and how its items were found.

    Args:
        taken: weights and items.
        pairs: the pairs as a CSV file, which a person may edit and give back; empty where they were kept before.
        found: numbers of items: `matched`, `of_source`, `of_target`, and `ambiguous` titles.
    """

    taken: Taken
    pairs: bytes
    found: dict[str, int]

    def keep(self, folder: Path | None) -> None:
        """Write everything into a run, so that going on with it needs nothing else."""
        if folder is None or not self.pairs:
            return
        (folder / _FOLDER).mkdir(exist_ok=True)
        save_arrays(folder / _WEIGHTS, self.taken.arrays)
        replace_file(folder / _ITEMS, self.pairs)
        replace_file(folder / _FOUND, json.dumps(self.found).encode() + b"\n")


def with_transfer(plan: Plan, catalog: Catalog, source: OpenedRun | None = None) -> tuple[Plan, Transferred | None]:
    """The plan with the digests of what it takes over, and that; as it is where it takes over nothing.

    Args:
        plan: resolved.
        catalog: of the new run.
        source: the finished run, where it is open already.

    Raises:
        PlanError: if the source is not the one that the plan was made with, has no item weights, or no item matches.
    """
    asked = plan.transfer
    if asked is None:
        return plan, None
    with stage("prepare", f"taking over from {asked.run}"):
        opened = open_model(Path(asked.run)) if source is None else source
        state, terms = opened.trained.state, opened.plan.privacy
        if opened.plan.leaky and not plan.leaky:
            raise PlanError(
                f"transfer: {asked.run} was trained knowing held-out items; set negatives: paper-leaky, or choose "
                "another run"
            )
        if asked.how == "pool":
            _check_alike(plan, opened)
        promise = (None, None) if terms is None else (terms.epsilon, terms.delta)
        model = TransferSource(
            asked.run,
            opened.model,
            opened.catalog,
            state,
            opened.agreement.public,
            promise,
            state.server.get(SUM + "gram"),
        )
        taken, matching = taken_from(model, plan.build_model(), catalog, asked.match, asked.how == "pool")
    pins = {"digest": arrays_digest(state.shared), "taken": taken.digest}
    for key, said in pins.items():
        if getattr(asked, key) not in (None, said):
            what = "is not the run that" if key == "digest" else "does not give the items and weights with which"
            raise PlanError(f"transfer: {asked.run} {what} this plan was made with. Restore it, or remove digest and "
                            "taken to begin anew")  # fmt: skip
    found = {
        "matched": len(matching),
        "of_source": len(opened.catalog),
        "of_target": len(catalog),
        "ambiguous": matching.ambiguous,
    }
    pairs = matching.table(opened.catalog, catalog).write_csv().encode()
    changed = asked.model_copy(update=pins | dict(zip(("epsilon", "delta"), promise, strict=True)))
    return plan.model_copy(update={"transfer": changed}), Transferred(taken, pairs, found)


def _check_alike(plan: Plan, opened: OpenedRun) -> None:
    """Check that users count in the sums of a source as they do in the plan's.

    Raises:
        PlanError: naming what differs.
    """
    mine = plan.build_model()
    unlike = {key for key in mine.traits.sums_by if getattr(mine, key) != getattr(opened.model, key, None)}
    if plan.weights != opened.plan.weights:
        unlike.add("weights")
    if opened.model.traits.transfers and unlike:
        raise PlanError(
            f"transfer: the source has other {', '.join(sorted(unlike))} than this plan, so its sums do not go with "
            "these; set them alike, or set how: ridge"
        )


def open_transfer(plan: Plan, catalog: Catalog, folder: Path) -> Transferred | None:
    """What the plan of a run that exists takes over: as the run kept it, or once more from the source.

    Raises:
        DamagedError: if what the run kept was changed.
    """
    if plan.transfer is None:
        return None
    if not (folder / _FOUND).exists():
        _, again = with_transfer(plan, catalog)
        return again
    model = plan.build_model()
    size = model.factor_size if isinstance(model, FollowsFactors) else None
    taken = Taken.of(load_arrays(folder / _WEIGHTS), str(folder / _WEIGHTS), size)
    if taken.digest != plan.transfer.taken or (len(taken.items) and taken.items[-1] >= len(catalog)):
        raise DamagedError(f"{folder / _WEIGHTS} is not what the plan of the run takes over; restore it")
    try:
        found = parse_json(read_file(folder / _FOUND, MOST_SETTINGS))
        return Transferred(
            taken, b"", {key: int(found[key]) for key in ("matched", "of_source", "of_target", "ambiguous")}
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedError(f"{folder / _FOUND} is damaged") from None


def taken_of(transferred: Transferred | None) -> Taken | None:
    """What the coordinator is given of a transfer; `None` where there is none."""
    return None if transferred is None else transferred.taken


def transfer_report(run: Run, transferred: Transferred | None, counts: np.ndarray | None = None) -> dict[str, Any]:
    """What a report says of a transfer; nothing where there is none.

    Args:
        run: whose rounds are done.
        transferred: what was taken over.
        counts: interactions [items] of each item, where they may be known.
    """
    plan = run.plan
    if plan.transfer is None or transferred is None:
        return {}
    share = None
    if counts is not None and counts.sum():
        share = round(float(counts[transferred.taken.items].sum() / counts.sum()), 4)
    decided = run.ledger.of_kind("round")[-1].get("transfer")
    said = decided if isinstance(decided, dict) else {}
    return {"transfer": plan.transfer.model_dump() | transferred.found | {"interactions": share} | said}
