"""What a coordinator asks of a node, as fields of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.errors import DamagedError, InputError
from fedrec.evaluation.groups import Groups
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.federation.calls import HELD_OUT, CountCall, EvaluationCall, RoundCall
from fedrec.models.base import Arrays
from fedrec.privacy.guard import RoundTerms

__all__ = ["Call", "call_fields", "decode_call"]

Call = RoundCall | CountCall | EvaluationCall


def call_fields(call: Call) -> dict[str, Any]:
    """What JSON can say of a call: not shared arrays, which travel by their digest, nor item rows, which the plan
    says."""
    if isinstance(call, CountCall):
        return {"spec": call.spec.layout, "noise": call.noise}
    if isinstance(call, EvaluationCall):
        return {
            "committed": call.committed,
            "after": call.after,
            "part": call.part,
            "protocol": str(call.protocol),
            "metrics": [str(metric) for metric in call.metrics],
            "n_max": call.n_max,
            **({"trial": call.trial} if call.trial else {}),
            **({} if call.groups is None else {"by": call.groups.column, "groups": list(call.groups.labels)}),
        }
    return {
        "round": call.round,
        "committed": call.committed,
        "spec": call.spec.layout,
        "share": call.share,
        "change": call.change,
        "privacy": None if call.privacy is None else asdict(call.privacy),
        "groups": call.groups,
        **({} if call.counts is None else {"counts": call.counts.tolist()}),
    }


def decode_call(kind: str, fields: Mapping[str, Any], shared: Arrays) -> Call:
    """A call from what `call_fields` said of it.

    Raises:
        DamagedError: if it is not one.
    """
    try:
        if kind == "count":
            return CountCall(SumSpec.of_layout(fields["spec"]), _number(fields["noise"]))
        if kind == "evaluate":
            part: Literal["valid", "test"] = fields["part"]
            if part not in HELD_OUT:
                raise ValueError(f"part {part!r}")
            metrics, protocol = parse_metrics(fields["metrics"]), parse_protocol(fields["protocol"])
            return EvaluationCall(
                _whole(fields["committed"]),
                shared,
                part,
                protocol,
                metrics,
                _whole(fields["n_max"]),
                _whole(fields["after"]),
                trial=_whole(fields.get("trial", 0)),
                groups=_groups(fields["by"], fields["groups"]) if "by" in fields else None,
            )
        terms = fields["privacy"]
        return RoundCall(
            _whole(fields["round"]),
            _whole(fields["committed"]),
            shared,
            SumSpec.of_layout(fields["spec"]),
            _number(fields["share"]),
            bool(fields["change"]),
            None if terms is None else _terms(terms),
            _whole(fields["groups"]),
            counts=_counts(fields["counts"]) if "counts" in fields else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, InputError) as error:
        raise DamagedError(f"a call of kind {kind!r} is not whole: {error!r}") from None


def _groups(by: Any, labels: Any) -> Groups:
    if not isinstance(by, str) or not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise TypeError("a column and groups of users are named by text")
    return Groups(by, tuple(labels))


def _terms(data: Any) -> RoundTerms:
    run, clip, honest, parties = data["run"], data["clip"], data["honest"], data["parties"]
    if not isinstance(run, str) or not isinstance(parties, str | None):
        raise TypeError("a run and its parties are named by text")
    return RoundTerms(
        run,
        _number(data["noise_multiplier"]),
        None if clip is None else _number(clip),
        _number(data["delta"]),
        None if honest is None else _whole(honest),
        parties,
    )


def _counts(data: Any) -> np.ndarray:
    if not isinstance(data, list) or not data:
        raise TypeError("counts of items are a list")
    return np.array([_whole(count) for count in data], dtype=np.int64)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not np.isfinite(value):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
