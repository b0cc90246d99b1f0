"""Every error fedrec raises on purpose, and the suggestion of a near name.

An error says what was wrong, where, and what to do. The command line ends with exit code 2 for `InputError` and
`DamagedError`, and with 1 for any other `FedrecError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "DamagedError",
    "FedrecError",
    "InputError",
    "InterruptedRunError",
    "NothingLeftError",
    "PlanError",
    "RunError",
    "UnnamedSourceError",
    "enumerated",
    "suggestion",
]


class FedrecError(Exception):
    """Base of every error that fedrec raises on purpose."""


class InputError(FedrecError):
    """Data, a file, an id or an argument is invalid."""


class NothingLeftError(InputError):
    """Reading or cleaning left no interaction."""


class PlanError(InputError):
    """A plan is malformed, impossible, or cannot keep its promises."""


class DamagedError(FedrecError):
    """Bytes (of a sum, a model, a journal) are damaged or were changed."""


class RunError(InputError):
    """A run cannot continue: its folder is in use, was changed, or does not fit the plan."""


class InterruptedRunError(FedrecError):
    """A training was interrupted; the message says how to continue it."""


class UnnamedSourceError(InputError):
    """A plan or run names a database that its user has not named.

    Args:
        source: URL of the database.
        where: the plan or run that names the database.
    """

    def __init__(self, source: str, where: str) -> None:
        self.source = source
        super().__init__(
            f"{where} names the database {source}. fedrec does not connect to a database that only a file names: its "
            "author could send your passwords to any server. If you trust this URL, pass it yourself: --data URL, or "
            "data=… in Python"
        )


def enumerated(names: Sequence[str]) -> str:
    """Names as a sentence lists them.

    >>> enumerated(["ease"]), enumerated(["ease", "ials", "mf"])
    ('ease', 'ease, ials and mf')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def suggestion(name: object, choices: Iterable[object]) -> str:
    """Suggest the choice nearest to a name, or list the choices if no choice is near.

    >>> suggestion("eese", ["ease", "mf", "popularity"])
    ". Did you mean 'ease'?"
    >>> suggestion("zzz", ["ease", "mf"])
    '. Choose from: ease, mf'
    >>> suggestion("zzz", [])
    ''
    """
    names = sorted({str(choice) for choice in choices})
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if near:
        return f". Did you mean {near[0]!r}?"
    if not names:
        return ""
    shown = ", ".join(names[:20])
    return f". Choose from: {shown}" + (", …" if len(names) > 20 else "")
