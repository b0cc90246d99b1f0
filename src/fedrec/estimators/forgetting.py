"""Forgetting users from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrec.bars import bar
from fedrec.data.arguments import check_arguments
from fedrec.data.listing import listed_ids
from fedrec.errors import InputError
from fedrec.runs.forgettable import Forgettable
from fedrec.runs.forgetting import forget_users

__all__ = ["forget"]


def forget(
    run: str | Path,
    users: Any = None,
    *,
    out: str | Path,
    asked: str | None = None,
    how: str = "auto",
    prove: bool = False,
    delete_run: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Make a run from a finished one as if some users had never been in its data.

    Args:
        run: folder of the finished run.
        users: id or ids of the users, of the type that the data has.
        out: folder of the new run.
        asked: log of events of a server; users who asked it to be forgotten are forgotten too.
        how: `subtract` takes the users out of the sums that the run kept; `retrain` trains its plan again; `auto`
            subtracts if that is exact, else retrains; of a run under differential privacy it keeps the model.
        prove: train on the data without the users, and compare digests of the models.
        delete_run: delete the finished run at the end: the users are still in it.
        progress: show a bar on a terminal or in a notebook, if it takes longer than a second.

    Returns:
        The report: `how` (`subtract`, `retrain` or `covered`), number of `users` and of those `without_training`,
        `digests` of the model `before` and `after`, `left_with_them`, `proof`, `privacy`, `still_hold` (what files of
        the finished run still hold of the users) and `sources`. The new run has it in `forgotten.json`, but for what is
        about files.

    Raises:
        InputError: if a user is unknown, or cannot be forgotten in this way.
        DamagedError: if the run is damaged.

    Example:
        >>> import tempfile
        >>> import fedrec as fr
        >>> folder = Path(tempfile.mkdtemp())
        >>> fr.EASE().fit(fr.synthetic(users=100, items=90, interactions_per_user=10)).save(folder / "run")
        >>> report = fr.forget(folder / "run", [7, 9], out=folder / "without", prove=True)
        >>> report["how"], report["users"], report["proof"]["equal"]
        ('retrain', 2, True)
    """
    check_arguments(forget, locals())
    if users is None and asked is None:
        raise InputError("no user is named: give users, or asked, a log of events")
    wanted = [] if users is None else list(listed_ids(users, "users"))
    with bar("forget", progress) as watch:
        opened = Forgettable.open(Path(run))
        wanted += [] if asked is None else opened.asked(asked)
        return forget_users(opened, wanted, Path(out), how, prove, delete_run, watch)
