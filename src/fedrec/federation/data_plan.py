"""Which interactions a plan, or an owner, reads, and how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from fedrec.data.cleaning import Cleaning
from fedrec.data.databases.logs import event_database
from fedrec.data.databases.urls import check_source
from fedrec.data.reading.kinds import Kinds
from fedrec.data.reading.times import check_time_format
from fedrec.errors import PlanError
from fedrec.models.registry import explain, foremost

__all__ = ["DataPlan"]

_LATER_KEYS = ("header", "time_format", "decimal", "where", "kinds", "catalog", "users", "events")


class DataPlan(BaseModel):
    """Which interactions.

    Args:
        source: a registered name, a path, `synthetic:…`, the URL of a database without a password, or `memory` for a
            table given in the library.
        table, query: the table or the query that is read from a database, if the URL does not name it.
        format, columns, encoding: format, names of columns and text encoding of a file, if fedrec does not detect them
            correctly.
        on_error: `raise` stops at the first row that cannot be used; `skip` leaves such rows out, counts them and keeps
            them in a file.
        header: whether the first line of a file has the names of the columns, if fedrec does not detect this correctly.
        time_format: format of times that are not ISO 8601: `day-first`, `month-first`, or a format such as `%d.%m.%Y`.
        decimal: decimal mark of numbers in a file; the other mark may then separate thousands.
        where: only rows with these values are read: a column, and its value or values, such as `{kind: click}`.
        kinds: weight of each kind of row, such as `{column: event, weights: {view: 1, cart: 3, purchase: 10}}`.
        catalog: file of items with a column `item_id` and what is known of them: titles, genres, prices, vectors. Items
            that nobody has can then be recommended too, by models that read item features.
        users: file with one row per user: `user_id` and columns such as age or region, by which figures can be grouped.
        events: log of `fedrec serve`, a path or URL, whose events join the interactions; users who asked to be
            forgotten are left out.
        cleaning: cleaning steps, in this order.
        digest: SHA-256 of the cleaned data; filled in by the first run, checked by every later one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str
    table: str | None = None
    query: str | None = None
    format: str | None = None
    columns: dict[str, str] | None = None
    encoding: str = "utf-8"
    on_error: Literal["raise", "skip"] = "raise"
    header: bool | None = None
    time_format: str | None = None
    decimal: Literal[".", ","] | None = None
    where: dict[str, tuple[str, ...]] | None = None
    kinds: Kinds | None = None
    catalog: str | None = None
    users: str | None = None
    events: str | None = None
    cleaning: Cleaning = Cleaning()
    digest: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        if isinstance(value, str):  # not shown: it may be a URL with a password
            raise PlanError("data: write it as a mapping, data: {source: …}")
        if isinstance(value, dict) and not isinstance(value.get("source", ""), str):
            raise PlanError("data.source: must be text")
        return value

    @field_validator("where", mode="before")
    @classmethod
    def _values(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        listed = {name: found if isinstance(found, list | tuple) else [found] for name, found in value.items()}
        return {name: [_as_text(one) for one in found] for name, found in listed.items()}

    @model_validator(mode="after")
    def _check(self) -> DataPlan:
        check_source(self.source, self.table, self.query)
        if self.events is not None:
            event_database(self.events)
        if self.time_format is not None:
            check_time_format(self.time_format)
        return self

    @classmethod
    def make(cls, settings: dict[str, Any], where: str = "data") -> DataPlan:
        """The data of a plan from settings.

        Raises:
            PlanError: naming the key that is wrong and what to do.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            parts: dict[str, type[BaseModel]] = {"cleaning": Cleaning, "kinds": Kinds}
            inner = [parts[str(part)] for part in foremost(error)["loc"][:-1] if str(part) in parts]
            raise PlanError(explain(error, where, list((inner[-1] if inner else cls).model_fields))) from None

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that plans of earlier versions lack are written only where they say something: digests stay."""
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if value is not None or key not in _LATER_KEYS}

    def reading(self) -> dict[str, Any]:
        """Options of `load_source`: those that differ from its defaults, as some sources take none."""
        options: dict[str, Any] = {"format": self.format, "columns": self.columns, "table": self.table}
        options |= {"query": self.query, "header": self.header, "time_format": self.time_format}
        options |= {"decimal": self.decimal, "users": self.users, "events": self.events}
        if self.where is not None:
            options["where"] = {name: list(values) for name, values in self.where.items()}
        if self.kinds is not None:
            options["kinds"] = self.kinds.model_dump()
        return {
            **{name: option for name, option in options.items() if option is not None},
            **({"encoding": self.encoding} if self.encoding != "utf-8" else {}),
            **({"on_error": self.on_error} if self.on_error != "raise" else {}),
        }


def _as_text(value: Any) -> Any:
    """A number or truth value as the text that it is compared with."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value
