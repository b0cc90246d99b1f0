"""The estimator face of tuning: hyperparameters chosen on validation, never on test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from fedrec.bars import bar
from fedrec.data.arguments import check_arguments
from fedrec.data.digests import digest_of
from fedrec.data.splits import Split
from fedrec.engines.local import LocalEngine
from fedrec.estimators.estimator import Estimator, Table, as_cleaned, warn_of_values
from fedrec.federation.plan import Plan
from fedrec.runs.tuning import Strategy, choose

__all__ = ["Tuning", "tune"]


@dataclass(frozen=True, eq=False)
class Tuning:
    """Result of tuning.

    Args:
        table: a row per candidate in the order of the grid: its settings, the deciding metric on validation,
            `standard_error` over users, `sd` over seeds, `rounds`, `seconds`, of them `seconds_train` and
            `seconds_evaluate`, and whether it is `chosen`; a pandas table if the data is pandas.
        best: the chosen estimator, not fitted.
        settings: the chosen values of the keys of the grid.
        remark: why the requested strategy was replaced by another strategy; empty otherwise.
    """

    table: Any
    best: Estimator
    settings: dict[str, Any]
    remark: str = ""


def tune(
    kind: type[Estimator],
    data: Table | Split,
    grid: Mapping[str, Sequence[Any]],
    *,
    metric: str | None = None,
    strategy: Strategy = "grid",
    seeds: int = 1,
    split: str = "leave-last-out",
    protocol: str = "full",
    seed: int = 0,
    cohort: float | None = None,
    plan: dict[str, Any] | None = None,
    told: Callable[[dict[str, Any], int, float], None] = lambda *_: None,
    progress: bool = True,
    **hyperparameters: Any,
) -> Tuning:
    """Choose hyperparameters of a model on the validation part of a split; its test part is never measured.

    Args:
        kind: an estimator class, such as `fr.EASE`.
        data: a `Split`, or interactions that are split as `split` says.
        grid: values to try, by hyperparameter; `cohort` is allowed as well.
        metric: metric that decides. Default: `ndcg@10`, or `rmse` if the model predicts ratings.
        strategy: `grid` trains every candidate fully; `halving` stops the worse candidates early, see
            `fedrec.runs.tuning.choose`.
        seeds: number of trainings per candidate, with different seeds; their mean decides.
        split, protocol: how to split the data, and how to rank held-out items.
        seed, cohort, plan, hyperparameters: settings of all candidates, as in `Estimator`.
        told: function that is called with settings, rounds and value after each measurement of a candidate.
        progress: show a bar on a terminal or in a notebook, if it takes longer than a second.

    Raises:
        PlanError: if a candidate is impossible, or the split has no validation part. Raised before any training.

    Example:
        >>> import fedrec as fr
        >>> split = fr.leave_last_out(fr.synthetic(users=300, items=120, interactions_per_user=12))
        >>> found = fr.tune(fr.EASE, split, grid={"reg": [1, 100]})
        >>> found.table.columns
        ['reg', 'ndcg@10', 'standard_error', 'sd', 'rounds', 'seconds', 'seconds_train', 'seconds_evaluate', 'chosen']
        >>> fr.evaluate(found.best.fit(split), split, ["ndcg@10"]).height
        1
    """
    check_arguments(tune, locals())
    common = {**(plan or {}), "split": "none" if isinstance(data, Split) else split, "seed": seed}
    evaluation = {**common.get("evaluation", {}), "protocol": protocol}
    model = {"name": kind.model_name, **hyperparameters}
    drawn = {} if cohort is None else {"cohort": cohort}
    settings = {"data": {"source": "memory"}, **common, "evaluation": evaluation, **drawn, "model": model}
    base = Plan.make(settings, f"tune {kind.__name__}")
    whole = as_cleaned(data, base)
    warn_of_values([base], whole)

    def nodes(resolved: Plan) -> LocalEngine:
        return LocalEngine.of_split(data, resolved) if isinstance(data, Split) else LocalEngine.build(whole, resolved)

    with bar(f"tune {kind.__name__}", progress):
        tuned = choose(base, grid, whole, digest_of(whole), nodes, metric, strategy, seeds, told)
    rows = [
        {
            **{
                key: str(value) if mixed else value
                for (key, value), mixed in zip(row.settings.items(), _mixed(grid), strict=True)
            },
            tuned.metric: row.value,
            "standard_error": row.standard_error,
            "sd": row.sd,
            "rounds": row.rounds,
            "seconds": row.seconds,
            **{f"seconds_{part}": row.seconds_of[part] for part in ("train", "evaluate")},
            "chosen": place == tuned.best,
        }
        for place, row in enumerate(tuned.candidates)
    ]
    chosen = tuned.chosen.settings
    own = {"seed": seed, **drawn, **hyperparameters, **chosen}
    table = pl.DataFrame(
        rows, schema_overrides={"standard_error": pl.Float64, "sd": pl.Float64}, infer_schema_length=None
    )
    return Tuning(table.to_pandas() if whole.pandas else table, kind(plan=plan, **own), chosen, tuned.remark)


def _mixed(grid: Mapping[str, Sequence[Any]]) -> list[bool]:
    """Which keys have values that no one column type holds, such as numbers and `auto`."""
    kinds = [{type(value) for value in values if value is not None} for values in grid.values()]
    return [len(found - {int, float}) > 0 and len(found) > 1 for found in kinds]
