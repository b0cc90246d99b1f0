"""What a coordinator has read of users' data: every sum is counted where it becomes readable, whatever comes of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

__all__ = ["ReadSums", "read_in_words"]


class ReadSums:
    """Counts of sums that the coordinator of a federation could read: of rounds, of measurements, of counts of items.

    Example:
        >>> read = ReadSums()
        >>> read.total(nodes=3, sent=900)
        >>> read.figures()
        {'of_single_nodes': 0, 'totals': 1, 'fewest_nodes_in_a_total': 3, 'most_masked_bytes_of_a_node': 900}
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # replies may come in threads of their own
        self._single = self._totals = self._sent = 0
        self._fewest: int | None = None

    def single(self) -> None:
        """The sum of one node was decoded in the clear."""
        with self._lock:
            self._single += 1

    def total(self, nodes: int, sent: int) -> None:
        """A secure aggregation over so many nodes was opened, for which no node sent more than `sent` bytes."""
        with self._lock:
            self._totals += 1
            self._sent += sent
            self._fewest = nodes if self._fewest is None else min(self._fewest, nodes)

    def figures(self) -> dict[str, int | None]:
        """The counts, since the process began.

        Returns:
            `of_single_nodes`: sums of one node; `totals`: opened secure aggregations; `fewest_nodes_in_a_total`, `None`
            without any; `most_masked_bytes_of_a_node`: over all secure aggregations, each with the node that sent most
            for it.
        """
        return {
            "of_single_nodes": self._single,
            "totals": self._totals,
            "fewest_nodes_in_a_total": self._fewest,
            "most_masked_bytes_of_a_node": self._sent,
        }


def read_in_words(read: Mapping[str, Any], noised: bool) -> str:
    """The counts for people.

    Args:
        read: figures of `ReadSums`.
        noised: whether nodes added noise to their sums of rounds.

    >>> masked = ReadSums()
    >>> masked.total(3, 900), masked.total(2, 100)
    (None, None)
    >>> print(read_in_words(masked.figures(), noised=False))
    The coordinator opened 2 masked sums of rounds and measurements, over 2 nodes or more each, and read no sum of a
    single node. Each node sent at most 1,000 masked bytes. The sums had no noise: they are exact totals.
    >>> plain = ReadSums()
    >>> plain.single()
    >>> print(read_in_words(plain.figures(), noised=False))
    The coordinator read 1 sum of a single node, of rounds and measurements. With --secure it reads totals only.
    """
    single, totals = read["of_single_nodes"], read["totals"]
    texts = []
    if totals:
        texts.append(
            f"The coordinator opened {_counted(totals, 'masked sum')} of rounds and measurements, over "
            f"{read['fewest_nodes_in_a_total']} nodes or more each, and read "
            + (_counted(single, "sum") + " of single nodes too." if single else "no sum of a single node.")
            + f" Each node sent at most {read['most_masked_bytes_of_a_node']:,} masked bytes."
        )
        texts.append(
            "The sums of rounds had noise of the nodes in them."
            if noised
            else "The sums had no noise: they are exact totals."
        )
    elif single:
        texts.append(
            f"The coordinator read {_counted(single, 'sum')} of {'a single node' if single == 1 else 'single nodes'}, "
            "of rounds and measurements. With --secure it reads totals only."
        )
    else:
        texts.append("The coordinator read no sum in this process.")
    return " ".join(texts)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
