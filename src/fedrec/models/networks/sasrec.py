"""SASRec: self-attention over the history predicts the next item (Kang & McAuley 2018, "Self-attentive sequential
recommendation"), with losses over many items, which it needs (Klenitskiy & Vasilev 2023; Petrov & Macdonald 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fedrec.errors import PlanError
from fedrec.models.base import PrivateRecommender, PrivateTerms
from fedrec.models.networks.private_network import PrivateSketchedNetwork
from fedrec.models.networks.sketched_start import SketchedNetwork
from fedrec.models.traits import Traits

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PrivateSASRec", "SASRec"]


class SASRec(SketchedNetwork):
    """score = ⟨state after the newest item, item vector⟩ + item bias; the state is that of a causal transformer.

    Item vectors are the same at the input and at the output. Blocks normalise before attention and before the
    feed-forward layer. Nothing is kept of users: whoever has a history has scores.

    Args:
        embedding_size: length of item vectors and states.
        blocks: layers of attention.
        heads: of attention; they divide `embedding_size`.
        dropout: share of what is set to 0 in training, after the embedding and in every block.
        loss: `softmax` over the whole catalog, `sampled-softmax` over `negatives` items that all clients of a round
            share (corrected for their number), or `gbce` over the same items (gSASRec), which lowers the weight of a
            positive so that probabilities stay calibrated.
        negatives: items drawn for a round; unused with `softmax`.
        calibration: t of `gbce`: 0 is binary cross-entropy, 1 is fully calibrated.
        positions: `learned`, counted from the newest item, or `rotary`.
    """

    embedding_size: PositiveInt = 64
    blocks: int = Field(default=2, ge=1, le=64)
    heads: PositiveInt = 2
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    loss: Literal["softmax", "sampled-softmax", "gbce"] = "sampled-softmax"
    negatives: PositiveInt = 512
    calibration: float = Field(default=0.75, ge=0.0, le=1.0)
    positions: Literal["learned", "rotary"] = "learned"

    rounds: PositiveInt = 1500
    window: PositiveInt = Field(default=100, ge=2)
    crops: float = Field(default=0.7, ge=0.0, le=1.0)
    learning_rate: PositiveFloat = 2e-3
    second_decay: float = Field(default=0.98, ge=0.0, lt=1.0)
    schedule: Literal["constant", "cosine"] = "cosine"

    name: ClassVar[str] = "sasrec"
    traits: ClassVar[Traits] = Traits(reads=frozenset({"items", "order"}), bits="node", iterative=True, cohort=128)
    item_table: ClassVar[str] = "items"
    item_bias: ClassVar[str] = "bias"
    most_terms: ClassVar[str] = "window"

    @model_validator(mode="after")
    def _check_heads(self) -> SASRec:
        if self.embedding_size % self.heads or (self.positions == "rotary" and (self.embedding_size // self.heads) % 2):
            raise PlanError(
                f"model {self.name}: embedding_size {self.embedding_size} cannot be divided among {self.heads} heads"
                f"{' of even width, as rotary positions ask' if self.positions == 'rotary' else ''}"
            )
        return self

    def module(self, n_items: int) -> nn.Module:
        """The transformer."""
        from fedrec.models.networks.sasrec_module import Design, SASRecModule

        return SASRecModule(
            n_items,
            Design(
                self.embedding_size,
                self.blocks,
                self.heads,
                self.dropout,
                self.loss,
                self.negatives,
                self.calibration,
                self.positions == "rotary",
                self.window,
            ),
        )

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """Item rows from noisy sketches, and a small transformer on them, see `PrivateSASRec`."""
        return PrivateSASRec.of(self, terms)


class PrivateSASRec(PrivateSketchedNetwork, SASRec):
    """Item rows from noisy sketches, and a small transformer on them; see `fedrec.models.networks.private_network`.

    The clip is 0.1 by default, which is below the norm of nearly every client.

    Args:
        embedding_size: about as many directions as stand out of the noise.
        blocks: 1, as noise grows with the root of the number of parameters.
        heads: 1.
        dropout: 0, as noise keeps so small a network from learning single clients.
        negatives: few, as every client takes part in every round.
        rounds: few, as each takes its share of the budget.
        window: shorter, for the same reason.
        learning_rate: large, as rounds are few.
    """

    embedding_size: PositiveInt = 48
    blocks: int = Field(default=1, ge=1, le=64)
    heads: PositiveInt = 1
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    negatives: PositiveInt = 128
    rounds: PositiveInt = 33
    window: PositiveInt = Field(default=50, ge=2)
    learning_rate: PositiveFloat = 1.5e-2
