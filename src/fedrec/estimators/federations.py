"""A federation from Python: trained over its nodes, each with its owner's data."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrec.bars import bar
from fedrec.data.arguments import check_arguments
from fedrec.deploy.folder import FederationFolder
from fedrec.deploy.training import train_over
from fedrec.errors import InputError
from fedrec.estimators.estimator import Estimator, load_model
from fedrec.federation.plan import Plan
from fedrec.federation.run import is_run, read_plan

__all__ = ["Federation"]

_THEIRS = {"source": "federation"}


class Federation:
    """The coordinator's folder of a federation, as `fedrec federation init` makes it.

    Args:
        folder: where it is.

    Raises:
        InputError: if it is not such a folder.
    """

    def __init__(self, folder: str | Path) -> None:
        check_arguments(Federation.__init__, {"folder": folder})
        self.folder = Path(folder)
        self._names = tuple(FederationFolder.open(self.folder).members.nodes)
        self.report: dict[str, Any] | None = None
        """The report of the last training; `None` before."""

    def __repr__(self) -> str:
        return f"Federation({str(self.folder)!r}: {', '.join(self._names) or 'no nodes yet'})"

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes."""
        return self._names

    def train(
        self,
        plan: Estimator | Mapping[str, Any] | str | Path,
        out: str | Path,
        *,
        secure: bool = False,
        resume: bool = False,
        progress: bool = True,
    ) -> Estimator:
        """Train over the nodes, as `fedrec train --federation` does, and open the run.

        Args:
            plan: plan to train: a mapping of plan keys, the path of a plan in YAML, or an unfitted estimator, such as
                `fr.EASE(reg=100, plan={"split": "leave-last-out"})`. The nodes use their own data.
            out: folder of the run on the coordinator's machine.
            secure: whether to use secure aggregation, in which nodes mask their sums.
            resume: continue the run in `out` with its own plan.
            progress: show a bar on a terminal or in a notebook, if it takes longer than a second.

        Returns:
            The model. `similar`, `shared` and `recommend(history=…)` work; the users are at the nodes.

        Raises:
            PlanError: if the plan is impossible, or a node refuses the plan; names the node and the reason.
            RunError: if too few nodes are connected.

        Example:
            shops = fr.Federation("shops")
            plan = {"model": {"name": "ease"}, "privacy": {"epsilon": 4, "delta": 1e-6}}
            model = shops.train(plan, "run", secure=True)
            model.similar("sku-1", n=5)
        """
        check_arguments(Federation.train, {"out": out, "secure": secure, "resume": resume, "progress": progress})
        folder = Path(out)
        chosen = read_plan(folder) if resume and is_run(folder) else _plan_of(plan)

        def tell(text: str) -> None:
            warnings.warn(text, stacklevel=2)

        with bar(f"training {chosen.model['name']}", progress) as watch:
            self.report = train_over(self.folder, chosen, folder, secure, resume, watch, tell)
        return load_model(folder)


def _plan_of(plan: object) -> Plan:
    """The plan that somebody means.

    Raises:
        InputError: if `plan` has none of the accepted types.
    """
    if isinstance(plan, Estimator):
        data = plan.plan.data.model_dump() | _THEIRS | {"digest": None}
        return Plan.make(plan.plan.model_dump() | {"data": data}, type(plan).__name__)
    if isinstance(plan, Mapping):
        return Plan.make({"data": _THEIRS, **plan})
    if isinstance(plan, str | os.PathLike):
        return Plan.read(Path(plan))
    raise InputError(
        f"plan must be a mapping of plan keys, the path of a plan, or an estimator, not {type(plan).__name__}"
    )
