"""The estimator face: fit, recommend, similar, save, load. Joins recommenders with the local engine."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from numbers import Number
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from fedrec.bars import bar
from fedrec.data.arguments import check_arguments
from fedrec.data.cleaning import Cleaning, clean
from fedrec.data.digests import digest_of
from fedrec.data.interactions import Interactions
from fedrec.data.listing import whole_number
from fedrec.data.reading.frames import as_interactions, is_pandas
from fedrec.data.showing import html_table
from fedrec.data.splits import Split, unsplit
from fedrec.engines.local import LocalEngine
from fedrec.errors import InputError, suggestion
from fedrec.federation.coordinator import Progress
from fedrec.federation.plan import Plan, WarmStart
from fedrec.federation.run import Run
from fedrec.federation.values import values_remark
from fedrec.models.base import Recommender
from fedrec.models.outline import reads_repeats
from fedrec.models.own import register
from fedrec.models.registry import MODELS, model_class
from fedrec.progress import stage
from fedrec.recommending.recommend import item_positions, list_length, similar_table
from fedrec.recommending.reranking import Rerank
from fedrec.recommending.tables import write_parquet_stream
from fedrec.runs.finished import OpenedRun
from fedrec.runs.histories import with_histories
from fedrec.runs.lists import Lists
from fedrec.runs.predicting import predict_pairs
from fedrec.runs.saved import open_model, save_run
from fedrec.runs.training import open_earlier, train_here, warmed
from fedrec.runs.transferring import taken_of, with_transfer
from fedrec.runs.visitors import Unknown

__all__ = ["Estimator", "Table", "estimator", "load_model"]

Table = Any
"""A polars, pandas or Arrow table, a dict of columns, or `Interactions`."""


class Estimator:
    """A recommender to fit in this process: one client per user, the same rounds and sums as in a federation.

    Args:
        seed: seed of all random draws; by default what the plan says, or 0.
        cohort: share of clients drawn for each round, or their expected number; by default what the plan says, or what
            the model is trained with.
        weights: count interactions by their values: `linear`, `log`, `value`, or a mapping of the settings of
            `fedrec.data.weights.Weights`.
        plan: any other key of a plan, such as `{"evaluation": {"every": 5, "patience": 3}}`.
        hyperparameters: of the model; see its class in `fedrec.models`.

    Raises:
        InputError: if `plan` names the model, or what an argument says too.

    Example:
        >>> import fedrec as fr
        >>> data = fr.synthetic(users=300, items=120, interactions_per_user=12)
        >>> split = fr.leave_last_out(data)
        >>> model = fr.EASE().fit(split.train)
        >>> model.recommend([1, 2], n=2).columns
        ['user_id', 'item_id', 'score', 'rank']
    """

    model_name: ClassVar[str]

    def __init__(
        self,
        *,
        seed: int | None = None,
        cohort: float | None = None,
        weights: str | dict[str, Any] | None = None,
        plan: dict[str, Any] | None = None,
        **hyperparameters: Any,
    ) -> None:
        check_arguments(Estimator.__init__, {"plan": plan, "weights": weights})
        own = {"seed": seed, "cohort": cohort, "weights": weights}
        arguments = {key: value for key, value in own.items() if value is not None}
        for key in (plan or {}).keys() & {"model", *arguments}:
            instead = "hyperparameters are arguments" if key == "model" else f"{key} is an argument too; give it once"
            raise InputError(f"plan of {type(self).__name__}: remove the key {key!r}: {instead}")
        settings = {"data": {"source": "memory"}, "split": "none", **(plan or {}), **arguments}
        settings["model"] = {"name": self.model_name, **hyperparameters}
        self.plan = Plan.make(settings, type(self).__name__)
        self._opened: OpenedRun | None = None
        self._pandas = False

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in self.plan.build_model())
        return f"{type(self).__name__}({settings})" + ("" if self._opened is None else ", fitted")

    def _repr_html_(self) -> str:
        model = self.plan.build_model()
        fitted = {} if self._opened is None else {"fitted": repr(self._opened)}
        return html_table(type(self).__name__, model.model_dump(mode="json") | fitted)

    def fit(
        self,
        data: Table | Split,
        *,
        nodes: int = 1,
        partition: str = "hash",
        watch: Callable[[Progress], None] = lambda _: None,
        warm_start: Estimator | None = None,
        progress: bool = True,
    ) -> Self:
        """Train on interactions. Without a `split` in the plan, all interactions are used for training.

        Args:
            data: interactions, or a table of them, which are cleaned as the plan's `data.cleaning` says; or a `Split`,
                whose train part is trained on and whose validation part serves early stopping.
            nodes, partition: number of nodes to simulate, and how users are distributed; neither changes the model.
            watch: function that is called after each round.
            warm_start: a fitted model of the same kind to start from: its items and users keep their parameters, new
                items and users are added. See `fedrec.federation.warm_start.how_to_start` for what must be equal.
            progress: show a bar on a terminal or in a notebook, if it takes longer than a second.

        Warns if ratings differ and the plan does not say which of them count: all then count alike. See `fedrec.clean`.
        """
        check_arguments(Estimator.fit, locals())
        nodes = whole_number(nodes, "nodes")
        with bar(f"fit {type(self).__name__}", progress) as note:

            def both(progress: Progress) -> None:
                note(progress)
                watch(progress)

            return self._fit(data, nodes, partition, both, warm_start)

    def _fit(
        self,
        data: Table | Split,
        nodes: int,
        partition: str,
        watch: Callable[[Progress], None],
        warm_start: Estimator | None,
    ) -> Self:
        with stage("read", "reading the table"):
            whole = as_cleaned(data, self.plan)
            if not isinstance(data, Split) and not reads_repeats(self.plan.build_model(), self.plan.data.cleaning):
                whole = unsplit(whole).data
            digest = digest_of(whole)
        warn_of_values([self.plan], whole)
        plan = self.plan.resolve(whole, digest)
        if warm_start is not None:
            plan = plan.model_copy(update={"warm_start": WarmStart(run="memory")})
        earlier = open_earlier(plan) if warm_start is None else warm_start.opened
        if earlier is not None:
            plan = warmed(plan, earlier)
        plan, transferred = with_transfer(plan, whole.catalog)
        taken = taken_of(transferred)
        with stage("prepare", "preparing the nodes"):
            if isinstance(data, Split):
                engine = LocalEngine.of_split(data, plan, None, nodes, partition)
            else:
                engine = LocalEngine.build(whole, plan, nodes, partition)
        run = Run(plan, None)
        coordinator, trained = train_here(engine, whole, run, watch, earlier, taken=taken)
        left_out = sum(line["left_out"] or 0 for line in run.ledger.of_kind("round"))
        if left_out:
            warnings.warn(
                f"{left_out:,} contributions of users were not finite and were left out of the sums: training "
                "diverged for these users. Use a lower learning_rate or more regularisation",
                stacklevel=3,
            )
        cut = engine.weighed()["cut"]
        if cut and plan.weights is not None:
            warnings.warn(plan.weights.remark(cut), stacklevel=2)
        self._opened = OpenedRun.here(coordinator.agreement, trained, engine, whole)
        self._pandas = whole.pandas
        return self

    @property
    def opened(self) -> OpenedRun:
        """The trained model and its nodes.

        Raises:
            InputError: if the model is not fitted.
        """
        if self._opened is None:
            raise InputError(f"{type(self).__name__} is not fitted; call fit(data) first")
        return self._opened

    @property
    def shared(self) -> dict[str, np.ndarray]:
        """The shared arrays of the fitted model, by name."""
        return dict(self.opened.trained.state.shared)

    def recommend(
        self,
        users: object = None,
        n: int = 10,
        *,
        include_seen: bool = False,
        only: object = None,
        block: object = None,
        unknown: Unknown = "raise",
        history: Table | str | Path | None = None,
        unknown_items: Unknown = "raise",
        rerank: str | Rerank | None = None,
        progress: bool = True,
    ) -> Any:
        """The `n` best items of each user, best first: columns `user_id`, `item_id`, `score`, `rank`.

        Args:
            users: one id, or a list of ids, whose order the result keeps; `None` for all users.
            n: length of each list; a list is shorter if fewer items are left.
            include_seen: whether to recommend items that the user already has.
            only, block: item ids to recommend exclusively, and item ids never to recommend.
            unknown: what to do with unknown user ids.
            history: interactions of new users, or a file of them; the model folds these users in. `users` must then be
                users of `history`.
            unknown_items: what to do with items of `history` that the model does not know; `warn` and `ignore` leave
                their rows out. A user without any row left gets no list.
            rerank: folder of a causal model of language that reorders the best items, or an `fr.Rerank` of it.
            progress: show a bar on a terminal or in a notebook, if it takes longer than a second.

        Returns:
            A polars table; a pandas one if the model was fitted on pandas, or `history` is pandas.

        Raises:
            InputError: if an id or item is unknown, or `n` is not a whole number above 0.
        """
        check_arguments(Estimator.recommend, {"progress": progress})
        asked = Lists.of(
            self.opened,
            users,
            n,
            include_seen=include_seen,
            only=only,
            block=block,
            unknown=unknown,
            history=history,
            unknown_items=unknown_items,
            rerank=rerank,
        )
        with bar("recommend", progress), stage("recommend", f"{asked.users:,} users"):
            return self._shown(asked.table(), history)

    def predict(
        self, pairs: Table | str | Path, *, unknown: Unknown = "raise", unknown_items: Unknown = "raise"
    ) -> Any:
        """The rating that each user is predicted to give to each item: columns `user_id`, `item_id`, `rating`.

        Users are known by their ratings, but for those that the model's split holds out for test.

        Args:
            pairs: a table of users and items, or a file of them; other columns are ignored. The result has the same
                rows in the same order.
            unknown: what to do with unknown users; `warn` and `ignore` predict the rating of a user without ratings.
            unknown_items: the same for items that the model does not know.

        Returns:
            A polars table; a pandas one if the model was fitted on pandas, or `pairs` is pandas.

        Raises:
            InputError: if the model ranks items and predicts no ratings, or an id is unknown.
        """
        return self._shown(predict_pairs(self.opened, pairs, unknown, unknown_items), pairs)

    def recommend_batches(self, users: object = None, n: int = 10, **options: Any) -> Iterator[Any]:
        """`recommend` in batches of users, for more users than fit in memory at once."""
        asked = Lists.of(self.opened, users, n, **options)
        return (self._shown(batch, options.get("history")) for batch in asked.batches())

    def save_recommendations(
        self, path: str | Path, users: object = None, n: int = 10, *, progress: bool = True, **options: Any
    ) -> int:
        """Stream `recommend(users, n, **options)` to a Parquet, CSV or JSON-lines file; returns the number of rows."""
        check_arguments(Estimator.save_recommendations, locals())
        asked = Lists.of(self.opened, users, n, **options)
        with bar("recommend", progress), stage("recommend", f"{asked.users:,} users"):
            return write_parquet_stream(path, asked.batches(), asked.schema)

    def similar(self, items: object, n: int = 10) -> Any:
        """The `n` items nearest to an item: columns `item_id`, `title` where known, `score`, `rank`.

        For a list of items there is a first column `similar_to`, with the item that the others are near to.

        Returns:
            A polars table; a pandas one if the model was fitted on pandas.

        Raises:
            InputError: for an unknown item, or a model without a notion of similar items.
        """
        opened = self.opened
        catalog = opened.catalog
        length = list_length(n, len(catalog))
        positions = item_positions(catalog, items)
        scores = opened.similarity(positions)
        tables = [similar_table(catalog, int(place), row, length) for place, row in zip(positions, scores, strict=True)]
        if isinstance(items, str | Number | np.generic):
            return self._shown(tables[0])
        named = [
            table.select(catalog.items.take(np.full(table.height, place)).alias("similar_to"), pl.all())
            for place, table in zip(positions, tables, strict=True)
        ]
        return self._shown(pl.concat(named))

    def _shown(self, table: pl.DataFrame, history: object = None) -> Any:
        """A table as people work: pandas where pandas was given."""
        return table.to_pandas() if self._pandas or is_pandas(history) else table

    def save(self, folder: str | Path) -> None:
        """Save as a run: `plan.yaml`, `model/`, and `private/` (histories, private rows), which stays with its owner.

        Raises:
            RunError: if the folder is not empty.
        """
        check_arguments(Estimator.save, locals())
        save_run(self.opened, Path(folder))


def as_cleaned(data: Table | Split, plan: Plan) -> Interactions:
    """Interactions of a table or split, cleaned as a plan says.

    Raises:
        InputError: if the plan cleans what is split already.
    """
    cleaning = plan.data.cleaning
    asks = cleaning != Cleaning()
    if isinstance(data, Split):
        if asks and cleaning != Cleaning(rating_at_least="none"):
            raise InputError(
                "the plan's data.cleaning must run before the split, but this data is already split. Clean the data "
                "first, fr.leave_last_out(fr.clean(data, …)[0]), and remove data.cleaning from the plan"
            )
        return data.data
    interactions = as_interactions(data)
    return clean(interactions, cleaning)[0] if asks else interactions


def warn_of_values(plans: Sequence[Plan], data: Interactions) -> None:
    """Warn once where interactions count alike although their values differ, see `fedrec.federation.values`."""
    remark = values_remark(plans, data)
    if remark is not None:
        warnings.warn(remark, UserWarning, stacklevel=3)


def load_model(
    folder: str | Path, data: Table | str | Path | None = None, *, unknown_items: Unknown = "raise", **reading: Any
) -> Estimator:
    """Open a saved model or a finished run, with its data and private rows.

    A run keeps the interactions that it was trained on; its source is not read again. Interactions and private rows are
    read when they are asked for: `similar`, and `recommend` for a `history`, need neither.

    Args:
        folder: of the run.
        data: histories to use instead of those that the run keeps: a source, as for training, or a table. Users that
            were trained keep their private rows, and all others are folded in. For a run of an earlier version, which
            keeps none: its data, where they are now.
        unknown_items: what to do with items of `data` that the model does not know, as in `recommend`.
        reading: how a source is read, such as `columns`; what is not said is as for the run's own source, where `data`
            is that or a file of the same ending. It is cleaned as that was.

    Raises:
        UnnamedSourceError: when users are asked for, the run keeps no interactions, and its source is a database server
            that is not named as `data`.
        RunError: if there is no finished run.
        DamagedError: if a file was changed.

    Example:
        >>> import tempfile
        >>> import fedrec as fr
        >>> fr.EASE().fit({"user": [1, 1, 2, 2], "item": ["a", "b", "b", "c"]}).save(folder := tempfile.mkdtemp())
        >>> newer = fr.load_model(folder, {"user": [1, 1, 3], "item": ["b", "c", "c"]})
        >>> newer.recommend([1, 3], n=1)["item_id"].to_list()
        ['a', 'b']
    """
    check_arguments(load_model, locals())
    opened = open_model(Path(folder))
    if data is not None:
        opened = with_histories(opened, Path(folder), data, unknown_items, reading)
    elif reading:
        raise InputError(f"{', '.join(reading)} needs data=…: these options describe how data is read")
    kind = estimator(opened.model.name)
    model = kind(**opened.model.model_dump())
    model.plan = opened.plan
    model._opened = opened
    model._pandas = is_pandas(data) or (isinstance(data, Interactions) and data.pandas)
    return model


def estimator(model: str | type[Recommender]) -> type[Estimator]:
    """The estimator class of a model.

    Args:
        model: the name that plans use; or a class of your own, which this process then knows by its `name`.

    Raises:
        PlanError: if there is no such model, or the class is not a recommender.

    Example:
        >>> estimator("ease")(reg=200.0)
        EASE(reg=200.0, alpha=0.0, rank=None, passes=2, decay=1.0, item_features=None, ..., dropout=4.0)
    """
    check_arguments(estimator, locals())
    if isinstance(model, str):
        return _estimator(model_class(model))
    register(model)
    return _estimator(model)


@functools.cache
def _estimator(recommender: type[Recommender]) -> type[Estimator]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(key, keyword, default=field.get_default(), annotation=field.annotation)
        for key, field in recommender.model_fields.items()
    ]
    shared = [
        parameter
        for key, parameter in inspect.signature(Estimator).parameters.items()
        if parameter.kind is keyword and key != "self"
    ]
    members = {
        "__doc__": recommender.__doc__,
        "__module__": __name__,
        "__signature__": inspect.Signature([*parameters, *shared]),
        "model_name": recommender.name,
    }
    return type(recommender.__name__, (Estimator,), members)


def __getattr__(name: str) -> type[Estimator]:
    classes = {home.partition(":")[2]: model for model, home in MODELS.items()}
    if name not in classes:
        raise AttributeError(f"fedrec.estimators.estimator has no {name!r}{suggestion(name, classes)}")
    return estimator(classes[name])
