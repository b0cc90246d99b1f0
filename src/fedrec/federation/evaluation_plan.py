"""What a plan measures, and what measuring decides."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fedrec.errors import InputError, PlanError
from fedrec.evaluation.groups import INTERACTIONS, Groups, check_grouped
from fedrec.evaluation.metrics import DEFAULT_METRICS, parse_metrics
from fedrec.evaluation.protocols import check_protocol, parse_protocol

__all__ = ["EvaluationPlan"]

_UNSAID = ("by", "groups")
"""Keys that are written only where they say something: plans of earlier versions keep their digests."""


class EvaluationPlan(BaseModel):
    """What is measured, and what measuring decides.

    Args:
        protocol: how a held-out item is ranked: `full` among the whole catalog, `sampled:99` among 99 items that the
            user never had, `cold` among the items that split `cold-items` holds out for all users, `known` the others
            among the whole catalog.
        metrics: such as `ndcg@10`; the first one decides `patience` and `keep`. `rmse` and `mae` by default for a model
            that reads ratings.
        every: number of rounds between validations; 0 validates only at the end.
        patience: stop training after this number of validations without improvement; `None` never stops early.
        keep: which model is kept: that of the `last` round, or of the round that is `best` on validation.
        by: column of the users' table by which users are grouped, to be measured apart too; `interactions` groups them
            by how many they have. `None` measures everybody together.
        groups: names of the groups, such as `[18-24, 25-34]`: values, numbers or ranges; the first run fills them in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    protocol: str = "full"
    metrics: tuple[str, ...] = DEFAULT_METRICS
    every: int = Field(default=0, ge=0)
    patience: int | None = Field(default=None, ge=1)
    keep: Literal["last", "best"] = "last"
    by: str | None = None
    groups: tuple[str, ...] = ()

    @field_validator("metrics", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    @field_validator("groups", mode="before")
    @classmethod
    def _labelled(cls, value: Any) -> Any:
        named = cls._listed(value)
        names = (named,) if isinstance(named, int | float) and not isinstance(named, bool) else named
        whole = isinstance(names, list | tuple)
        return tuple(str(name) if isinstance(name, int | float) else name for name in names) if whole else names

    @model_validator(mode="after")
    def _check(self) -> EvaluationPlan:
        try:
            check_protocol(parse_metrics(self.metrics), parse_protocol(self.protocol))
        except PlanError as error:
            raise PlanError(f"evaluation: {error}") from None
        if self.every == 0 and (self.patience is not None or self.keep == "best"):
            raise PlanError("evaluation: patience and keep: best need validations; set evaluation.every to 1 or more")
        if self.groups and self.by is None:
            raise PlanError("evaluation: groups are of a column; name it, as in evaluation.by: age")
        if self.by == "":
            raise PlanError("evaluation: by is empty; name a column of users, or interactions")
        try:
            if self.by is not None:
                check_grouped(parse_metrics(self.metrics), self.by)
            _ = self.grouping
        except InputError as error:
            raise PlanError(f"evaluation: {error}") from None
        return self

    @property
    def grouping(self) -> Groups | None:
        """The groups of users; `None` where they are not grouped, or their names are to be filled in."""
        return Groups(self.by, self.groups) if self.by is not None and self.groups else None

    @property
    def by_columns(self) -> bool:
        """Whether users are grouped by columns of theirs, which a run does not keep."""
        return self.by not in (None, INTERACTIONS)

    def without_columns(self) -> EvaluationPlan:
        """What is measured of users without columns."""
        return self.model_copy(update={"by": None, "groups": ()}) if self.by_columns else self

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if key not in _UNSAID or value}
