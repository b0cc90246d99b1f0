"""Figures of a server for Prometheus: requests, seconds, waiting work, models and events; never ids."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Figures"]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Figures:
    """The figures of one server.

    Args:
        waiting: how many requests wait for their turn.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ("route", "method", "status")
        self._requests = Counter("fedrec_requests", "Requests by route and status", labels, registry=registry)
        self._seconds = Histogram(
            "fedrec_request_seconds", "Seconds of a request", ("route",), buckets=_SECONDS, registry=registry
        )
        Gauge("fedrec_waiting_requests", "Requests that wait for their turn", registry=registry).set_function(waiting)
        self.events = Counter(
            "fedrec_events", "Events that were new, or were there already", ("seen",), registry=registry
        )
        self.swaps = Counter("fedrec_models_loaded", "Newer models that were loaded", ("outcome",), registry=registry)
        self._model = Gauge("fedrec_model", "The model that answers", ("model", "digest"), registry=registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def model(self, name: str, digest: str) -> None:
        """Say which model answers."""
        self._model.clear()
        self._model.labels(name, digest).set(1)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
