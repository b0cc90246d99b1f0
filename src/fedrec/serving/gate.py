"""What a request passes before it is read: who asks, how often, and how much; and what every answer carries."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedrec.serving.rates import Rates
from fedrec.serving.refusals import RefusalError
from fedrec.serving.service import Service
from fedrec.serving.tokens import Scope as Allowance
from fedrec.serving.tokens import Tokens

__all__ = ["MODEL", "MOST_BYTES", "PAGES", "Gate", "PagesGate"]

MOST_BYTES = 1 << 20
"""Bytes of a request's body."""
MODEL = "fedrec.model"
"""Where a request finds the model that answers it: one for the whole request, whatever is loaded meanwhile."""
PAGES = "/pages"
"""Where a server of a run has its pages."""
_OPEN = ("/healthz", "/readyz", "/openapi.json")
_SCOPES: dict[str, Allowance] = {"/v1/events": "events", "/metrics": "metrics"}
_IN_TURN = ("/v1/recommend", "/v1/recommend/batch", "/v1/similar", "/v1/explain")
_SECONDS_OF_BODY = 10.0


class Gate:
    """An ASGI application around another one.

    Args:
        app: the other one.
        service: what the server holds.
        tokens: who may ask; `None` for everybody.
        rate: requests per second of each token or address that has no rate of its own; `None` for no limit.
        hosts: names by which requests may call the server; `None` for any.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        tokens: Tokens | None = None,
        rate: float | None = None,
        hosts: tuple[str, ...] | None = None,
    ) -> None:
        self._app, self._service = app, service
        self._admission = _Admission(tokens, rate, hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, model = time.perf_counter(), self._service.model
        scope[MODEL] = model
        digest, status = model.digest.encode(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"fedrec-model", digest)]
            await send(message)

        try:
            path = scope["path"]
            if self._admission.admit(scope, by_browser=path == PAGES or path.startswith(f"{PAGES}/")):
                if path in _IN_TURN:
                    self._service.turns.check()  # before anything of it is read
                _check_length(scope)
            await self._app(scope, _Body(receive).receive, sent)
        except RefusalError as refusal:
            await _refuse(refusal, sent)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._service.figures.request(route, scope["method"], status, time.perf_counter() - began)


class PagesGate:
    """An ASGI application of pages alone, behind tokens.

    Args:
        app: the pages.
        tokens, hosts: as of `Gate`.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens | None = None, hosts: tuple[str, ...] | None = None) -> None:
        self._app, self._admission = app, _Admission(tokens, None, hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._admission.admit(scope, by_browser=True)
            _check_length(scope)
            await self._app(scope, _Body(receive).receive, send)
        except RefusalError as refusal:
            await _refuse(refusal, send)


class _Admission:
    """Who may ask, and how often; see `Gate`."""

    def __init__(self, tokens: Tokens | None, rate: float | None, hosts: tuple[str, ...] | None) -> None:
        self._tokens, self._rate, self._hosts = tokens, rate, hosts
        self._rates = Rates()

    def admit(self, scope: MutableMapping[str, Any], by_browser: bool) -> bool:
        """Check who asks; whether there is more to check than that.

        Raises:
            RefusalError: with status 401, 403, 421 or 429.
        """
        headers = dict(scope["headers"])
        path, method = scope["path"], scope["method"]
        if self._hosts is not None and _host(headers.get(b"host", b"")) not in self._hosts:
            raise RefusalError(421, f"without tokens this server answers to {', '.join(self._hosts)} only")
        if path in _OPEN:
            return False
        name, rate = str((scope.get("client") or ("unknown", 0))[0]), self._rate
        if self._tokens is not None:
            token = self._tokens.of(headers.get(b"authorization"), by_browser)
            if token is None:
                how = "as the password, with any name" if by_browser else "Authorization: Bearer TOKEN"
                raise RefusalError(401, f"send a token of this server: {how}", by_browser=by_browser)
            wanted = "admin" if method == "DELETE" else _SCOPES.get(path, "read")
            if not token.allows(wanted):
                raise RefusalError(403, f"the token {token.name!r} lacks the scope {wanted!r}")
            name, rate = token.name, token.rate or rate
        if rate is not None and (waiting := self._rates.wait(name, rate)):
            raise RefusalError(429, f"more than {rate:g} requests per second; wait", waiting)
        return True


def _check_length(scope: MutableMapping[str, Any]) -> None:
    """Refuse a body that says to be longer than it may be.

    Raises:
        RefusalError: with status 413.
    """
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or int(length[:20]) > MOST_BYTES:
        raise _too_long()


class _Body:
    """The body of a request, no longer than it may be, and within a time."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._bytes, self._whole = receive, 0, False

    async def receive(self) -> Message:
        """The next part.

        Raises:
            RefusalError: with status 413 or 408.
        """
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), _SECONDS_OF_BODY)
        except TimeoutError:
            raise RefusalError(408, f"no part of the body came for {_SECONDS_OF_BODY:g} seconds") from None
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > MOST_BYTES:
            raise _too_long()
        return message


def _too_long() -> RefusalError:
    return RefusalError(413, f"the body is longer than {MOST_BYTES:,} bytes; send less at once")


def _host(header: bytes) -> str:
    """The name in a header `Host`, without the port.

    >>> _host(b"localhost:8080"), _host(b"[::1]:80")
    ('localhost', '[::1]')
    """
    text = header.decode("latin-1").lower()
    return text.partition("]")[0] + "]" if text.startswith("[") else text.partition(":")[0]


async def _refuse(refusal: RefusalError, send: Send) -> None:
    body = json.dumps({"reason": refusal.reason}, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refusal.headers}
    if refusal.status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not read
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
