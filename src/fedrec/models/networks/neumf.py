"""NeuMF: neural collaborative filtering (He et al. 2017), with users as private vectors or encoded from their
history."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from fedrec.models.base import Arrays, PrivateRecommender, PrivateTerms
from fedrec.models.networks.private_network import PrivateSketchedNetwork
from fedrec.models.networks.sketched_start import SketchedNetwork
from fedrec.models.traits import Traits

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NeuMF", "PrivateNeuMF"]


class NeuMF(SketchedNetwork):
    """score = output layer over a product of user and item vectors (GMF), a multilayer perceptron of both (MLP), or
    both.

    In a visit up to `positives` items of a client are positives, and `negatives` items that it does not have are drawn
    for each. The loss is binary cross-entropy. With `start_from: spectral` item vectors begin with the leading
    eigenvectors of the item graph in both parts, and GMF as an inner product of them.

    Args:
        user: `history` encodes a user as the mean of vectors of their items, without the one to be predicted: nothing
            is kept of users, and strangers are scored at once. `private` keeps a vector of each user at its node.
        parts: `both`, `gmf` or `mlp`.
        embedding_size: length of the vectors of each part.
        hidden: widths of the layers of the perceptron.
        positives: maximum number of items of a client that are to be predicted in a visit, drawn anew each time.
        negatives: items drawn for each positive.
    """

    user: Literal["history", "private"] = "history"
    parts: Literal["both", "gmf", "mlp"] = "both"
    embedding_size: PositiveInt = 16
    hidden: tuple[PositiveInt, ...] = Field(default=(32, 16), min_length=1, max_length=16)
    positives: PositiveInt = 50
    negatives: PositiveInt = 4

    rounds: PositiveInt = 300
    window: PositiveInt = Field(default=500, ge=2)
    learning_rate: PositiveFloat = 0.015
    schedule: Literal["constant", "cosine"] = "cosine"
    start_sd: PositiveFloat = 0.2

    name: ClassVar[str] = "neumf"
    traits: ClassVar[Traits] = Traits(bits="node", iterative=True, cohort=64)
    item_table: ClassVar[str] = "items"
    item_bias: ClassVar[str] = "bias"
    most_terms: ClassVar[str] = "positives"

    def module(self, n_items: int) -> nn.Module:
        """The network."""
        from fedrec.models.networks.neumf_module import NeuMFModule

        history, size = self.user == "history", self.embedding_size
        return NeuMFModule(n_items, size, self.hidden, self.parts, self.positives, self.negatives, history)

    def private_lengths(self) -> dict[str, int]:
        """A vector for each part."""
        return {"users": 2 * self.embedding_size} if self.user == "private" else {}

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """Item biases from noisy counts, and a small network, see `PrivateNeuMF`."""
        return PrivateNeuMF.of(self, terms)

    def _begun_from(self, spectrum: np.ndarray, counts: np.ndarray, held: Arrays) -> dict[str, np.ndarray]:
        """The leading eigenvectors in both parts of the tables; the product begins as an inner product."""
        begun, size = super()._begun_from(spectrum, counts, held), self.embedding_size
        begun["items"] = np.tile(begun["items"][:, :size], 2)
        if self.user == "history":
            begun["histories"] = begun["items"]
        begun["output.weight"] = held["output.weight"].copy()
        begun["output.weight"][0, :size] = 1.0
        return begun


class PrivateNeuMF(PrivateSketchedNetwork, NeuMF):
    """Item biases from noisy counts, and a small network; see `fedrec.models.networks.private_network`.

    The clip is 0.1 by default, which is below the norm of nearly every client.

    Args:
        embedding_size: small, as noise grows with the root of the number of parameters.
        hidden: small, for the same reason.
        rounds: few, as each takes its share of the budget.
        start_from: `random`, as the budget is worth more in training than in sketches.
        positives: all of a shorter window.
    """

    embedding_size: PositiveInt = 8
    hidden: tuple[PositiveInt, ...] = Field(default=(8,), min_length=1, max_length=16)
    rounds: PositiveInt = 21
    start_from: Literal["spectral", "random"] = "random"
    positives: PositiveInt = 100
    window: PositiveInt = Field(default=100, ge=2)
    crops: float = Field(default=1.0, ge=0.0, le=1.0)
    learning_rate: PositiveFloat = 5e-3
    schedule: Literal["constant", "cosine"] = "constant"
