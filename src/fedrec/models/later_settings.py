"""Models that got more hyperparameters: plans that were made before keep their digests."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import SerializerFunctionWrapHandler, model_serializer

from fedrec.models.base import Recommender

__all__ = ["LaterSettings"]


class LaterSettings(Recommender):
    """A model some of whose hyperparameters are written only where they are not their defaults."""

    unsaid: ClassVar[frozenset[str]] = frozenset()
    """These hyperparameters."""

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        fields = type(self).model_fields
        return {key: value for key, value in written.items() if key not in self.unsaid or value != fields[key].default}
