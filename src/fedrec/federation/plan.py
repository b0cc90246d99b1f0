"""The plan: everything that decides what a run computes, and nothing about where or how fast."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from fedrec.aggregation.buffered import Asynchronous
from fedrec.aggregation.release import Cap, Clip, Release, Step, Weight
from fedrec.aggregation.robust import Robust
from fedrec.data.catalog import Catalog
from fedrec.data.cleaning import Cleaning
from fedrec.data.encoded import pinned_encoders
from fedrec.data.features import feature_matrix
from fedrec.data.interactions import Interactions
from fedrec.data.reading.files import STANDARD_INPUT
from fedrec.data.splits import SplitMethod
from fedrec.data.weights import Weights
from fedrec.documents import MOST_SETTINGS, parse_yaml, read_file, renamed_keys
from fedrec.errors import InputError, PlanError
from fedrec.evaluation.groups import Groups
from fedrec.evaluation.metrics import DEFAULT_METRICS, check_metrics, default_metrics, parse_metrics
from fedrec.federation.compatibility import check_together
from fedrec.federation.data_plan import DataPlan
from fedrec.federation.evaluation_plan import EvaluationPlan
from fedrec.federation.grouping import grouping_column
from fedrec.federation.item_floor import ItemFloor
from fedrec.federation.plan_case import Case
from fedrec.federation.transfer import Transfer
from fedrec.models.base import PrivateRecommender, PrivateTerms, Recommender
from fedrec.models.factors.following_ials import following_form
from fedrec.models.outline import reads_item_features
from fedrec.models.registry import build_model, explain, foremost, is_known, model_class
from fedrec.models.values import weighted
from fedrec.privacy.accounting import Charge
from fedrec.privacy.terms import Privacy, schedule

__all__ = ["Plan", "WarmStart"]

_UNSAID = ("weights", "reproducible", "features", "transfer", "compress", "down")
"""Keys of a plan that are written only where they say something: plans of earlier versions keep their digests."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WarmStart(_Part):
    """Which finished run the training goes on from.

    Args:
        run: folder of the run, or `memory` for a model given in the library.
        digest: SHA-256 of the shared arrays of that run; the first run fills it in, and every later run checks it.
    """

    run: str
    digest: str | None = None


class Plan(_Part):
    """A training run, defined. Equal plans and seeds give equal models wherever they run.

    Args:
        data: the interactions.
        split: how each node splits its interactions into train, validation and test.
        model: `name` and hyperparameters.
        weights: how the value of an interaction becomes its weight, such as `{form: log, alpha: 10}` or just `log`;
            `None` counts every interaction once.
        cohort: share of clients that are drawn for each round, or their expected number (a whole number above 1).
        negatives: `clean` draws negatives from outside the training history; `paper-leaky` also keeps them off held-out
            items, as published code does, so that its inflated figures can be reproduced. Such a run is stamped leaky.
        release: what nodes do with contributions before they add them, in this order.
        items: minimum number of clients of an item, such as `{least: 5}`; other items take no part. `None` allows all
            items.
        rows: share of the item rows that a round sums; every round draws other rows, in public. By default a round sums
            all rows.
        robust: how the parts of nodes are combined if some may be hostile, such as `{rule: trimmed-mean}`; `None` adds
            them.
        privacy: the promise of differential privacy to users, such as `{epsilon: 4, delta: 1e-5}`; `None` promises
            nothing.
        asynchronous: make a step as soon as the sums of so many nodes have arrived, such as `{buffer: 5}`; `None` waits
            for all nodes in every round. The order in which sums arrive then changes the model.
        evaluation: what is measured, and when.
        refit: train on the training and the validation part together.
        seed: seed of all random draws. With `privacy`, draws at the nodes come from the operating system instead.
        reproducible: whether the model has the same bits for any number of threads. `false` lets the coordinator use
            all threads, which is faster for many items; the model is then the same up to rounding errors.
        n_max: maximum number of clients of a sum; the first run fills it in. You may write `max_clients` instead.
        catalog: digest of the items of the catalog; the first run fills it in.
        features: digest of the features of the items; the first run fills it in, if the model learns from features.
        min_clients: minimum number of clients of a sum that leaves a node unmasked.
        warm_start: finished run that the training continues: its folder, or `{run: FOLDER, digest: …}`.
        keep_sums: whether the coordinator keeps the sums of `ease`, `itemknn`, `slit` or `popularity`, so that a later
            run adds only what changed.
        transfer: finished run about other users, towards whose items `ease` or `ials` is drawn: its folder, or `{run:
            FOLDER, match: title}`.
        compress: what makes masked sums shorter. `exact` sums how many clients have each item before a masked sum of
            pairs of items, which then takes a fraction of the bytes; the model stays the same. `none` leaves that sum
            out.
        down: what nodes get of a model of one round: its arrays (`model`), or the sum that they were made of (`sum`),
            which is shorter for `ease`. Each node then makes the arrays itself, which takes as much memory and time as
            at the coordinator, and learns the sum.
    """

    version: Literal[1] = 1
    data: DataPlan
    split: str = "leave-last-out"
    model: dict[str, Any]
    weights: Weights | None = None
    cohort: float = Field(default=1.0, gt=0)
    negatives: Literal["clean", "paper-leaky"] = "clean"
    release: tuple[Step, ...] = ()
    items: ItemFloor | None = None
    rows: float = Field(default=1.0, gt=0.0, le=1.0)
    robust: Robust | None = None
    privacy: Privacy | None = None
    asynchronous: Asynchronous | None = None
    evaluation: EvaluationPlan = EvaluationPlan()
    refit: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    reproducible: bool = True
    n_max: int | None = Field(default=None, ge=1, lt=2**48)
    catalog: str | None = None
    features: str | None = None
    min_clients: int = Field(default=32, ge=1)
    warm_start: WarmStart | None = None
    keep_sums: bool = False
    transfer: Transfer | None = None
    compress: Literal["exact", "none"] = "exact"
    down: Literal["model", "sum"] = "model"

    @field_validator("warm_start", "transfer", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        return {"run": value} if isinstance(value, str) else value

    @field_validator("cohort", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and value == 1:
            return 1.0
        if isinstance(value, float) and value > 1 and not value.is_integer():
            raise ValueError("must be a share of at most 1.0, or a whole number of clients")
        return value

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return renamed_keys(value, {"max_clients": "n_max"}, "plan: ")

    @model_validator(mode="before")
    @classmethod
    def _drawn(cls, value: Any) -> Any:
        """The cohort that the model is trained with, where none is named. Under privacy all clients: noise is that of
        one round's clients, however many there are."""
        name = _model_name(value)
        private = isinstance(value, dict) and value.get("privacy") is not None
        if isinstance(value, dict) and "cohort" not in value and not private and is_known(name):
            cohort = _cohort_of(value["model"])
            return value if cohort is None else value | {"cohort": cohort}
        return value

    @model_validator(mode="before")
    @classmethod
    def _measured(cls, value: Any) -> Any:
        """Metrics that fit the model, where none are named."""
        name = _model_name(value)
        if is_known(name) and isinstance(asked := value.get("evaluation", {}), dict) and "metrics" not in asked:
            metrics = default_metrics(model_class(name).traits.reads_ratings)
            return value | {"evaluation": asked | {"metrics": metrics}} if metrics != DEFAULT_METRICS else value
        return value

    @model_validator(mode="after")
    def _check(self) -> Plan:
        case = self.case
        check_metrics(parse_metrics(self.evaluation.metrics), case.model.name, case.model.traits.reads_ratings)
        if self.data.source == STANDARD_INPUT:
            raise PlanError(
                "data: a resumed training must read its data again, and standard input can be read only once; save the "
                "data to a file first"
            )
        SplitMethod.parse(self.split)
        check_together(case)
        Release(self.release).check_apart(case.pooled)
        return self

    def with_noise(self) -> Plan:
        """The plan with the noise that its privacy needs; the same without privacy. Needs no data.

        Raises:
            PlanError: if the noise that it names is too little for its epsilon.
        """
        if (private := self.private()) is None:
            return self
        terms, model = private
        return self.model_copy(update={"privacy": terms.resolve(model.budget_shares, self.share())})

    def charges(self) -> tuple[Charge, ...]:
        """What each round costs; empty without privacy.

        Raises:
            PlanError: if the noise is not chosen yet, see `with_noise`.
        """
        if (private := self.private()) is None:
            return ()
        terms, model = private
        return schedule(terms, model.budget_shares, self.share())

    def private(self) -> tuple[Privacy, PrivateRecommender] | None:
        """What is promised to users, and the model as it is trained under that promise; `None` without privacy."""
        if self.privacy is None:
            return None
        clients = max(1, round(self.share() * (self.privacy.users or self.n_max or 1)))
        return self.privacy, self._plain_model().privately(PrivateTerms(self.privacy.clip, clients))

    def build_model(self) -> Recommender:
        """The recommender of the plan, in its private form where the plan has privacy; in the form that follows a
        source where the plan has a transfer."""
        private = self.private()
        if private is not None:
            return private[1]
        model = self._plain_model()
        return model if self.transfer is None else following_form(model, self.transfer.how == "auto")

    def _plain_model(self) -> Recommender:
        if "name" not in self.model:
            raise PlanError("plan: model needs a name, as in model: {name: ease}")
        settings = {key: value for key, value in self.model.items() if key != "name"}
        model = build_model(str(self.model["name"]), settings)
        return model if self.weights is None else weighted(model, self.weights.most)

    @property
    def case(self) -> Case:
        """What the rules of `fedrec.federation.compatibility` read of the plan."""
        return Case(
            self.build_model(),
            frozenset(self.model) - {"name"},
            data=self.data,
            split=self.split,
            weights=self.weights,
            cohort=self.cohort,
            share=self.share(),
            leaky=self.leaky,
            items=self.items,
            rows=self.rows,
            robust=self.robust,
            privacy=self.privacy,
            asynchronous=self.asynchronous,
            evaluation=self.evaluation,
            refit=self.refit,
            warm_start=self.warm_start,
            transfer=self.transfer,
            keep_sums=self.keep_sums,
            down=self.down,
        )

    @property
    def leaky(self) -> bool:
        """Whether training is told about the future."""
        return self.negatives == "paper-leaky"

    def share(self) -> float:
        """Probability q of a client to be drawn for a round; a count N of clients counts as N / users up to n_max."""
        if self.cohort <= 1:
            return self.cohort
        public = None if self.privacy is None else self.privacy.users
        return min(1.0, self.cohort / (public or self.n_max or self.cohort))

    def resolve(self, data: Interactions, digest: str) -> Plan:
        """Fill in what depends on the data (digests, `n_max`, times of a temporal split, the share), and all defaults.

        Raises:
            PlanError: if the plan was resolved for other data.
        """
        _check_pin("data", self.data.digest, digest)
        pins = self._pins(data.catalog)
        self._check_vectors(data.catalog)
        if data.n_users == 0 or len(data) == 0:
            raise PlanError(f"plan: data {self.data.source!r} has no interactions left to train on")
        users = data.n_users if self.privacy is None else self.privacy.users or data.n_users
        n_max = self.n_max or 1 << max(10, (users - 1).bit_length())
        if self.privacy is not None and data.n_users > users:
            raise PlanError(f"privacy: the data has more users than users = {users}; set a public upper bound")
        if data.n_users > n_max:
            raise PlanError(f"plan: the data has {data.n_users} users, more than n_max = {n_max}; set a larger n_max")
        if self.privacy is not None and self.privacy.delta * users >= 1:
            raise PlanError(f"privacy: delta = {self.privacy.delta:g} lets one of {users} users be exposed; set delta "
                            f"to at most {0.1 / users:.1g}, a tenth of 1 / users")  # fmt: skip
        public = self
        if self.privacy is not None:
            public = self.model_copy(update={"privacy": self.privacy.model_copy(update={"users": users})})
        changes: dict[str, Any] = {
            "data": self.data.model_copy(update={"digest": digest}),
            "split": str(SplitMethod.parse(self.split).resolve(data)),
            "model": public.whole_model(),
            **pins,
            "n_max": n_max,
            "cohort": self.cohort if self.cohort <= 1 else min(1.0, self.cohort / users),
            "evaluation": self._grouped(data),
        }
        return public.model_copy(update=changes).with_noise()

    def _grouped(self, data: Interactions) -> EvaluationPlan:
        """What is measured, with the names of the groups of users that are measured apart.

        Raises:
            PlanError: if users cannot be grouped so.
        """
        if (by := self.evaluation.by) is None:
            return self.evaluation
        try:
            values = grouping_column(data, by, data)
            groups = self.evaluation.grouping or Groups.of_values(by, values)
            groups.places(values)
        except InputError as error:
            raise PlanError(f"evaluation: {error}") from None
        return self.evaluation.model_copy(update={"groups": groups.labels})

    def _check_vectors(self, catalog: Catalog) -> None:
        """Check that the catalog says enough of items to compare those of a list, where that is measured.

        Raises:
            PlanError: if it does not.
        """
        wanted = [str(metric) for metric in parse_metrics(self.evaluation.metrics) if metric.of_items]
        try:
            if wanted:
                feature_matrix(catalog, "auto")
        except InputError as error:
            raise PlanError(f"evaluation.metrics: {wanted[0]} compares items by their features: {error}") from None

    def agree(self, catalog: Catalog, n_max: int) -> Plan:
        """Fill in what a federation agrees on where nobody sees the data: catalog, most clients, and all defaults.

        Raises:
            PlanError: if the plan was resolved for another catalog, or names what only all data together can tell.
        """
        pins = self._pins(catalog)
        self._check_vectors(catalog)
        check_together(self.case, "federation")
        users = None if self.privacy is None else self.privacy.users
        most = self.n_max or max(n_max, users or 0)
        changes: dict[str, Any] = {
            "model": self.whole_model(),
            **pins,
            "n_max": most,
            "cohort": self.cohort if self.cohort <= 1 else min(1.0, self.cohort / (users or most)),
        }
        return self.model_copy(update=changes).with_noise()

    def whole_model(self) -> dict[str, Any]:
        """The model with all its defaults, and the digests of the encoders that it reads item features with."""
        return {"name": self.model["name"], **pinned_encoders(self.build_model().model_dump(mode="json"))}

    def _pins(self, catalog: Catalog) -> dict[str, str | None]:
        """Digests of the catalog: of its items, and of what it says of them where the model learns from that.

        Raises:
            PlanError: if the plan was made for another catalog.
        """
        reads = reads_item_features(self.build_model())
        pins = {"catalog": catalog.digest, "features": catalog.features_digest if reads else None}
        _check_pin("catalog", self.catalog, pins["catalog"])
        _check_pin("features of the catalog", self.features, pins["features"])
        return pins

    def check_catalog(self, catalog: Catalog) -> None:
        """Hold a catalog to a plan that was resolved.

        Raises:
            PlanError: if it is not the one that the plan was made for.
        """
        pins = self._pins(catalog)
        for key in ("catalog", "features"):
            if getattr(self, key) != pins[key]:
                raise PlanError(f"plan: {key} is missing; set it to {pins[key]}")

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        defaults = type(self).model_fields
        return {key: value for key, value in written.items() if key not in _UNSAID or value != defaults[key].default}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_yaml(self) -> str:
        """The plan as a person reads it, in the order of the fields."""
        text: str = yaml.dump(self.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        return text

    @classmethod
    def make(cls, settings: Any, where: str = "plan") -> Plan:
        """A plan from settings.

        Raises:
            PlanError: naming the key that is wrong and what to do.
        """
        if not isinstance(settings, dict):
            raise PlanError(f"{where}: a plan must be a mapping of keys to values")
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise PlanError(explain(error, where, _keys(error))) from None
        except PlanError:
            raise
        except InputError as error:
            raise PlanError(f"{where}: {error}") from None

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan from a YAML file."""
        return cls.make(read_settings(path), str(path))


def _check_pin(what: str, pinned: str | None, digest: str | None) -> None:
    if pinned is not None and pinned != digest:
        raise PlanError(
            f"plan: the digest of the {what} is {(digest or 'none')[:12]}…, but the plan expects {pinned[:12]}…. "
            f"Restore the {what}, or remove the digest from the plan and start a new run"
        )


def read_settings(path: Path) -> Any:
    """The settings in a YAML file.

    Raises:
        PlanError: if the file is missing or is not YAML; says where.
    """
    try:
        return parse_yaml(read_file(path, MOST_SETTINGS).decode("utf-8"))
    except FileNotFoundError:
        raise PlanError(f"plan {path} does not exist") from None
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise PlanError(f"plan {path} cannot be read: {reason}") from None


def _model_name(settings: Any) -> str:
    """The name of the model in the settings of a plan; empty where there is none."""
    model = settings.get("model") if isinstance(settings, dict) else None
    return str(model.get("name", "")) if isinstance(model, dict) else ""


def _cohort_of(settings: dict[str, Any]) -> int | None:
    """The cohort that a model is trained with; `None` where it names none, or where there is no such model."""
    try:
        return build_model(
            settings["name"], {key: value for key, value in settings.items() if key != "name"}
        ).traits.cohort
    except (PlanError, TypeError):  # which the check of the plan tells
        return None


class _Dumper(yaml.SafeDumper):
    """Writes a part that stands in two places twice: what is read has no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whether to write it out; always."""
        return True


def _keys(error: ValidationError) -> list[str]:
    kinds: dict[str, type[BaseModel]] = {
        "data": DataPlan, "evaluation": EvaluationPlan, "cleaning": Cleaning, "cap": Cap, "weight": Weight,
        "clip": Clip, "privacy": Privacy, "asynchronous": Asynchronous, "weights": Weights,
        "warm_start": WarmStart, "transfer": Transfer,
    }  # fmt: skip
    parents = [str(part) for part in foremost(error)["loc"][:-1] if str(part) in kinds]
    return list((kinds[parents[-1]] if parents else Plan).model_fields)
