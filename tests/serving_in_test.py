"""A served run for tests: trained once, asked in this process by an ASGI client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.from_thread
import httpx

import fedrec as fr
from fedrec.serving.app import create_app
from fedrec.serving.service import Service
from fedrec.serving.tokens import Tokens

DATA = "synthetic:users=60,items=40,interactions_per_user=8,seed=3"


def run_of(model: Any, folder: Path, data: str = DATA) -> Path:
    """Train a model on all of some data and save it as a run."""
    model.fit(fr.load_data(data)).save(folder)
    return folder


class Client:
    """Asks a service as clients over HTTP do; one event loop for all requests."""

    def __init__(self, service: Service, portal: anyio.from_thread.BlockingPortal, http: httpx.AsyncClient) -> None:
        self.service, self.portal, self._http = service, portal, http

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request."""

        async def send() -> httpx.Response:
            return await self._http.request(method, path, **options)

        return self.portal.call(send)

    def get(self, path: str, **query: Any) -> Any:
        """What a GET answers."""
        answer = self.ask("GET", path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def items(self, user: object, n: int = 10) -> list[Any]:
        """The items of a user's list."""
        return [entry["item"] for entry in self.get("/v1/recommend", user=user, n=n)["items"]]

    def send(self, *events: dict[str, Any]) -> int:
        """Send events, and return how many were new."""
        answer = self.ask("POST", "/v1/events", json=list(events))
        assert answer.status_code == 202, answer.text
        return int(answer.json()["new"])


@contextmanager
def client(
    run: Path, events: str | None = None, tokens: Tokens | None = None, rate: float | None = None, **settings: Any
) -> Iterator[Client]:
    """A service of a run, asked in this process."""
    service = Service(run, events, **settings)
    transport = httpx.ASGITransport(create_app(service, tokens, rate), raise_app_exceptions=False)
    with anyio.from_thread.start_blocking_portal() as portal:
        try:
            yield Client(service, portal, httpx.AsyncClient(transport=transport, base_url="http://localhost"))
        finally:
            service.close()
