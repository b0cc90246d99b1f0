"""What `fedrec` offers, for type checkers. Made from the code by deploy/public_types.py; do not edit."""

from collections.abc import Sequence
from typing import Any, Literal

from fedrec.data.catalog import Catalog as Catalog
from fedrec.data.cleaning import Cleaning as Cleaning
from fedrec.data.cleaning import clean as clean
from fedrec.data.identifiers import Identifiers as Identifiers
from fedrec.data.interactions import Interactions as Interactions
from fedrec.data.reading.catalogs import read_catalog as read_catalog
from fedrec.data.reading.frames import interactions_from as interactions_from
from fedrec.data.reading.readers import read_interactions as read_interactions
from fedrec.data.sources import load_data as load_data
from fedrec.data.splits import Split as Split
from fedrec.data.splits import cold_items as cold_items
from fedrec.data.splits import cross_domain as cross_domain
from fedrec.data.splits import given as given
from fedrec.data.splits import last as last
from fedrec.data.splits import leave_last_out as leave_last_out
from fedrec.data.splits import new_users as new_users
from fedrec.data.splits import ratio as ratio
from fedrec.data.splits import temporal as temporal
from fedrec.data.synthetic import synthetic as synthetic
from fedrec.errors import FedrecError as FedrecError
from fedrec.errors import InputError as InputError
from fedrec.errors import PlanError as PlanError
from fedrec.estimators.checks import audit_run as audit_run
from fedrec.estimators.checks import compare as compare
from fedrec.estimators.checks import verify as verify
from fedrec.estimators.estimator import Estimator as Estimator
from fedrec.estimators.estimator import estimator as estimator
from fedrec.estimators.estimator import load_model as load_model
from fedrec.estimators.federations import Federation as Federation
from fedrec.estimators.forgetting import forget as forget
from fedrec.estimators.measuring import difference as difference
from fedrec.estimators.measuring import evaluate as evaluate
from fedrec.estimators.tuning import tune as tune
from fedrec.models.networks.network import Network as Network
from fedrec.models.networks.rating_network import RatingNetwork as RatingNetwork
from fedrec.progress import Stopwatch as Stopwatch
from fedrec.recommending.reranking import Rerank as Rerank
from fedrec.threads import set_threads as set_threads

__version__: str

class Adapter(Estimator):
    def __init__(
        self,
        *,
        rounds: int = ...,
        method: Literal["fedsgd", "fedavg"] = ...,
        granularity: Literal["node", "client"] = ...,
        window: int = ...,
        crops: float = ...,
        learning_rate: float = ...,
        optimiser: Literal["adam", "sgd"] = ...,
        warmup: int = ...,
        schedule: Literal["constant", "cosine"] = ...,
        first_decay: float = ...,
        second_decay: float = ...,
        weight_decay: float = ...,
        local_epochs: int = ...,
        local_batch: int = ...,
        proximal: float = ...,
        scaffold: bool = ...,
        server_optimiser: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = ...,
        server_learning_rate: float = ...,
        private_steps: int = ...,
        private_learning_rate: float = ...,
        bound: float = ...,
        item_features: Literal["auto"] | dict[str, str | list[str] | dict[str, float]] = ...,
        rank: int = ...,
        temperature: float = ...,
        targets: int = ...,
        negatives: int = ...,
        rolora: bool = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class Autoencoder(Estimator):
    def __init__(
        self,
        *,
        embedding_size: int | None = ...,
        rounds: int = ...,
        learning_rate: float = ...,
        batch_size: int = ...,
        keep: float = ...,
        reg: float = ...,
        start_from: Literal["spectral", "random"] = ...,
        alpha: float = ...,
        beta: float = ...,
        most_candidates: int = ...,
        item_features: Literal["auto"] | dict[str, str | list[str] | dict[str, float]] | None = ...,
        boost: float | Literal["auto", "careful"] = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class BiasedMF(Estimator):
    def __init__(
        self,
        *,
        embedding_size: int = ...,
        rounds: int = ...,
        reg: float = ...,
        bias_reg: float = ...,
        nu: float = ...,
        init_sd: float = ...,
        lowest: float = ...,
        highest: float = ...,
        scale_bits: int = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class Blend(Estimator):
    def __init__(
        self,
        *,
        models: Sequence[str | dict[str, Any]] = ...,
        shares: Sequence[float] = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class Content(Estimator):
    def __init__(
        self,
        *,
        item_features: Literal["auto"] | dict[str, str | list[str] | dict[str, float]] = ...,
        reg: float = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class EASE(Estimator):
    def __init__(
        self,
        *,
        reg: float | Literal["auto"] = ...,
        alpha: float = ...,
        rank: int | None = ...,
        passes: int = ...,
        decay: float = ...,
        item_features: Literal["auto"] | dict[str, str | list[str] | dict[str, float]] | None = ...,
        boost: float | Literal["auto", "careful"] = ...,
        target: str | None = ...,
        dropout: float = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class FCF(Estimator):
    def __init__(
        self,
        *,
        embedding_size: int = ...,
        rounds: int = ...,
        learning_rate: float = ...,
        first_decay: float = ...,
        second_decay: float = ...,
        alpha: float = ...,
        reg: float = ...,
        init_sd: float = ...,
        bound: float = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class FedRecon(Estimator):
    def __init__(
        self,
        *,
        embedding_size: int = ...,
        rounds: int = ...,
        learning_rate: float = ...,
        epochs: int = ...,
        negatives: int = ...,
        loss: Literal["bce", "bpr", "softmax", "squared"] = ...,
        reg: float = ...,
        batch_size: int = ...,
        local_optimiser: Literal["sgd", "momentum", "adam", "adagrad"] = ...,
        local_momentum: float = ...,
        proximal: float = ...,
        scaffold: bool = ...,
        control_rows: int = ...,
        server_optimiser: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = ...,
        server_learning_rate: float = ...,
        server_momentum: float = ...,
        server_decay: float = ...,
        server_floor: float = ...,
        denominator: Literal["count", "per_row", "fixed"] = ...,
        expected_clients: int | None = ...,
        bound: float = ...,
        init_sd: float = ...,
        item_features: Literal["auto"] | dict[str, str | list[str] | dict[str, float]] | None = ...,
        boost: float | Literal["auto", "careful"] = ...,
        rebuild_epochs: int = ...,
        rebuild_rate: float = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class FedNCF(Estimator):
    def __init__(
        self,
        *,
        embedding_size: int = ...,
        rounds: int = ...,
        learning_rate: float = ...,
        epochs: int = ...,
        negatives: int = ...,
        reg: float = ...,
        bound: float = ...,
        init_sd: float = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class FedRAP(Estimator):
    def __init__(
        self,
        *,
        embedding_size: int = ...,
        rounds: int = ...,
        learning_rate: float = ...,
        item_rate: float = ...,
        batch_decay: float = ...,
        round_decay: float = ...,
        epochs: int = ...,
        negatives: int = ...,
        batch_size: int = ...,
        apart: float = ...,
        sparse: float = ...,
        schedule: Literal["tanh", "none"] = ...,
        weight_decay: float = ...,
        bound: float = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class GPFedRec(Estimator):
    def __init__(
        self,
        *,
        embedding_size: int = ...,
        rounds: int = ...,
        learning_rate: float = ...,
        item_rate: float = ...,
        epochs: int = ...,
        negatives: int = ...,
        batch_size: int = ...,
        pull: float = ...,
        groups: int = ...,
        neighbours: Literal["alike", "unlike"] = ...,
        bound: float = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class IALS(Estimator):
    def __init__(
        self,
        *,
        embedding_size: int = ...,
        rounds: int = ...,
        unobserved_weight: float = ...,
        reg: float = ...,
        nu: float = ...,
        init_sd: float = ...,
        bound: float | Literal["auto"] = ...,
        scale_bits: int = ...,
        item_features: Literal["auto"] | dict[str, str | list[str] | dict[str, float]] | None = ...,
        boost: float | Literal["auto", "careful"] = ...,
        solver: Literal["cholesky", "cg"] = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class ItemKNN(Estimator):
    def __init__(
        self,
        *,
        neighbours: int = ...,
        shrink: float = ...,
        alpha: float = ...,
        decay: float = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class LightGCN(Estimator):
    def __init__(
        self,
        *,
        embedding_size: int | None = ...,
        rounds: int = ...,
        learning_rate: float = ...,
        batch_size: int = ...,
        keep: float = ...,
        reg: float = ...,
        start_from: Literal["spectral", "random"] = ...,
        alpha: float = ...,
        beta: float = ...,
        most_candidates: int = ...,
        item_features: Literal["auto"] | dict[str, str | list[str] | dict[str, float]] | None = ...,
        boost: float | Literal["auto", "careful"] = ...,
        layers: int = ...,
        tied: bool = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class Lora(Estimator):
    def __init__(
        self,
        *,
        rounds: int = ...,
        method: Literal["fedsgd", "fedavg"] = ...,
        granularity: Literal["node", "client"] = ...,
        window: int = ...,
        crops: float = ...,
        learning_rate: float = ...,
        optimiser: Literal["adam", "sgd"] = ...,
        warmup: int = ...,
        schedule: Literal["constant", "cosine"] = ...,
        first_decay: float = ...,
        second_decay: float = ...,
        weight_decay: float = ...,
        local_epochs: int = ...,
        local_batch: int = ...,
        proximal: float = ...,
        scaffold: bool = ...,
        server_optimiser: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = ...,
        server_learning_rate: float = ...,
        private_steps: int = ...,
        private_learning_rate: float = ...,
        bound: float = ...,
        item_features: Literal["auto"] | dict[str, str | list[str] | dict[str, float]] = ...,
        rank: int = ...,
        alpha: float = ...,
        projections: Literal["auto"] | Sequence[str] = ...,
        temperature: float = ...,
        targets: int = ...,
        drawn: int = ...,
        refresh: int = ...,
        checkpointing: bool = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class MF(Estimator):
    def __init__(
        self,
        *,
        embedding_size: int = ...,
        rounds: int = ...,
        learning_rate: float = ...,
        epochs: int = ...,
        negatives: int = ...,
        loss: Literal["bce", "bpr", "softmax", "squared"] = ...,
        reg: float = ...,
        batch_size: int = ...,
        local_optimiser: Literal["sgd", "momentum", "adam", "adagrad"] = ...,
        local_momentum: float = ...,
        proximal: float = ...,
        scaffold: bool = ...,
        control_rows: int = ...,
        server_optimiser: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = ...,
        server_learning_rate: float = ...,
        server_momentum: float = ...,
        server_decay: float = ...,
        server_floor: float = ...,
        denominator: Literal["count", "per_row", "fixed"] = ...,
        expected_clients: int | None = ...,
        bound: float = ...,
        init_sd: float = ...,
        item_features: Literal["auto"] | dict[str, str | list[str] | dict[str, float]] | None = ...,
        boost: float | Literal["auto", "careful"] = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class PFedRec(Estimator):
    def __init__(
        self,
        *,
        embedding_size: int = ...,
        rounds: int = ...,
        learning_rate: float = ...,
        item_rate: float = ...,
        epochs: int = ...,
        negatives: int = ...,
        batch_size: int = ...,
        scores_with: Literal["personal", "shared"] = ...,
        ranks_by: Literal["logit", "probability"] = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class Popularity(Estimator):
    def __init__(
        self,
        *,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class NeuMF(Estimator):
    def __init__(
        self,
        *,
        rounds: int = ...,
        method: Literal["fedsgd", "fedavg"] = ...,
        granularity: Literal["node", "client"] = ...,
        window: int = ...,
        crops: float = ...,
        learning_rate: float = ...,
        optimiser: Literal["adam", "sgd"] = ...,
        warmup: int = ...,
        schedule: Literal["constant", "cosine"] = ...,
        first_decay: float = ...,
        second_decay: float = ...,
        weight_decay: float = ...,
        local_epochs: int = ...,
        local_batch: int = ...,
        proximal: float = ...,
        scaffold: bool = ...,
        server_optimiser: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = ...,
        server_learning_rate: float = ...,
        private_steps: int = ...,
        private_learning_rate: float = ...,
        bound: float = ...,
        start_from: Literal["spectral", "random"] = ...,
        passes: int = ...,
        start_sd: float = ...,
        user: Literal["history", "private"] = ...,
        parts: Literal["both", "gmf", "mlp"] = ...,
        embedding_size: int = ...,
        hidden: Sequence[int] = ...,
        positives: int = ...,
        negatives: int = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class SASRec(Estimator):
    def __init__(
        self,
        *,
        rounds: int = ...,
        method: Literal["fedsgd", "fedavg"] = ...,
        granularity: Literal["node", "client"] = ...,
        window: int = ...,
        crops: float = ...,
        learning_rate: float = ...,
        optimiser: Literal["adam", "sgd"] = ...,
        warmup: int = ...,
        schedule: Literal["constant", "cosine"] = ...,
        first_decay: float = ...,
        second_decay: float = ...,
        weight_decay: float = ...,
        local_epochs: int = ...,
        local_batch: int = ...,
        proximal: float = ...,
        scaffold: bool = ...,
        server_optimiser: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = ...,
        server_learning_rate: float = ...,
        private_steps: int = ...,
        private_learning_rate: float = ...,
        bound: float = ...,
        start_from: Literal["spectral", "random"] = ...,
        passes: int = ...,
        start_sd: float = ...,
        embedding_size: int = ...,
        blocks: int = ...,
        heads: int = ...,
        dropout: float = ...,
        loss: Literal["softmax", "sampled-softmax", "gbce"] = ...,
        negatives: int = ...,
        calibration: float = ...,
        positions: Literal["learned", "rotary"] = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class SLIT(Estimator):
    def __init__(
        self,
        *,
        decays: Sequence[float] = ...,
        future: float = ...,
        reg: float = ...,
        alpha: float = ...,
        unit: Literal["steps", "days"] = ...,
        rank: int | None = ...,
        passes: int = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class Spectral(Estimator):
    def __init__(
        self,
        *,
        rank: int = ...,
        passes: int = ...,
        alpha: float = ...,
        beta: float = ...,
        filter: Literal["ridge", "low-pass"] = ...,
        reg: float = ...,
        decay: float = ...,
        item_features: Literal["auto"] | dict[str, str | list[str] | dict[str, float]] | None = ...,
        boost: float | Literal["auto", "careful"] = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...

class TwoTower(Estimator):
    def __init__(
        self,
        *,
        rounds: int = ...,
        method: Literal["fedsgd", "fedavg"] = ...,
        granularity: Literal["node", "client"] = ...,
        window: int = ...,
        crops: float = ...,
        learning_rate: float = ...,
        optimiser: Literal["adam", "sgd"] = ...,
        warmup: int = ...,
        schedule: Literal["constant", "cosine"] = ...,
        first_decay: float = ...,
        second_decay: float = ...,
        weight_decay: float = ...,
        local_epochs: int = ...,
        local_batch: int = ...,
        proximal: float = ...,
        scaffold: bool = ...,
        server_optimiser: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = ...,
        server_learning_rate: float = ...,
        private_steps: int = ...,
        private_learning_rate: float = ...,
        bound: float = ...,
        start_from: Literal["spectral", "random"] = ...,
        passes: int = ...,
        start_sd: float = ...,
        embedding_size: int = ...,
        hidden: int = ...,
        dropout: float = ...,
        keep: float = ...,
        negatives: int = ...,
        seed: int | None = ...,
        cohort: float | None = ...,
        weights: str | dict[str, Any] | None = ...,
        plan: dict[str, Any] | None = ...,
    ) -> None: ...
