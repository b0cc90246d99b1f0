"""The `fedrec` command."""

from __future__ import annotations

import copy
import functools
import gc
import io
import os
import shlex
import sys
from collections.abc import Callable

import typer
from typer.main import get_command

from fedrec.cli import (
    audit,
    bench,
    catalog,
    data,
    federation,
    finished,
    forget,
    models,
    node,
    plans,
    predict,
    privacy,
    runs,
    serve,
    tune,
    verify,
)
from fedrec.cli.output import end_work
from fedrec.errors import DamagedError, FedrecError, InputError, InterruptedRunError, UnnamedSourceError

app = typer.Typer(
    name="fedrec",
    help="Train, check, deploy and serve recommenders on data that never leaves its owners.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
app.add_typer(catalog.app, name="catalog")
app.add_typer(privacy.app, name="privacy")
app.add_typer(node.app, name="node")
app.add_typer(federation.app, name="federation")
app.command("train")(runs.train)
app.command("evaluate")(finished.evaluate)
app.command("recommend")(finished.recommend)
app.command("predict")(predict.predict)
app.command("similar")(finished.similar)
app.command("forget")(forget.forget)
app.command("serve")(serve.serve)
app.command("pages")(serve.pages)
app.command("token")(serve.token)
app.command("compare")(models.compare)
app.command("tune")(tune.tune)
app.command("models")(plans.models)
app.command("plan")(plans.plan)
app.command("audit")(audit.audit)
app.command("verify")(verify.verify)
app.command("sign")(verify.sign)
app.command("bench")(bench.bench)
app.command("demo")(models.demo)
app.command("doctor")(models.doctor)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from fedrec import __version__

        print(__version__)
        raise typer.Exit()


def run() -> None:
    """Run the command line: exit code 0 done, 2 bad input or plan, 1 failure, 130 interrupted."""
    gc.set_threshold(100_000, 20, 100)  # what is imported stays, and looking through it takes a tenth of a start
    try:
        sys.argv[1:] = [_text(argument) for argument in sys.argv[1:]]
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter of an id still gets it
        try:
            _command(_named(sys.argv[1:]))(prog_name="fedrec")
        finally:
            end_work()
    except UnnamedSourceError as error:
        again = shlex.join(["fedrec", *sys.argv[1:], "--data", error.source])
        _fail(f"{error}" + ("" if "--data" in sys.argv else f":\n\n    {again}\n"), 2)
    except (InputError, DamagedError) as error:
        _fail(str(error), 2)
    except InterruptedRunError as error:
        _fail(str(error), 130)
    except FedrecError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        if end.code == 130:
            _interrupted()
        raise
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    except MemoryError as error:
        _fail(
            f"out of memory on this machine, or at the memory limit of this process ({error}); use a model that needs "
            "less memory, a smaller catalog, or shorter lists",
            1,
        )


def _named(arguments: list[str]) -> str | None:
    """Name of the command or group that the arguments begin with, or `None`."""
    commands, groups = app.registered_commands, app.registered_groups
    names = {entry.name for entry in commands} | {entry.name for entry in groups}
    return arguments[0] if arguments and arguments[0] in names else None


@functools.cache
def _command(name: str | None) -> Callable[..., object]:
    """The command line with the command or group of this name only, or with all: building all takes a third of a start.

    Only help of `fedrec` itself and errors about an unknown command show the other ones.
    """
    part = copy.copy(app)
    if name is not None:
        part.registered_commands = [entry for entry in app.registered_commands if entry.name == name]
        part.registered_groups = [entry for entry in app.registered_groups if entry.name == name]
    return get_command(part)


def _text(argument: str) -> str:
    """An argument as text: outside of UTF-8 locales Python hands over bytes that it does not understand.

    Raises:
        InputError: if the bytes are not UTF-8.
    """
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        raise InputError(
            f"argument {argument!r} is not UTF-8 text; use a UTF-8 locale, such as LC_ALL=C.UTF-8"
        ) from None


def _interrupted() -> None:
    _fail("interrupted", 130)


def _fail(message: str, code: int) -> None:
    print(f"fedrec: {message}", file=sys.stderr)
    sys.exit(code)
