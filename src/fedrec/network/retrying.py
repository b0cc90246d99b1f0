"""Repeats a request until enough nodes have answered: how many are enough, how long to wait, and when to stop."""

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
    """An attempt at a sum that failed and may be repeated."""


class Retrying:
    """Sends requests to the connected nodes, and repeats them if too few nodes answer.

    Args:
        links: sends requests to the nodes.
        waiting: how long and how often to wait for nodes.
        secure: whether sums are masked.
        tell: receives warnings about nodes.
    """

    def __init__(self, links: Links, waiting: Waiting, secure: bool, tell: Callable[[str], None]) -> None:
        self._links, self._waiting, self._tell = links, waiting, tell
        self._fewest = FEWEST_PARTIES if secure else 1

    @property
    def least(self) -> int:
        """Minimum number of nodes of a round."""
        return max(math.ceil(self._waiting.min_fraction * len(self._links.names)), self._fewest)

    @property
    def enough(self) -> int:
        """Number of answers after which a round does not wait for more."""
        return math.ceil(self._waiting.target_fraction * len(self._links.names))

    def open(self) -> None:
        """Open the run at all nodes.

        Raises:
            PlanError: if a node refuses the plan; the text names the node and the reason.
            RunError: if too few nodes are connected.
        """
        for attempt in range(self._waiting.attempts):
            answers = self._links.open(self._waiting.deadline)
            _refused(answers)
            if sum(isinstance(answer, Reply) for answer in answers.values()) >= self.least:
                return
            self._pause(attempt, answers, "the opening")
        raise RunError(f"too few nodes are connected to begin; {self.least} are needed. {self._reasons(answers)}")

    def until_enough(
        self,
        what: str,
        ask: Callable[[Sequence[str]], Answers],
        use: Callable[[dict[str, Reply]], tuple[_Outcome, Sequence[str]]],
    ) -> tuple[_Outcome, Sequence[str]]:
        """The result from the answers of enough nodes, and the names of the nodes in it.

        Args:
            what: description of the request, for messages.
            ask: sends the request to the nodes with the given names.
            use: computes the result from the replies, which it may release one by one; raises `AbandonedError` if
                there is no result.

        Raises:
            PlanError: if too few nodes answer and another node refuses; the text names the node and the reason.
            RunError: if too few nodes answer in every attempt.
        """
        failed: dict[str, Failure] = {}
        reason = ""
        for attempt in range(self._waiting.attempts):
            answers = ask(self._links.present(self._waiting.sign))
            good = {name: answer for name, answer in answers.items() if isinstance(answer, Reply)}
            failed = {name: answer for name, answer in answers.items() if isinstance(answer, Failure)}
            answers.clear()  # replies contain whole sums
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
            f"{what} failed in {self._waiting.attempts} attempts: {reason}; {self.least} are needed. "
            f"{self._reasons(failed)}. Committed rounds are kept: continue with --resume when the nodes are connected"
        )

    def _mention(self, failed: Mapping[str, Failure], what: str) -> None:
        for name, failure in failed.items():
            if failure.kind != "late":
                self._tell(f"{name} is not in {what}: {failure}")

    def _reasons(self, answers: Mapping[str, Reply | Failure]) -> str:
        failed = {name: str(answer) for name, answer in answers.items() if isinstance(answer, Failure)}
        failed |= {name: why for name, why in self._links.failures().items() if name not in failed}
        return by_reason(dict(sorted(failed.items()))) or "all other nodes answered"

    def _pause(self, attempt: int, answers: Mapping[str, Reply | Failure], what: str) -> None:
        """Wait before the next attempt: a pause, and then until enough nodes are connected or the time is up."""
        wait = self._waiting
        if attempt + 1 == wait.attempts:
            return
        self._tell(f"{what} is repeated in {wait.pause:g} s: {self._reasons(answers)}")
        time.sleep(wait.pause)
        until = time.monotonic() + wait.reconnect_timeout
        while (up := len(self._links.present(wait.sign))) < self.least and time.monotonic() < until:
            left = max(0.0, until - time.monotonic())
            self._tell(f"{up} of {len(self._links.names)} nodes are connected; waiting {left:.0f} s for more")
            time.sleep(min(left, max(wait.pause, 1.0)))


def _refused(answers: Mapping[str, Reply | Failure]) -> None:
    """Raise if an owner refuses, as waiting does not change a refusal."""
    reasons = {name: answer for name, answer in answers.items() if is_failure(answer, "refused")}
    if reasons:
        raise PlanError(by_reason(reasons))
