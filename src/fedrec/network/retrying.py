"""Asking nodes again until enough of them have answered: who is too few, how long to wait, and when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from fedrec.errors import FedrecError, PlanError, RunError
from fedrec.federation.messages import Reply
from fedrec.network.links import Answers, Links, is_failure
from fedrec.network.post import Failure, by_reason
from fedrec.network.waiting import Waiting
from fedrec.secagg.policy import FEWEST_PARTIES

__all__ = ["AbandonedError", "Retrying"]

_Outcome = TypeVar("_Outcome")


class AbandonedError(FedrecError):
    """A sum that came to nothing this time."""


class Retrying:
    """Asks the nodes that are up, and again where too few answer.

    Args:
        links: to the nodes.
        waiting: how long, for whom, how often.
        secure: whether sums are masked.
        tell: told in words what goes wrong with nodes.
    """

    def __init__(self, links: Links, waiting: Waiting, secure: bool, tell: Callable[[str], None]) -> None:
        self._links, self._waiting, self._tell = links, waiting, tell
        self._fewest = FEWEST_PARTIES if secure else 1

    @property
    def least(self) -> int:
        """Nodes without which a round is abandoned."""
        return max(math.ceil(self._waiting.least * len(self._links.names)), self._fewest)

    @property
    def enough(self) -> int:
        """Nodes after whose answers no others are waited for."""
        return math.ceil(self._waiting.enough * len(self._links.names))

    def open(self) -> None:
        """Offer the run to all nodes.

        Raises:
            PlanError: if a node refuses it; says which and why.
            RunError: if too few are up.
        """
        for attempt in range(self._waiting.tries):
            answers = self._links.open(self._waiting.deadline)
            _refused(answers)
            if sum(isinstance(answer, Reply) for answer in answers.values()) >= self.least:
                return
            self._pause(attempt, answers, "the opening")
        raise RunError(f"too few nodes are up to begin: {self._reasons(answers)}")

    def until_enough(
        self,
        what: str,
        ask: Callable[[Sequence[str]], Answers],
        use: Callable[[dict[str, Reply]], tuple[_Outcome, Sequence[str]]],
    ) -> tuple[_Outcome, Sequence[str]]:
        """What comes of the answers of enough nodes, and the nodes whose answers are in it.

        Args:
            what: is asked for, in words.
            ask: asks the nodes of these names.
            use: makes something of their replies, which it may let go one by one; raises `AbandonedError` where
                nothing comes of them.

        Raises:
            PlanError: if too few nodes answer, and one of the others refuses; says which and why.
            RunError: if too few answer in every try.
        """
        failed: dict[str, Failure] = {}
        reason = ""
        for attempt in range(self._waiting.tries):
            answers = ask(self._links.present(self._waiting.sign))
            good = {name: answer for name, answer in answers.items() if isinstance(answer, Reply)}
            failed = {name: answer for name, answer in answers.items() if isinstance(answer, Failure)}
            answers.clear()  # replies hold whole sums
            self._mention(failed, what)
            try:
                if len(good) < self.least:
                    raise AbandonedError(f"{len(good)} of {len(self._links.names)} nodes answered")
                outcome, names = use(good)
                if len(names) < self.least:
                    raise AbandonedError(f"{len(names)} of {len(self._links.names)} nodes are left in the sum")
            except AbandonedError as error:
                reason = str(error)
                self._tell(f"{what}: {reason}")
                _refused(failed)
                self._pause(attempt, failed, what)
                continue
            return outcome, names
        raise RunError(
            f"{what} was tried {self._waiting.tries} times and abandoned: {reason}; {self.least} are needed. "
            f"{self._reasons(failed)}. What was committed is kept: go on with --resume when the nodes are back"
        )

    def _mention(self, failed: Mapping[str, Failure], what: str) -> None:
        for name, failure in failed.items():
            if failure.kind != "late":
                self._tell(f"{name} is not in {what}: {failure}")

    def _reasons(self, answers: Mapping[str, Reply | Failure]) -> str:
        failed = {name: str(answer) for name, answer in answers.items() if isinstance(answer, Failure)}
        failed |= {name: why for name, why in self._links.failures().items() if name not in failed}
        return by_reason(dict(sorted(failed.items()))) or "all others answered"

    def _pause(self, attempt: int, answers: Mapping[str, Reply | Failure], what: str) -> None:
        """Wait before another try: at least a moment, and while too few nodes are up."""
        wait = self._waiting
        if attempt + 1 == wait.tries:
            return
        self._tell(f"{what} is tried again in {wait.pause:g} s: {self._reasons(answers)}")
        time.sleep(wait.pause)
        until = time.monotonic() + wait.patience
        while (up := len(self._links.present(wait.sign))) < self.least and time.monotonic() < until:
            left = max(0.0, until - time.monotonic())
            self._tell(f"{up} of {len(self._links.names)} nodes are up; others have {left:.0f} s to be back")
            time.sleep(min(left, max(wait.pause, 1.0)))


def _refused(answers: Mapping[str, Reply | Failure]) -> None:
    """A refusal is an owner's word: waiting does not change it."""
    reasons = {name: answer for name, answer in answers.items() if is_failure(answer, "refused")}
    if reasons:
        raise PlanError(by_reason(reasons))
