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
from fedrec.aggregation.specs import SumSpec
from fedrec.data.catalog import Catalog
from fedrec.data.cleaning import Cleaning
from fedrec.data.interactions import Interactions
from fedrec.data.reading.files import STANDARD_INPUT
from fedrec.data.splits import SplitMethod
from fedrec.data.weights import Weights
from fedrec.documents import MOST_SETTINGS, parse_yaml, read_file
from fedrec.errors import InputError, PlanError
from fedrec.evaluation.metrics import DEFAULT_METRICS, check_metrics, default_metrics, parse_metrics
from fedrec.evaluation.protocols import check_protocol, parse_protocol
from fedrec.federation.data_plan import DataPlan
from fedrec.federation.item_floor import ItemFloor
from fedrec.federation.partial_rows import check_rows
from fedrec.models.base import PrivateTerms, Recommender
from fedrec.models.outline import first_sum, is_additive, keeps_rows, reads_item_features
from fedrec.models.registry import build_model, explain, foremost, is_known, model_class, models_where
from fedrec.models.values import weighted
from fedrec.privacy.terms import Privacy

__all__ = ["EvaluationPlan", "Plan", "WarmStart"]

_UNSAID = ("weights", "reproducible", "features")
"""Keys of a plan that are written only where they say something: plans of earlier versions keep their digests."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WarmStart(_Part):
    """Which finished run the training goes on from.

    Args:
        run: its folder, or `memory` for a model given in the library.
        digest: SHA-256 of its shared arrays; filled in by the first run, checked by every later one.
    """

    run: str
    digest: str | None = None


class EvaluationPlan(_Part):
    """What is measured, and what measuring decides.

    Args:
        protocol: `full` or `sampled:99`.
        metrics: such as `ndcg@10`; the first one decides. `rmse` and `mae` by default for a model that reads ratings.
        every: validate every so many rounds; 0 only at the end.
        patience: stop after so many validations without a better one; `None` never stops early.
        keep: the model of the `last` round, or of the `best` one on validation.
    """

    protocol: str = "full"
    metrics: tuple[str, ...] = DEFAULT_METRICS
    every: int = Field(default=0, ge=0)
    patience: int | None = Field(default=None, ge=1)
    keep: Literal["last", "best"] = "last"

    @field_validator("metrics", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> EvaluationPlan:
        try:
            check_protocol(parse_metrics(self.metrics), parse_protocol(self.protocol))
        except PlanError as error:
            raise PlanError(f"evaluation: {error}") from None
        if self.every == 0 and (self.patience is not None or self.keep == "best"):
            raise PlanError("evaluation: patience and keep: best need validations; set evaluation.every to 1 or more")
        return self


class Plan(_Part):
    """A training run, defined. Equal plans and seeds give equal models wherever they run.

    Args:
        data: which interactions.
        split: how each node splits them.
        model: `name` and hyperparameters.
        weights: how the values of interactions weigh, such as `{form: log, alpha: 10}` or just `log`; without it all
            count once.
        cohort: share of clients drawn for each round, or their expected number (a whole number above 1).
        negatives: `clean` draws negatives from outside the training history; `paper-leaky` also keeps them off held-out
            items, as published code does, so that its inflated figures can be reproduced. Such a run is stamped leaky.
        release: ordered steps before the sum.
        items: which items take part, such as `{least: 5}`: those that so many clients have; all without it.
        rows: share of the item rows that a round sums, drawn anew for every round in public; all by default.
        robust: how nodes' parts are added up where some may be hostile, such as `{rule: trimmed-mean}`; a plain sum
            without it.
        privacy: what is promised to users, such as `{epsilon: 4, delta: 1e-5}`; nothing without it.
        asynchronous: take a step whenever so many nodes' sums are in, such as `{buffer: 5}`; rounds of all nodes
            without it. The order in which sums arrive is part of what decides the model then.
        evaluation: what is measured.
        refit: train on train and validation together.
        seed: of every draw in reproducible mode.
        reproducible: the same bits on any number of threads; `false` lets the coordinator solve on all of them, for
            the same model to rounding: faster for many items where cores are free.
        n_max: most clients a sum may hold; filled in by the first run.
        catalog: digest of the catalog's items; filled in by the first run.
        features: digest of what the catalog says of the items; filled in by the first run of a model that learns from
            it.
        min_clients: a sum over fewer clients leaves a node only masked.
        warm_start: a finished run to go on from: its folder, or `{run: FOLDER, digest: …}`.
        keep_sums: keep the sums of `ease`, `itemknn` or `popularity` with the coordinator, so that a later run can add
            what changed instead of summing everybody again.
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

    @field_validator("warm_start", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        return {"run": value} if isinstance(value, str) else value

    @field_validator("cohort", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and value == 1:
            return 1.0
        if isinstance(value, float) and value > 1 and not value.is_integer():
            raise ValueError("must be a share up to 1.0, or a whole number of clients")
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
        model = self.build_model()
        check_metrics(parse_metrics(self.evaluation.metrics), model.name, model.traits.reads_ratings)
        if self.data.source == STANDARD_INPUT:
            raise PlanError(
                "data: a training that was interrupted reads its data again, and standard input can be read only once; "
                "save it to a file first"
            )
        if self.keep_sums and self.privacy is None and not is_additive(model):
            raise PlanError(
                f"keep_sums: {self.model['name']} has no sum that later interactions can be added to with these "
                f"settings; {models_where(is_additive)} have one by default"
            )
        if self.keep_sums and self.cohort != 1:
            raise PlanError("keep_sums: a kept sum is over all clients; set cohort to 1.0")
        SplitMethod.parse(self.split)
        first = first_sum(model)
        Release(self.release).adjust(first)
        if self.robust is not None and (self.privacy is not None or self.keep_sums or self.warm_start is not None):
            raise PlanError(
                "robust: a robust mean is not a sum, so one client's pull on it has no bound that noise could cover, "
                "and nothing can be added to it later; leave out privacy, keep_sums and warm_start"
            )
        if self.items is not None and (self.keep_sums or self.warm_start is not None):
            raise PlanError(
                "items: which items take part changes with the data, so sums and models of other data do not go on "
                "from there; leave out keep_sums and warm_start"
            )
        if self.asynchronous is not None:
            self._check_asynchronous(self.asynchronous, model, first)
        if self.privacy is not None:
            self._check_private(model, first)
        if self.rows < 1:
            check_rows(first, model)
        if self.refit and (self.evaluation.every or self.evaluation.keep == "best"):
            raise PlanError(
                "refit trains on the validation part, so nothing can be validated; set evaluation.every to 0"
            )
        return self

    def _check_asynchronous(self, terms: Asynchronous, model: Recommender, first: SumSpec) -> None:
        """What would break a promise where sums of several versions meet."""
        if not first.changes:
            raise PlanError(
                f"asynchronous: {model.name} does not step along changes: its sums of one version say nothing about "
                f"another; {models_where(lambda other: bool(first_sum(other).changes))} do"
            )
        wrong = {
            "privacy: its budget counts on a cohort that chance alone draws from all clients in every round, and here "
            "a node's speed decides how often its clients count": self.privacy is not None,
            "robust: the fastest nodes fill most buffers, so few hostile ones can be most of one": (
                self.robust is not None
            ),
            "rows: sums of different versions have different rows, and their counts are of all": self.rows < 1,
            "warm_start: a node that has not answered when a run is resumed would not know what it began with": (
                self.warm_start is not None
            ),
        }  # fmt: skip
        for reason, found in wrong.items():
            if found:
                raise PlanError(f"asynchronous does not go with {reason}")
        if first.statistics:
            raise PlanError(
                f"asynchronous: with these settings {model.name} also sums {' and '.join(first.statistics)}, which are "
                "right for one version only, and versions mix in a buffer; leave out the setting that asks for them"
            )

    def _check_private(self, model: Recommender, first: SumSpec) -> None:
        """What would undo the promise of privacy."""
        assert self.privacy is not None
        wrong = {
            f"max_cohort for {model.name}: it keeps something of each client between rounds, so whom one user pushes "
            "out of a round adds something else in later ones, and no charge covers that; leave max_cohort out, or set "
            "participations: 1": (
                self.privacy.max_cohort is not None and self.privacy.participations != 1 and keeps_rows(model)
            ),
            "evaluation.every: validations are exact figures of users' data, and would decide what is "
            "released; train a "
            "fixed number of rounds": self.evaluation.every,
            "keep_sums: the kept sums are exact": self.keep_sums,
            "cleaning: k_core and min_item_interactions: one user's absence would change other users' histories, and "
            "move the sums by more than the clip": bool(self.data.cleaning.across_users),
            "warm_start: what the earlier run learned is not in this run's budget": self.warm_start is not None,
            "items: its counts would have to be paid for, and noise lies on every row anyway": self.items is not None,
            "rows: noise lies on every row, and costs the same however few are summed": self.rows < 1,
            f"a model that pools {' and '.join(first.pooled)}: no client can be clipped there": bool(first.pooled),
            "negatives: paper-leaky: it reads held-out interactions": self.leaky,
            f"split: {self.split} is cut at a time that is computed from everybody's data, exactly; use leave-last-out "
            "or ratio": self.split.startswith("temporal") and not self.split.partition("@")[2],
        }  # fmt: skip
        for reason, found in wrong.items():
            if found:
                raise PlanError(f"privacy does not go with {reason}")
        if self.cohort > 1 and self.privacy.users is None:
            raise PlanError("privacy: a cohort as a number of clients needs privacy.users, the public number of users")
        self.privacy.check_plan(self.share(), len(model.budget_shares))

    def with_noise(self) -> Plan:
        """The plan with the noise that its privacy needs; the same without privacy. Needs no data.

        Raises:
            PlanError: if the noise that it names is too little for its epsilon.
        """
        if self.privacy is None:
            return self
        terms = self.privacy.resolve(self.build_model().budget_shares, self.share())
        return self.model_copy(update={"privacy": terms})

    def build_model(self) -> Recommender:
        """The recommender of the plan."""
        if "name" not in self.model:
            raise PlanError("plan: model needs a name, as in model: {name: ease}")
        settings = {key: value for key, value in self.model.items() if key != "name"}
        model = build_model(str(self.model["name"]), settings)
        if self.weights is not None:
            model = weighted(model, self.weights.most)
        if self.privacy is None:
            return model
        clients = max(1, round(self.share() * (self.privacy.users or self.n_max or 1)))
        return model.privately(PrivateTerms(self.privacy.clip, clients))

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
        if data.n_users == 0 or len(data) == 0:
            raise PlanError(f"plan: data {self.data.source!r} has no interactions left to train on")
        users = data.n_users if self.privacy is None else self.privacy.users or data.n_users
        n_max = self.n_max or 1 << max(10, (users - 1).bit_length())
        if self.privacy is not None and data.n_users > users:
            raise PlanError(
                f"privacy: users = {users} is fewer than there are; give a public number that is not exceeded"
            )
        if data.n_users > n_max:
            raise PlanError(f"plan: {data.n_users} users, more than n_max = {n_max}")
        if self.privacy is not None and self.privacy.delta * users >= 1:
            raise PlanError(f"privacy: delta = {self.privacy.delta:g} allows for one of {users} users to be exposed "
                            f"outright; take at most {0.1 / users:.1g}, a tenth of 1 / users")  # fmt: skip
        public = self
        if self.privacy is not None:
            public = self.model_copy(update={"privacy": self.privacy.model_copy(update={"users": users})})
        changes: dict[str, Any] = {
            "data": self.data.model_copy(update={"digest": digest}),
            "split": str(SplitMethod.parse(self.split).resolve(data)),
            "model": {"name": self.model["name"], **public.build_model().model_dump(mode="json")},
            **pins,
            "n_max": n_max,
            "cohort": self.cohort if self.cohort <= 1 else min(1.0, self.cohort / users),
        }
        return public.model_copy(update=changes).with_noise()

    def agree(self, catalog: Catalog, n_max: int) -> Plan:
        """Fill in what a federation agrees on where nobody sees the data: catalog, most clients, and all defaults.

        Raises:
            PlanError: if the plan was resolved for another catalog, or names what only all data together can tell.
        """
        pins = self._pins(catalog)
        method = SplitMethod.parse(self.split)
        users = None if self.privacy is None else self.privacy.users
        for reason, found in {
            f"split: {self.split} is cut at a time that only all data together could tell; say temporal@T,T": (
                method.name == "temporal" and method.cuts is None
            ),
            "cohort: no node knows how many clients there are in all; give a share such as 0.1": (
                self.cohort > 1 and users is None
            ),
            "cleaning: k_core and min_item_interactions look across users, whom nobody sees together; let each owner "
            "clean, or use items: {least: …}": bool(self.data.cleaning.across_users),
            "privacy: users is needed: the public number of users that is not exceeded": (
                self.privacy is not None and users is None
            ),
            "model: lowest and highest are needed: the scale of the ratings, outside of which nodes leave them out": (
                self.build_model().traits.reads_ratings and not {"lowest", "highest"} <= set(self.model)
            ),
        }.items():
            if found:
                raise PlanError(f"in a federation a plan does not go with {reason}")
        most = self.n_max or max(n_max, users or 0)
        changes: dict[str, Any] = {
            "model": {"name": self.model["name"], **self.build_model().model_dump(mode="json")},
            **pins,
            "n_max": most,
            "cohort": self.cohort if self.cohort <= 1 else min(1.0, self.cohort / (users or most)),
        }
        return self.model_copy(update=changes).with_noise()

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
                raise PlanError(f"plan: {key} is missing; fill in {pins[key]}")

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
            raise PlanError(f"{where}: a plan is a mapping of keys to values")
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
            f"plan: the {what} is not the one this plan was made for (digest {(digest or 'none')[:12]}…, expected "
            f"{pinned[:12]}…). Restore it, or remove the digest to start anew"
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


class _Dumper(yaml.SafeDumper):
    """Writes a part that stands in two places twice: what is read has no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whether to write it out; always."""
        return True


def _keys(error: ValidationError) -> list[str]:
    kinds: dict[str, type[BaseModel]] = {
        "data": DataPlan, "evaluation": EvaluationPlan, "cleaning": Cleaning, "cap": Cap, "weight": Weight,
        "clip": Clip, "privacy": Privacy, "asynchronous": Asynchronous, "weights": Weights,
        "warm_start": WarmStart,
    }  # fmt: skip
    parents = [str(part) for part in foremost(error)["loc"][:-1] if str(part) in kinds]
    return list((kinds[parents[-1]] if parents else Plan).model_fields)
