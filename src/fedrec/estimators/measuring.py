"""Measuring from Python: a fitted model on what is held out, of everybody or of groups of users too."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fedrec.bars import bar
from fedrec.data.arguments import check_arguments
from fedrec.data.judging import remark_on_values
from fedrec.data.listing import listed
from fedrec.data.reading.catalogs import read_user_features
from fedrec.data.reading.frames import as_table
from fedrec.data.splits import Split
from fedrec.engines.local import LocalEngine
from fedrec.errors import InputError, suggestion
from fedrec.estimators.estimator import Estimator, Table
from fedrec.evaluation.groups import Groups
from fedrec.evaluation.metrics import default_metrics
from fedrec.federation.calls import HELD_OUT, Part
from fedrec.progress import stage
from fedrec.runs.differing import differences
from fedrec.runs.finished import OpenedRun
from fedrec.runs.reports import groups_in_words, merged_in_words

__all__ = ["difference", "evaluate"]


def evaluate(
    model: Estimator,
    split: Split | None = None,
    metrics: str | Sequence[str] | None = None,
    *,
    protocol: str = "full",
    part: Part = "test",
    by: str | None = None,
    groups: str | Sequence[str] | None = None,
    users: Table | str | Path | None = None,
    progress: bool = True,
) -> Any:
    """Measure a fitted model on the held-out part of a split.

    Warns where the model was trained on what is held out.

    Args:
        model: fitted.
        split: what is held out. By default, what the model's own plan holds out of the data that it has: those that a
            run was trained on, or those with which `load_model` opened it.
        metrics, protocol: the metrics, and how held-out items are ranked. Default: metrics of lists, or `rmse` and
            `mae` of a model that predicts ratings.
        part: `test` or `valid`.
        by: also measure groups of users, by this column of theirs, or by `interactions`: how many items a history
            holds.
        groups: names of the groups: values, or of a column of numbers also ranges, such as `["18-24", "25-"]`. By
            default the values, or three ranges.
        users: table or file with one row per user, `user_id` and columns, for `by`.
        progress: show a bar on a terminal or in a notebook, if it takes longer than a second.

    Returns:
        Columns `metric`, `value`, `standard_error`, `users`; with `by` also `group`, first of all users (`everyone`),
        then of each group, and of the `others`, among whom are groups with fewer users than `min_clients` of the plan.
        A pandas table if the split or the model is of pandas data.

    Raises:
        InputError: if nothing is held out, or users cannot be grouped so.

    Example:
        >>> import fedrec as fr
        >>> split = fr.leave_last_out(fr.synthetic(users=300, items=120, interactions_per_user=12))
        >>> fr.evaluate(fr.Popularity().fit(split.train), split, ["hr@10"]).columns
        ['metric', 'value', 'standard_error', 'users']
        >>> table = fr.evaluate(fr.Popularity().fit(split.train), split, ["hr@10"], by="interactions")
        >>> table["group"].to_list()
        ['everyone', '0-5', '6-11', '12-']
    """
    check_arguments(evaluate, locals())
    _check_part(part)
    opened = model.opened
    if split is not None:
        _check_catalog(model, split)
    unjudged = remark_on_values(split.data) if split is not None and opened.data.judged else None
    if unjudged is not None:
        warnings.warn(f"the model was fitted on cleaned data, but this split is not cleaned: {unjudged}", stacklevel=2)
    wanted = default_metrics(opened.model.traits.reads_ratings) if metrics is None else metrics
    names = _names(wanted)
    with bar("evaluate", progress), stage("prepare"):
        engine = opened.measured if split is None else opened.with_split(split)
        if split is not None or opened.origin is not None:
            caution = opened.warning_of(engine, part)
            if caution:
                warnings.warn(caution + ("" if split is None else "; fit it on split.train"), stacklevel=2)
        chosen = _groups(opened, engine, part, by, groups, users)
        found = opened.measure_groups(names, protocol, part, engine, chosen)
    if by is not None and (said := merged_in_words(groups_in_words(by, opened.plan.min_clients, found))):
        warnings.warn(said, stacklevel=2)
    rows = [(name, summary) for name, group in found.named.items() for summary in group.values()]
    table = pl.DataFrame(
        {
            "group": [name for name, _ in rows],
            "metric": [str(summary.metric) for _, summary in rows],
            "value": [summary.value for _, summary in rows],
            "standard_error": [summary.standard_error for _, summary in rows],
            "users": [summary.users for _, summary in rows],
        },
        schema={
            "group": pl.String,
            "metric": pl.String,
            "value": pl.Float64,
            "standard_error": pl.Float64,
            "users": pl.Int64,
        },
    )
    table = table if by is not None else table.drop("group")
    return table.to_pandas() if _pandas(model, split) else table


def difference(
    model: Estimator,
    other: Estimator,
    split: Split | None = None,
    metrics: str | Sequence[str] | None = None,
    *,
    protocol: str | None = None,
    part: Part = "test",
    progress: bool = True,
) -> Any:
    """Measure two fitted models on the same users: how much `other` is better, and whether that is more than luck.

    Args:
        model, other: fitted.
        split: what is held out. By default what each model's own plan holds out, which must be the same.
        metrics: metrics that each user has, such as `ndcg@10`. Default: those of the plan of `model`.
        protocol: how held-out items are ranked. Default: as the plans say.
        part: `test` or `valid`.
        progress: show a bar on a terminal or in a notebook, if it takes longer than a second.

    Returns:
        A row per metric: `metric`, values of `model` and `other`, their `difference` (other − model), its
        `standard_error` over users, the ends `low` and `high` of its 95 % interval, `users`, a `verdict` (`better`,
        `worse` or `cannot tell`), and whether this `holds_together` for all rows at once (Bonferroni). A pandas table
        if the split or `model` is of pandas data.

    Raises:
        InputError: if both are not measured on the same users, or a metric is none that each user has.

    Example:
        >>> import fedrec as fr
        >>> split = fr.leave_last_out(fr.synthetic(users=300, items=120, interactions_per_user=12))
        >>> one, two = fr.Popularity().fit(split.train), fr.EASE().fit(split.train)
        >>> fr.difference(one, two, split, ["hr@10"]).select("metric", "verdict").rows()
        [('hr@10', 'better')]
    """
    check_arguments(difference, locals())
    _check_part(part)
    names = None if metrics is None else _names(metrics)
    with bar("evaluate", progress), stage("prepare"):
        engines = None
        if split is not None:
            for each in (model, other):
                _check_catalog(each, split)
            engines = (model.opened.with_split(split), other.opened.with_split(split))
        found = differences(model.opened, other.opened, names, protocol, part, engines)
    table = pl.DataFrame(
        [
            {
                "metric": str(each.metric),
                "model": each.first,
                "other": each.other,
                "difference": each.difference,
                "standard_error": each.standard_error,
                "low": each.interval()[0],
                "high": each.interval()[1],
                "users": each.users,
                "verdict": each.verdict,
                "holds_together": each.holds_together,
            }
            for each in found
        ]
    )
    return table.to_pandas() if _pandas(model, split) else table


def _check_part(part: str) -> None:
    if part not in HELD_OUT:
        raise InputError(f"part={part!r} is not known{suggestion(part, HELD_OUT)}")


def _check_catalog(model: Estimator, split: Split) -> None:
    if not split.data.catalog.items.same_as(model.opened.catalog.items):
        raise InputError("the split and the model have different catalogs; create both from the same data")


def _names(metrics: str | Sequence[str]) -> list[str]:
    return metrics.split(",") if isinstance(metrics, str) else list(listed(metrics, "metrics"))


def _pandas(model: Estimator, split: Split | None) -> bool:
    return model._pandas if split is None else split.data.pandas or model._pandas


def _groups(
    opened: OpenedRun, engine: LocalEngine, part: Part, by: str | None, groups: object, users: object
) -> Groups | None:
    """The groups of users that are asked for; `None` for none."""
    if by is None:
        if groups is not None or users is not None:
            raise InputError("groups and users are for by; name a column of users, as in by='age'")
        return None
    if users is not None:
        missing = opened.describe_users(_user_table(users), engine)
        if missing:
            warnings.warn(f"users: {missing:,} users have no row, and count among the others", stacklevel=3)
    labels = None
    if groups is not None:
        labels = groups.split(",") if isinstance(groups, str) else [str(name) for name in listed(groups, "groups")]
    return opened.groups_by(by, part, labels, engine)


def _user_table(users: object) -> pl.DataFrame:
    return read_user_features(users) if isinstance(users, str | Path) else as_table(users)
