"""Which users can be forgotten from a finished run, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from fedrec.data.databases.logs import read_events
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions
from fedrec.documents import MOST_LINES, read_file
from fedrec.engines.clock import Clock
from fedrec.engines.local import LocalEngine
from fedrec.errors import DamagedError, InputError, PlanError, RunError, suggestion
from fedrec.federation.agreement import Agreement
from fedrec.federation.coordinator import Coordinator, Progress
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run, read_plan
from fedrec.models.outline import is_additive
from fedrec.privacy.groups import group_promise
from fedrec.record.durable import arrays_digest
from fedrec.record.files import LEDGER, check_files, read_files
from fedrec.record.ledger import read_lines
from fedrec.runs.finished import OpenedRun
from fedrec.runs.kept import KEPT, Kept
from fedrec.runs.loading import Placement, read_placement
from fedrec.runs.saved import FEDERATED, open_run
from fedrec.runs.transferring import open_transfer, taken_of

__all__ = ["HOW", "Forgettable", "How", "Way"]

How = Literal["auto", "subtract", "retrain"]
HOW: tuple[How, ...] = get_args(How)
"""How users may be asked to be forgotten."""
Way = Literal["subtract", "retrain", "covered"]
"""How users are forgotten; `covered` leaves the model as it is."""
_RETRAIN = "Use --how retrain (how='retrain' in Python)"


@dataclass(frozen=True, eq=False)
class Forgettable:
    """A finished run with all that its users left in it.

    Args:
        folder: the run.
        opened: the same, opened.
        kept: the interactions that it keeps.
    """

    folder: Path
    opened: OpenedRun
    kept: Kept

    @classmethod
    def open(cls, folder: Path) -> Forgettable:
        """Open a run, and check every file of it.

        Raises:
            RunError: if the folder is a link, is no finished run, or keeps no interactions of its users.
            DamagedError: if files are missing or were changed.
        """
        if folder.is_symlink():
            raise RunError(f"{folder} is a link; name the run that it points to, {folder.resolve()}")
        plan = read_plan(folder)
        if (folder / FEDERATED).exists():
            raise RunError(
                f"{folder} was trained over the nodes of a federation, and their users are with them. Take the users "
                "out of the data of their nodes, and train again: 'fedrec train --federation FOLDER'"
            )
        if not (folder / KEPT).exists():
            raise RunError(
                f"{folder} keeps no interactions ({KEPT} is missing), and without those of the other users nobody can "
                "be forgotten. Forget where the run was trained, or train anew on data without the users"
            )
        try:
            check_files(folder, read_files(folder)[0])
            opened = open_run(folder)
            kept = Kept.read(folder, plan, opened.catalog)
        except DamagedError as error:
            raise DamagedError(
                f"{folder} is damaged or was not finished, and nobody can be forgotten from it: {error}"
            ) from None
        assert kept is not None
        return cls(folder, opened, kept)

    @property
    def users(self) -> Identifiers:
        """The users of the run, also those who took no part in the training."""
        return self.kept.data.users

    @property
    def plan(self) -> Plan:
        """The plan of the run."""
        return self.opened.plan

    def asked(self, log: str) -> list[Any]:
        """The users of the run who asked a server to be forgotten, as its log of events says.

        Raises:
            InputError: if the log cannot be read, or none of these users is in the run.
        """
        wishes = read_events(log).forgotten["user_id"]
        there = wishes.filter(pl.Series(self.users.find(wishes) >= 0)).unique()
        if wishes.is_empty():
            raise InputError(f"{log}: nobody asked to be forgotten")
        if there.is_empty():
            raise InputError(
                f"{log}: of the users who asked to be forgotten ({wishes.n_unique():,}) none is in {self.folder}"
                f"{self.users.explain_unknown(wishes[0])}"
            )
        return there.to_list()

    def leaving(self, ids: list[Any]) -> np.ndarray:
        """Whom to forget [users] bool.

        Raises:
            InputError: if an id is unknown, there is none, or these are all users.
        """
        places = self.users.find(ids)
        unknown = [each for each, place in zip(ids, places, strict=True) if place < 0]
        if unknown:
            more = f" and {len(unknown) - 1} more users are" if len(unknown) > 1 else " is"
            raise InputError(f"user {unknown[0]!r}{more} not in {self.folder}{self.users.explain_unknown(unknown[0])}")
        if not len(places):
            raise InputError("no user is named; name at least one user to forget")
        leaving = np.zeros(len(self.users), dtype=np.bool_)
        leaving[places] = True
        if leaving.all():
            raise InputError(
                f"these are all users of {self.folder}, so no model would be left; delete the folder instead"
            )
        return leaving

    def way(self, how: str, prove: bool, users: int) -> Way:
        """How so many users are forgotten.

        Args:
            how: as asked: one of `HOW`.
            prove: whether to prove it by training again.
            users: number of users.

        Raises:
            InputError: if they cannot be; says why and what to do.
        """
        if how not in HOW:
            raise InputError(f"how: {how!r} is not known{suggestion(how, HOW)}")
        plan, obstacle = self.plan, self._no_subtraction()
        if how == "subtract" and obstacle is not None:
            raise PlanError(f"{self.folder}: nobody can be subtracted, as {obstacle}. {_RETRAIN}")
        way: Way = "subtract" if obstacle is None and how != "retrain" else "retrain"
        if how == "auto" and plan.privacy is not None:
            self._check_promise(users)
            way = "covered"
        if prove and (plan.privacy is not None or not plan.reproducible):
            reason = (
                "noise is drawn anew in each training" if plan.privacy is not None else "the plan is not reproducible"
            )
            raise PlanError(
                f"{self.folder}: nothing can be proved by training again, as {reason}. Leave out --prove (prove=)"
            )
        if way == "retrain":
            self._check_recipe()
        return way

    def _no_subtraction(self) -> str | None:
        """Why users cannot be subtracted; `None` if they can."""
        plan, model = self.plan, self.opened.model
        if plan.privacy is not None:
            return "sums with noise do not say what a user added"
        if not is_additive(model):
            return f"model {model.name!r} is more than one sum over its users"
        if not self.opened.as_earlier("the run")[0].sums:
            return "the run kept no sums; runs that are trained with --set keep_sums=true do"
        return None if plan.cohort == 1 else "not all users are in the sums that it kept"

    def _check_recipe(self) -> None:
        """Check that a training from the beginning, on what the run keeps, makes a model of this kind.

        Raises:
            InputError: if it does not.
        """
        plan, model, folder = self.plan, self.opened.model, self.folder
        if plan.warm_start is not None and model.traits.iterative:
            raise PlanError(
                f"{folder} goes on from {plan.warm_start.run}, whose model may carry what the users added there. "
                "Forget them in that run, and go on from the new one: 'fedrec train --from'"
            )
        if "user_features" in model.traits.reads:
            raise PlanError(
                f"{folder}: model {model.name!r} reads features of users, which a run does not keep. Train anew on "
                "data without the users"
            )
        if (folder / LEDGER).exists():
            return
        if plan.privacy is not None:
            raise PlanError(f"{folder} is a saved model without a ledger, which cannot be trained again under privacy; "
                            "fit it again on data without the users")  # fmt: skip
        if self.trained_again(plan, self.kept.data, folder) != self.digest:
            raise RunError(
                f"{folder} is a saved model, and training its plan on the interactions that it keeps does not give "
                "this model: nodes of a federation, or another model, had a part in it. Train anew where it was trained"
            )

    def _check_promise(self, users: int) -> None:
        """Check that the promise of the run says something about so many users.

        Raises:
            PlanError: if it does not.
        """
        assert self.plan.privacy is not None
        if (self.folder / LEDGER).exists():
            start = read_lines(read_file(self.folder / LEDGER, MOST_LINES), LEDGER, rooted=True)[0][0]
            if start.get("noise_is_secret") is not True:
                raise PlanError(
                    f"{self.folder}: its noise can be drawn again, so that its epsilon covers nobody. {_RETRAIN}"
                )
        epsilon, delta = group_promise(self.plan.privacy.epsilon, self.plan.privacy.delta, users)
        if delta >= 1.0:
            raise PlanError(
                f"{self.folder}: its promise to each user is epsilon {self.plan.privacy.epsilon:g}, which for {users} "
                f"users together is epsilon {epsilon:g} at a delta of 1 or more, and so covers nothing. "
                f"{_RETRAIN}, for which the other users pay once more"
            )

    def places(self, data: Interactions) -> np.ndarray | None:
        """The node of each user [users] int64, as in the run; `None` if there is one node."""
        return None if self.kept.places is None else self.kept.places[self.users.find(data.users.series)]

    @property
    def digest(self) -> str:
        """SHA-256 of the arrays of the model."""
        return arrays_digest(self.opened.trained.state.shared)

    def trained_again(
        self, plan: Plan, data: Interactions, folder: Path, watch: Callable[[Progress], None] = lambda _: None
    ) -> str:
        """Digest of the model that a resolved plan makes of data, in memory and from the beginning.

        Args:
            plan: of the run in `folder`.
            data: its users.
            folder: holds what the plan takes over from another run.
            watch: called after every round.
        """
        placement, agreement = read_placement(self.folder, Placement()), Agreement.of(plan, data.catalog)
        engine = LocalEngine.build(data, plan, placement.nodes, placement.partition, places=self.places(data))
        engine.clock = Clock.parse(placement.clock, placement.nodes, plan.seed)
        taken = taken_of(open_transfer(plan, data.catalog, folder))
        coordinator = Coordinator(agreement, engine, Run(plan, None), engine.has_valid, watch, taken=taken)
        return arrays_digest(coordinator.train().state.shared)
