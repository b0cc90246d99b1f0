"""Options that say how data are read: defined once, and taken by every command that reads data."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer

from fedrec.cli.options import pair, parsed, split_list
from fedrec.errors import InputError

__all__ = ["Columns", "OnError", "Reading", "reads_data"]


Columns = Annotated[
    str | None, typer.Option("--columns", help="Names of the columns: user_id=customer,item_id=sku,timestamp=when.")
]
OnError = Annotated[
    str | None,
    typer.Option("--on-error", help="For rows that cannot be used: raise (stop with an error, the default) or skip."),
]


@dataclass(frozen=True)
class Reading:
    """How data are read, as the command line says it; `None` where it says nothing."""

    columns: Columns = None
    format: Annotated[str | None, typer.Option("--format", help="File format, if it is not detected correctly.")] = None
    encoding: Annotated[str | None, typer.Option("--encoding", help="Text encoding of the file. Default: utf-8.")] = (
        None
    )
    on_error: OnError = None
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header", help="Whether the first line is a header, if this is not detected correctly."
        ),
    ] = None
    time_format: Annotated[
        str | None,
        typer.Option(
            "--time-format",
            help="Format of times that are not ISO 8601: day-first, month-first, or a format such as '%d.%m.%Y %H:%M'.",
        ),
    ] = None
    decimal: Annotated[
        str | None,
        typer.Option("--decimal", help="Decimal mark of numbers: . or , (the other one may then separate thousands)."),
    ] = None
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", help="Read only rows with this value: kind=click. Repeat the option to allow more values."
        ),
    ] = None
    kinds: Annotated[
        str | None,
        typer.Option(
            "--kinds",
            help="Weight of each kind of row: 'event: view=1, cart=3, purchase=10'. Weight 0 leaves out the rows.",
        ),
    ] = None
    catalog: Annotated[
        str | None,
        typer.Option(
            "--catalog",
            help="File of items with a column item_id and what is known of them (titles, genres, prices, vectors): "
            "CSV, JSON lines or Parquet.",
        ),
    ] = None
    users: Annotated[
        str | None,
        typer.Option(
            "--users",
            help="File with one row per user: user_id and columns such as age, by which figures can be grouped: CSV, "
            "JSON lines or Parquet.",
        ),
    ] = None
    events: Annotated[
        str | None,
        typer.Option("--events", help="Log of 'fedrec serve', a SQLite file, whose events join the data."),
    ] = None
    clean: Annotated[
        list[str] | None,
        typer.Option("--clean", help="A cleaning step, such as rating_at_least=4, repeats=sum or k_core=5."),
    ] = None

    def settings(self, source: str | None = None) -> dict[str, Any]:
        """The `data` part of a plan, as far as options say it.

        Args:
            source: of the data.

        Raises:
            InputError: if an option is not written as it should be.
        """
        options = {
            "source": source,
            "format": self.format,
            "encoding": self.encoding,
            "on_error": self.on_error,
            "header": self.header,
            "time_format": self.time_format,
            "decimal": self.decimal,
            "catalog": self.catalog,
            "users": self.users,
            "events": self.events,
        }
        settings: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
        for column, value in (pair(part, "--where") for part in self.where or []):
            settings.setdefault("where", {}).setdefault(column, []).append(value)
        if self.kinds is not None:
            settings["kinds"] = _kinds(self.kinds)
        if self.columns is not None:
            settings["columns"] = dict(pair(part, "--columns") for part in split_list(self.columns) or [])
        if self.clean:
            settings["cleaning"] = {key: parsed(text) for key, text in (pair(part, "--clean") for part in self.clean)}
        return settings


def reads_data(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `Reading` in place of its parameter `reading`.

    Args:
        without: options that the command does not have.
    """
    names = [field.name for field in fields(Reading) if field.name not in without]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**options: Any) -> None:
            chosen = {name: options.pop(name) for name in names}
            command(**options, reading=Reading(**chosen))

        hints = get_type_hints(command, include_extras=True)
        own = get_type_hints(Reading, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(command).parameters.items():
            if name == "reading":
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters += [inspect.Parameter(each, kind, default=None, annotation=own[each]) for each in names]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return decorate


def _kinds(text: str) -> dict[str, Any]:
    """Column and weights in `event: view=1, cart=3`; a column may have colons itself."""
    head, colon, _ = text.partition("=")[0].rpartition(":")
    if not colon or not head.strip() or "=" not in text:
        raise InputError(f"--kinds {text!r}: write it as 'COLUMN: KIND=WEIGHT, KIND=WEIGHT', as in 'event: view=1'")
    pairs = [pair(part, "--kinds") for part in split_list(text[len(head) + 1 :]) or []]
    weights: dict[str, Any] = {}
    for kind, weight in pairs:
        if kind in weights:
            raise InputError(f"--kinds {text!r}: {kind!r} is given twice")
        weights[kind] = parsed(weight)
    return {"column": head.strip(), "weights": weights}
