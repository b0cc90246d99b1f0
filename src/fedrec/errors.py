"""Every error fedrec raises on purpose, and the suggestion of a near name.

An error says what was wrong, where, and what to do. The command line ends with exit code 2 for `InputError` and
`DamagedError`, and with 1 for any other `FedrecError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DamagedError",
    "FedrecError",
    "InputError",
    "InterruptedRunError",
    "NothingLeftError",
    "PlanError",
    "RunError",
    "UnnamedSourceError",
    "suggestion",
]


class FedrecError(Exception):
    """Base of every error that fedrec raises on purpose."""


class InputError(FedrecError):
    """Data, a file, an id or an argument that cannot be used as given."""


class NothingLeftError(InputError):
    """Data of which reading or cleaning left nothing."""


class PlanError(InputError):
    """A plan that is malformed, impossible, or cannot keep what it promises."""


class DamagedError(FedrecError):
    """Bytes (a sum, a model, a journal) that are not what they claim to be."""


class RunError(InputError):
    """A run that cannot go on: the folder is in use, was changed, or does not fit the plan."""


class InterruptedRunError(FedrecError):
    """A training that somebody interrupted; says how it goes on."""


class UnnamedSourceError(InputError):
    """A database that a plan or a run names and the person who uses it does not.

    Args:
        source: its URL.
        where: what names it.
    """

    def __init__(self, source: str, where: str) -> None:
        self.source = source
        super().__init__(
            f"{where} names the database {source}. fedrec does not connect to a database that only a file names: its "
            "author could send your passwords to any server. If you trust this URL, pass it yourself: --data URL, or "
            "data=… in Python"
        )


def suggestion(name: object, choices: Iterable[object]) -> str:
    """Say which known name is near, or list them when there are few.

    >>> suggestion("eese", ["ease", "mf", "popularity"])
    ". Did you mean 'ease'?"
    >>> suggestion("zzz", ["ease", "mf"])
    '. Choose from: ease, mf'
    >>> suggestion("zzz", [])
    ''
    """
    known = sorted({str(choice) for choice in choices})
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if near:
        return f". Did you mean {near[0]!r}?"
    if not known:
        return ""
    shown = ", ".join(known[:20])
    return f". Choose from: {shown}" + (", …" if len(known) > 20 else "")
