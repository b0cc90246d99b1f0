"""How long and how often a coordinator waits for its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedrec.documents import renamed_keys
from fedrec.errors import PlanError, suggestion

__all__ = ["PATIENT", "Waiting"]

_OLD_KEYS = {
    "least": "min_fraction",
    "enough": "target_fraction",
    "tries": "max_retries",
    "patience": "reconnect_timeout",
}
"""Present names of keys of `[waiting]`, by the names that older files may have."""
_LARGEST = 1e9


@dataclass(frozen=True)
class Waiting:
    """How long a coordinator waits for nodes, how many nodes a round needs, and how often a round is retried.

    Args:
        deadline: seconds for a node to answer in one phase of a round.
        min_fraction: fraction of the nodes that a round needs; with fewer answers the round is retried.
        target_fraction: fraction of the nodes that a round waits for. With 1 it waits for all nodes until the
            deadline; with less it continues without the slowest nodes.
        max_retries: number of times that a failed round is retried before the run stops.
        pause: seconds before a retry.
        reconnect_timeout: seconds that a retry waits until `min_fraction` of the nodes are connected again.
        sign: seconds for a node that failed to answer that it is connected again.
    """

    deadline: float = 300.0
    min_fraction: float = 0.5
    target_fraction: float = 1.0
    max_retries: int = 2
    pause: float = 5.0
    reconnect_timeout: float = 120.0
    sign: float = 3.0

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if type(value) not in (int, float) or not abs(value) <= _LARGEST:
                raise PlanError(f"waiting.{key}: must be a number of at most {_LARGEST:g}, not {value!r:.20}")
        for key in ("deadline", "sign"):
            if getattr(self, key) <= 0:
                raise PlanError(f"waiting.{key}: must be more than 0 seconds, not {getattr(self, key)}")
        for key in ("pause", "reconnect_timeout"):
            if getattr(self, key) < 0:
                raise PlanError(f"waiting.{key}: must be 0 seconds or more, not {getattr(self, key)}")
        if not 0 < self.min_fraction <= self.target_fraction <= 1:
            raise PlanError(
                "waiting: 0 < min_fraction ≤ target_fraction ≤ 1 must hold, and min_fraction is "
                f"{self.min_fraction}, target_fraction {self.target_fraction}"
            )
        if type(self.max_retries) is not int or self.max_retries < 0:
            raise PlanError(f"waiting.max_retries: must be a whole number of 0 or more, not {self.max_retries}")

    @property
    def attempts(self) -> int:
        """How often a round is attempted in all."""
        return 1 + self.max_retries

    @classmethod
    def make(cls, settings: Mapping[str, Any], where: str) -> Waiting:
        """The settings of a table `[waiting]`, under their present names or those of older files.

        An older `tries` counts all attempts, so it is one more than `max_retries`.

        Args:
            settings: the table.
            where: the file, for errors.

        Raises:
            PlanError: if there is no such key, a key is set under both names, or a value is out of range.
        """
        named = renamed_keys(settings, _OLD_KEYS, f"{where}: waiting.")
        if type(settings.get("tries")) is int:
            named["max_retries"] -= 1
        for key in named:
            if key not in cls.__dataclass_fields__:
                raise PlanError(f"{where}: waiting.{key} is not a setting{suggestion(key, cls.__dataclass_fields__)}")
        try:
            return cls(**named)
        except PlanError as error:
            raise PlanError(f"{where}: {error}") from None


PATIENT = Waiting()
"""The defaults."""
