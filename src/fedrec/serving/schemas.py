"""What requests and answers look like, for checks and for the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictInt, StringConstraints

from fedrec.data.events import Kind

__all__ = [
    "Answer",
    "BatchAnswer",
    "BatchQuestion",
    "EventsAnswer",
    "ExplainAnswer",
    "ForgetAnswer",
    "HistoryQuestion",
    "ListAnswer",
    "ListQuestion",
    "ModelAnswer",
    "Problem",
    "SentEvent",
    "SimilarAnswer",
    "Taken",
    "seconds",
]

Text = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=512, pattern=r"^[^\x00]+$")]
Id = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | Text
"""An id of a user or an item, a whole number or text as in the data."""
Length = Annotated[StrictInt, Field(ge=1, le=1000)]
Moment = Annotated[float, Field(ge=0, le=2**40)] | AwareDatetime
"""Seconds since 1970, or ISO 8601 with an offset."""
Number = Annotated[float, Field(ge=-1e9, le=1e9)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Taken(_Model):
    """An interaction of a history."""

    item: Id
    at: Moment | None = None
    rating: Number | None = None


class ListQuestion(_Model):
    """What a list is asked for by in a URL."""

    user: Text = Field(description="Id of a user, as in the data.")
    n: Annotated[int, Field(ge=1, le=1000)] = Field(10, description="Length of the list.")
    include_seen: bool = Field(False, description="Whether items that the user has may appear.")
    only: list[Text] | None = Field(None, max_length=10_000, description="Items that may appear; repeat the name.")
    block: list[Text] | None = Field(None, max_length=10_000, description="Items that may not appear.")

    @classmethod
    def parameters(cls) -> list[dict[str, Any]]:
        """The fields as OpenAPI describes parameters of a URL."""
        schema = cls.model_json_schema()
        return [
            {"name": name, "in": "query", "required": name in schema["required"], "schema": _plain(field)}
            for name, field in schema["properties"].items()
        ]


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    """A field that may be left out, without null, which a URL cannot say."""
    chosen: dict[str, Any] = next((option for option in field.get("anyOf", ()) if option.get("type") != "null"), {})
    return {key: value for key, value in field.items() if key not in ("anyOf", "default")} | chosen


class HistoryQuestion(_Model):
    """The history of somebody whom the server need not know; nothing of it is kept."""

    history: list[Taken | Id] = Field(max_length=2000, description="Items, oldest first.")
    n: Length = 10
    include_seen: bool = Field(False, strict=True)
    only: list[Id] | None = Field(None, max_length=10_000)
    block: list[Id] | None = Field(None, max_length=10_000)


class BatchQuestion(_Model):
    """Users who each get a list."""

    users: list[Id] = Field(min_length=1, max_length=100)
    n: Length = 10
    include_seen: bool = Field(False, strict=True)


class SentEvent(_Model):
    """Something that a user did with an item."""

    event_id: Text = Field(description="Names the event: sent twice, it counts once.")
    user: Id
    item: Id
    kind: Kind
    at: Moment | None = Field(None, description="When; now by default.")
    value: Number | None = Field(None, description="A rating.")
    model: Text | None = Field(None, description="Digest of the model that showed the item.")
    request_id: Text | None = Field(None, description="The answer that showed the item.")
    rank: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    propensity: Annotated[float, Field(gt=0, le=1)] | None = None


class Answer(_Model):
    """What every answer has."""

    model: str = Field(description="SHA-256 of the model that answered.")


class Listed(_Model):
    """An item of a list."""

    item: int | str
    title: str | None = None
    score: float
    rank: int
    propensity: float | None = Field(
        None, description="How likely the slot was to show the item, where lists are drawn."
    )


class ListAnswer(Answer):
    """A list for one user."""

    request_id: str
    user: int | str | None = None
    items: list[Listed]


class BatchAnswer(Answer):
    """Lists of users; users of whom nothing is known are in `unknown`."""

    request_id: str
    lists: list[dict[str, Any]]
    unknown: list[int | str]


class SimilarAnswer(Answer):
    """The nearest items."""

    item: int | str
    items: list[Listed]


class ExplainAnswer(Answer):
    """Which items of the user bring an item its score."""

    user: int | str
    item: int | str
    score: float
    exact: bool = Field(description="Whether the scores below, with those of all other items of the user, add up.")
    how: Literal["sum", "similarity"]
    because: list[Listed]


class EventsAnswer(Answer):
    """Events that are on the disk."""

    accepted: int
    new: int = Field(description="How many of them were not there before.")


class ForgetAnswer(Answer):
    """A user who is gone."""

    user: int | str
    events: int = Field(description="How many events were removed.")
    in_run: bool = Field(description="Whether the run that answers has the user; 'fedrec forget' makes one without.")


class ModelAnswer(Answer):
    """The model that answers."""

    name: str
    rounds: int
    items: int
    users: int
    settings: dict[str, Any]


class Problem(BaseModel):
    """Why there is no answer."""

    reason: str


def seconds(moment: float | datetime | None, now: float) -> float:
    """A moment in seconds since 1970.

    >>> from datetime import UTC
    >>> seconds(datetime(1970, 1, 2, tzinfo=UTC), 0.0), seconds(None, 5.0)
    (86400.0, 5.0)
    """
    if moment is None:
        return now
    return moment.timestamp() if isinstance(moment, datetime) else float(moment)
