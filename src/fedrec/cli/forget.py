"""The command that forgets users."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedrec.cli.finished import RunFolder, ids_in_file
from fedrec.cli.options import Json, Quiet, Threads
from fedrec.cli.output import Output, seconds_in_words
from fedrec.errors import InputError
from fedrec.progress import RUN

__all__ = ["forget"]

_USER_COLUMNS = ("user_id", "user", "userId")


def forget(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder for the run without these users.")],
    user: Annotated[
        list[str] | None, typer.Option("--user", help="Id of a user. Repeat the option for several users.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option("--users", metavar="FILE", help="File of ids of users, one on each line.")
    ] = None,
    asked: Annotated[
        str | None,
        typer.Option(
            "--asked",
            metavar="LOG",
            help="Forget the users of RUN who asked for that with DELETE /v1/users/ID, as this log of 'fedrec serve "
            "--events' says: a SQLite file, or postgresql://user@host/database.",
        ),
    ] = None,
    how: Annotated[
        str,
        typer.Option(
            "--how",
            help="subtract: from the sums that RUN kept. retrain: train its plan again, without the users. auto: "
            "subtract if that is exact, else retrain; of a run under differential privacy, keep the model and say what "
            "its epsilon promises these users together.",
        ),
    ] = "auto",
    prove: Annotated[
        bool, typer.Option("--prove", help="Train on the data without the users, and compare digests of the models.")
    ] = False,
    delete_run: Annotated[
        bool, typer.Option("--delete-run", help="Delete RUN at the end: the users are still in it.")
    ] = False,
    threads: Threads = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a run from RUN as if some users had never been in its data, and say what still holds them."""
    output = Output(json_, quiet)
    clock, watch = output.begin("forget", threads, *RUN)
    from fedrec.runs.forgettable import Forgettable
    from fedrec.runs.forgetting import forget_users

    if not user and users is None and asked is None:
        raise InputError("no user is named: give --user ID, --users FILE or --asked LOG")
    opened = Forgettable.open(run)
    ids: list[Any] = [opened.users.parse(text) for text in user or ()]
    if users is not None:
        ids += ids_in_file(users, opened.users, f"--users {users}", _USER_COLUMNS)
    if asked is not None:
        ids += opened.asked(asked)
    report = forget_users(opened, ids, out, how, prove, delete_run, watch, clock=clock)
    output.answer(report, *_words(report))


def _words(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    run, out, users = report["run"], report["out"], _many(report["users"], "user")
    digests, proof = report["digests"], report["proof"]
    promise = report["privacy"]
    said = {
        "subtract": f"{users} subtracted from the sums that {run} kept; {out} has the model without them",
        "retrain": f"{out} is trained anew, on the data of {run} without {users}",
        "covered": f"{users} left the data of {out}; its model is the one of {run}, from which nothing was removed, "
        f"and the ledger of its charges is with {run}",
    }
    lines = [f"{said[report['how']]}, in {seconds_in_words(report)}"]
    if report["without_training"]:
        lines.append(f"{_many(report['without_training'], 'of them', 'of them')} took no part in the training")
    if promise is not None:
        lines.append(_promised(run, report["users"], promise))
    left = report["left_with_them"]
    if any(left.values()):
        counts = [_many(left["users"], "other user"), _many(left["interactions"], "interaction of others",
                  "interactions of others"), _many(left["items"], "item")]  # fmt: skip
        lines.append(f"left with them, by the plan's cleaning or as nobody has them: {', '.join(counts)}")
    lines.append(f"digest of the model: {digests['before'][:12]}… before, {digests['after'][:12]}… after")
    if proof is not None:
        lines.append(f"proof: training without {users} gives the same bytes, digest {proof['digest'][:12]}…")
    if report["deleted"]:
        lines.append(f"{run} was deleted")
    elif report["still_hold"]:
        lines.append(f"{run} still holds the users; --delete-run deletes it:")
        lines += [f"  {name}: {what}" for name, what in report["still_hold"].items()]
    if report["sources"]:
        lines.append(f"not changed, and not looked at: {', '.join(report['sources'])}; nor copies and lists elsewhere")
    return lines


def _promised(run: str, users: int, promise: dict[str, Any]) -> str:
    """What differential privacy has to do with it, with the arithmetic."""
    epsilon, delta = promise["epsilon"], promise["delta"]
    one = f"the promise of {run} to each user is epsilon {epsilon:g} at delta {delta:g}"
    if "epsilon_of_both_runs" in promise:
        return (
            f"{one}. Its model was released before, and the new one promises as much again: for the other users both "
            f"together are epsilon {promise['epsilon_of_both_runs']:g} at delta {promise['delta_of_both_runs']:g}"
        )
    if users == 1:
        return f"{one}, which covers this user. If that is not enough, use --how retrain"
    return (
        f"{one}; for {users} users together that is epsilon {users} x {epsilon:g} = "
        f"{promise['epsilon_of_all_users']:g} at delta {users} x {delta:g} x e^({users - 1} x {epsilon:g}) = "
        f"{promise['delta_of_all_users']:.3g}. If that is not enough, use --how retrain"
    )


def _many(count: int, one: str, several: str = "") -> str:
    """
    >>> _many(1, "user"), _many(2, "user")
    ('1 user', '2 users')
    """
    return f"{count:,} {one if count == 1 else several or one + 's'}"
