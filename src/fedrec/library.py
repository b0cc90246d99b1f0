"""The estimator face: fit, recommend, similar, evaluate, save, load. Joins recommenders with the local engine."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl

from fedrec.data.digests import digest_of
from fedrec.data.frames import interactions_from
from fedrec.data.identifiers import Identifiers, typed_ids
from fedrec.data.interactions import Interactions
from fedrec.data.splits import Split, unsplit
from fedrec.engines.local import LocalEngine
from fedrec.engines.opened import OpenedRun, open_run
from fedrec.engines.training import open_earlier, train_here, warmed
from fedrec.errors import InputError, suggestion
from fedrec.evaluation.metrics import DEFAULT_METRICS
from fedrec.federation.calls import Part
from fedrec.federation.coordinator import Progress
from fedrec.federation.item_floor import SERVED
from fedrec.federation.node import Node
from fedrec.federation.plan import Plan, WarmStart
from fedrec.federation.run import Run
from fedrec.models.registry import MODELS, model_class
from fedrec.recommending.recommend import allowed_items, recommend_batches, similar_table
from fedrec.recommending.tables import recommendation_schema, write_parquet_stream

__all__ = ["Estimator", "evaluate", "load_model"]

Unknown = Literal["raise", "warn", "ignore"]
Table = Any
"""A polars, pandas or Arrow table, a dict of columns, or `Interactions`."""


class Estimator:
    """A recommender to fit in this process: one client per user, the same rounds and sums as in a federation.

    Args:
        seed: of every draw.
        cohort: share of clients drawn for each round.
        plan: any other key of a plan, such as `{"evaluation": {"every": 5, "patience": 3}}`.
        hyperparameters: of the model; see its class in `fedrec.models`.

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
        self, *, seed: int = 0, cohort: float = 1.0, plan: dict[str, Any] | None = None, **hyperparameters: Any
    ) -> None:
        settings = {"data": {"source": "memory"}, "split": "none", **(plan or {}), "seed": seed, "cohort": cohort}
        settings["model"] = {"name": self.model_name, **hyperparameters}
        self.plan = Plan.make(settings, type(self).__name__)
        self._opened: OpenedRun | None = None
        self._pandas = False

    def __repr__(self) -> str:
        return repr(self.plan.build_model()) + ("" if self._opened is None else ", fitted")

    def fit(
        self,
        data: Table | Split,
        *,
        nodes: int = 1,
        partition: str = "hash",
        watch: Callable[[Progress], None] = lambda _: None,
        warm_start: Estimator | None = None,
    ) -> Self:
        """Train on interactions; everything in them is for training, unless the plan has a `split`.

        Args:
            data: interactions, a table of them, or a `Split`, whose train part is trained on and whose validation part
                serves early stopping.
            nodes, partition: play so many nodes; the model does not depend on it.
            watch: called after each round.
            warm_start: a fitted model of the same kind to go on from: known items and users keep what it learned, new
                ones join. See `fedrec.federation.warm_start.how_to_start` for what must be equal.
        """
        whole = data.data if isinstance(data, Split) else unsplit(_interactions(data)).data
        plan = self.plan.resolve(whole, digest_of(whole))
        if warm_start is not None:
            plan = plan.model_copy(update={"warm_start": WarmStart(run="memory")})
        earlier = open_earlier(plan) if warm_start is None else warm_start.opened
        if earlier is not None:
            plan = warmed(plan, earlier)
        if isinstance(data, Split):
            engine = LocalEngine.of_split(data, plan, None, nodes, partition)
        else:
            engine = LocalEngine.build(whole, plan, nodes, partition)
        coordinator, trained = train_here(engine, whole, Run(plan, None), watch, earlier)
        self._opened = OpenedRun(plan, coordinator.model, trained, engine, whole)
        self._pandas = _is_pandas(data)
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
        users: Iterable[object] | None = None,
        n: int = 10,
        *,
        include_seen: bool = False,
        only: Iterable[object] | None = None,
        block: Iterable[object] | None = None,
        unknown: Unknown = "raise",
        history: Table | None = None,
    ) -> Any:
        """The `n` best items of each user, best first: columns `user_id`, `item_id`, `score`, `rank`.

        Args:
            users: ids, in whose order the answer comes; `None` for everybody.
            n: length of a list; shorter where fewer items are left.
            include_seen: whether items the user already has may appear.
            only, block: item ids that alone may, or may not, appear.
            unknown: what to do with ids that nobody has.
            history: interactions of users that were not trained on; they are folded in, and `users` are among them.

        Returns:
            A polars table; a pandas one if the model was fitted on pandas, or `history` is pandas.

        Raises:
            InputError: for unknown ids, or an `n` below 1.
        """
        listed = None if users is None else list(users)
        frames = list(
            self.recommend_batches(
                listed, n, include_seen=include_seen, only=only, block=block, unknown=unknown, history=history
            )
        )
        data = self.opened.data
        table = pl.concat(frames) if frames else pl.DataFrame(schema=recommendation_schema(data.users, data.catalog))
        if listed is not None and len(self.opened.engine.nodes) > 1:
            order = Identifiers.of(table["user_id"]) if table.height else data.users
            places = order.look_up(listed)
            rank = pl.DataFrame({"user_id": order.take(places[places >= 0])}).unique(maintain_order=True)
            table = rank.join(table, on="user_id", maintain_order="left_right")
        return table.to_pandas() if self._pandas or _is_pandas(history) else table

    def recommend_batches(
        self,
        users: Iterable[object] | None = None,
        n: int = 10,
        *,
        include_seen: bool = False,
        only: Iterable[object] | None = None,
        block: Iterable[object] | None = None,
        unknown: Unknown = "raise",
        history: Table | None = None,
    ) -> Iterator[pl.DataFrame]:
        """`recommend` in batches of users, for more users than fit in memory at once."""
        if n < 1:
            raise InputError(f"n must be at least 1, not {n}")
        opened = self.opened
        allowed = allowed_items(opened.data.catalog, only, block)
        nodes: Sequence[Node] = opened.engine.nodes
        if history is not None:
            nodes = [opened.with_visitors(_interactions(history, opened.data))]
        positions = _positions(users, [node.data.users for node in nodes], unknown)
        return _batches(opened, nodes, positions, n, include_seen, allowed)

    def save_recommendations(self, path: str | Path, users: Iterable[object] | None = None, **options: Any) -> int:
        """Stream `recommend(users, **options)` to a Parquet, CSV or JSON-lines file; returns the number of rows."""
        data = self.opened.data
        schema = recommendation_schema(data.users, data.catalog)
        return write_parquet_stream(path, self.recommend_batches(users, **options), schema)

    def similar(self, item: object, n: int = 10) -> pl.DataFrame:
        """The `n` items nearest to `item`: columns `item_id`, `title` where known, `score`, `rank`.

        Raises:
            InputError: for an unknown item, or a model without a notion of similar items.
        """
        if n < 1:
            raise InputError(f"n must be at least 1, not {n}")
        opened = self.opened
        catalog = opened.data.catalog
        position = int(catalog.items.look_up([item])[0])
        if position < 0:
            raise InputError(f"item {item!r} is not in the catalog{catalog.items.explain_unknown(item)}")
        shared = opened.trained.state.shared
        scores = opened.model.similarity(shared, np.array([position]))
        if SERVED in shared:
            scores[:, ~shared[SERVED]] = -np.inf
        return similar_table(catalog, position, scores[0], n)

    def save(self, folder: str | Path) -> None:
        """Save as a run: `plan.yaml`, `model/`, and `private/` (histories, private rows), which stays with its owner.

        Raises:
            RunError: if the folder is not empty.
        """
        self.opened.save(Path(folder))


def evaluate(
    model: Estimator,
    split: Split,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    *,
    protocol: str = "full",
    part: Part = "test",
) -> pl.DataFrame:
    """Measure a fitted model on the held-out part of a split: columns `metric`, `value`, `standard_error`, `users`.

    Warns where the model was trained on what is held out.

    Example:
        >>> import fedrec as fr
        >>> split = fr.leave_last_out(fr.synthetic(users=300, items=120, interactions_per_user=12))
        >>> fr.evaluate(fr.Popularity().fit(split.train), split, ["hr@10"]).columns
        ['metric', 'value', 'standard_error', 'users']
    """
    opened = model.opened
    if not split.data.catalog.items.same_as(opened.data.catalog.items):
        raise InputError("evaluate: the split and the model have different catalogs; make both from the same data")
    known = opened.trained_on(split.relevant(part))
    if known:
        warnings.warn(
            f"the model was trained on {known} of the held-out interactions, so these figures say nothing about the "
            "future; fit it on split.train",
            stacklevel=2,
        )
    names = metrics.split(",") if isinstance(metrics, str) else list(metrics)
    found = opened.measure(names, protocol, part, opened.with_split(split))
    return pl.DataFrame(
        {
            "metric": list(found),
            "value": [summary.value for summary in found.values()],
            "standard_error": [summary.standard_error for summary in found.values()],
            "users": [summary.users for summary in found.values()],
        },
        schema={"metric": pl.String, "value": pl.Float64, "standard_error": pl.Float64, "users": pl.Int64},
    )


def load_model(folder: str | Path, data: str | None = None) -> Estimator:
    """Open a saved model or a finished run, with its data and private rows.

    Args:
        folder: of the run.
        data: the run's source, named again where it is a database server (`postgresql://…`): a run that somebody else
            wrote could name any server, and is not believed.

    Raises:
        UnnamedSourceError: if the source is a database server and is not named.
        RunError: if there is no finished run.
        DamagedError: if a file was changed.
    """
    opened = open_run(Path(folder), data)
    kind = estimator(opened.model.name)
    model = kind(**opened.model.model_dump())
    model.plan = opened.plan
    model._opened = opened
    return model


@functools.cache
def estimator(name: str) -> type[Estimator]:
    """The estimator class of a model by the name that plans use."""
    recommender = model_class(name)
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
        "model_name": name,
    }
    return type(recommender.__name__, (Estimator,), members)


def __getattr__(name: str) -> type[Estimator]:
    classes = {home.partition(":")[2]: model for model, home in MODELS.items()}
    if name not in classes:
        raise AttributeError(f"fedrec.library has no {name!r}{suggestion(name, classes)}")
    return estimator(classes[name])


def _batches(
    opened: OpenedRun,
    nodes: Sequence[Node],
    positions: Sequence[np.ndarray],
    n: int,
    include_seen: bool,
    allowed: np.ndarray | None,
) -> Iterator[pl.DataFrame]:
    state = opened.trained
    for node, chosen in zip(nodes, positions, strict=True):
        scored = node.scores(state.state.shared, state.round, node.known, chosen)
        seen = None if include_seen else node.known
        yield from recommend_batches(scored, node.data.users, opened.data.catalog, n, seen, allowed)


def _positions(users: Iterable[object] | None, known: Sequence[Identifiers], unknown: Unknown) -> list[np.ndarray]:
    """Positions of the wanted users at each node; ids that no node has are treated as `unknown` says."""
    if users is None:
        return [np.arange(len(ids)) for ids in known]
    if unknown not in ("raise", "warn", "ignore"):
        raise InputError(f"unknown={unknown!r} is not one of raise, warn, ignore")
    wanted = typed_ids([users] if isinstance(users, str | int) else users).unique(maintain_order=True)
    found = [ids.look_up(wanted) for ids in known]
    missing = wanted.filter(pl.Series(np.all([places < 0 for places in found], axis=0)))
    if len(missing):
        shown = ", ".join(repr(value) for value in missing.head(5).to_list()) + (", …" if len(missing) > 5 else "")
        message = f"{len(missing)} unknown user{'s' if len(missing) > 1 else ''}: {shown}"
        if unknown == "raise":
            hints = (ids.explain_unknown(missing[0]) for ids in known)
            hint = next(filter(None, hints), "")
            raise InputError(f"{message}. Give their interactions as history to fold them in{hint}")
        if unknown == "warn":
            warnings.warn(f"{message}; left out", stacklevel=4)
    return [places[places >= 0] for places in found]


def _interactions(table: Table, like: Interactions | None = None) -> Interactions:
    if isinstance(table, Interactions):
        if like is not None and not table.catalog.items.same_as(like.catalog.items):
            return interactions_from(table.to_frame(), catalog=like.catalog)
        return table
    return interactions_from(table) if like is None else interactions_from(table, catalog=like.catalog)


def _is_pandas(table: object) -> bool:
    return type(table).__module__.split(".")[0] == "pandas"
