"""A training as curves: validation against rounds, bytes and seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from fedrec.errors import InputError
from fedrec.pictures.canvas import canvas, style

__all__ = ["draw_training"]


def draw_training(
    title: str, rounds: Sequence[Mapping[str, Any]], progress: Iterable[Mapping[str, Any]], path: Path
) -> None:
    """Draw validation metrics against the rounds, against what one node has sent, and against seconds.

    Args:
        title: of the picture.
        rounds: lines of the ledger of kind `round`.
        progress: lines of `progress.jsonl`; of a round that was trained twice, the later one counts.
        path: of the picture.

    Raises:
        InputError: if no round was validated.
    """
    measured = {line["round"]: line for line in progress if line["metrics"]}
    if not measured:
        raise InputError(
            f"{path} was not drawn: no round of this training was validated; set evaluation.every to 1, and use a "
            "split with a validation part"
        )
    sent = list(accumulate(line["bytes"]["plain_per_node"]["up"] / 2**20 for line in rounds))
    at = [round for round in sorted(measured) if round < len(sent)]
    against = {
        "round": [round + 1 for round in at],
        "MiB sent by a node": [sent[round] for round in at],
        "seconds of training": [measured[round]["seconds"] for round in at],
    }
    names = list(measured[at[0]]["metrics"])
    with canvas(path, 11.0, 3.8, len(against)) as row:
        for axes, (label, places) in zip(row, against.items(), strict=True):
            for series, name in enumerate(names):
                axes.plot(places, [measured[round]["metrics"][name] for round in at], label=name, **style(series))
            axes.set_xlabel(label)
            axes.set_ylim(bottom=0.0)
        row[0].set_ylabel("validation")
        row[0].legend(frameon=False)
        row[1].set_title(title)
