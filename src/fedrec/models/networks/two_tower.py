"""Two towers: a network for users and one for items, which meet in an inner product (Covington et al. 2016; Yi et al.
2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations")."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from fedrec.models.base import PrivateRecommender, PrivateTerms
from fedrec.models.networks.private_network import PrivateSketchedNetwork
from fedrec.models.networks.sketched_start import SketchedNetwork
from fedrec.models.traits import Traits

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PrivateTwoTower", "TwoTower"]


class TwoTower(SketchedNetwork):
    """score = ⟨user tower(mean vector of the history), item tower(item vector)⟩ + item bias.

    For each visit a keyed coin splits the history: one half makes the user, the other is to be found among items that
    all clients of a round share, by softmax. Nothing is kept of users: whoever has a history has scores. A tower is the
    vector itself plus a perceptron of it.

    Args:
        embedding_size: length of item vectors and of what the towers give.
        hidden: width of the layer in each tower.
        dropout: share of that layer that is set to 0 in training.
        keep: chance of an item to be in the half that makes the user.
        negatives: items drawn for a round; a softmax over the whole catalog where it has no more.
    """

    embedding_size: PositiveInt = 64
    hidden: PositiveInt = 128
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    keep: float = Field(default=0.5, gt=0.0, lt=1.0)
    negatives: PositiveInt = 4096

    rounds: PositiveInt = 200
    learning_rate: PositiveFloat = 2e-3

    name: ClassVar[str] = "two-tower"
    traits: ClassVar[Traits] = Traits(bits="node", iterative=True, cohort=256)
    item_table: ClassVar[str] = "items"
    item_bias: ClassVar[str] = "bias"

    def module(self, n_items: int) -> nn.Module:
        """The towers."""
        from fedrec.models.networks.two_tower_module import TwoTowerModule

        return TwoTowerModule(n_items, self.embedding_size, self.hidden, self.keep, self.dropout, self.negatives)

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """Item vectors from noisy sketches, and small towers on them, see `PrivateTwoTower`."""
        return PrivateTwoTower.of(self, terms)


class PrivateTwoTower(PrivateSketchedNetwork, TwoTower):
    """Item vectors from noisy sketches, and small towers on them; see `fedrec.models.networks.private_network`.

    The clip is 0.1 by default, which is below the norm of nearly every client.

    Args:
        embedding_size: about as many directions as stand out of the noise.
        hidden: small, as noise grows with the root of the number of parameters.
        dropout: 0, as noise keeps so small a network from learning single clients.
        negatives: few, as every client takes part in every round.
        rounds: few, as each takes its share of the budget.
    """

    embedding_size: PositiveInt = 48
    hidden: PositiveInt = 16
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    negatives: PositiveInt = 512
    rounds: PositiveInt = 33
