"""The process that serves: a socket, TLS, slow clients, and an end in order."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fedrec.errors import FedrecError, InputError
from fedrec.serving.app import create_app
from fedrec.serving.service import Service
from fedrec.serving.tokens import Tokens
from fedrec.threads import held_threads

__all__ = ["Address", "listen", "local_names", "run_app", "serve"]

_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_SECONDS_OF_HEADERS = 10.0
_SECONDS_IDLE = 30
_SECONDS_TO_END = 10
_MOST_CONNECTIONS = 1_000


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Args:
        host: name or address.
        port: 0 for any that is free.
        certificate, key: files in PEM for TLS; `None` for none.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None
    key: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can connect.

        >>> Address("localhost").is_local, Address("0.0.0.0").is_local
        (True, False)
        """
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self, tokens: Tokens | None) -> None:
        """Check that strangers cannot ask.

        Raises:
            InputError: if other machines can connect and need no token, or TLS lacks a file.
        """
        if not self.is_local and tokens is None:
            raise InputError(
                f"--host {self.host}: other machines could read everybody's recommendations. Give --tokens FILE; "
                "'fedrec token NAME --to FILE' makes one"
            )
        if (self.certificate is None) is not (self.key is None):
            raise InputError("--tls-cert and --tls-key belong together; give both, or neither")
        for path in (self.certificate, self.key):
            if path is not None and not path.is_file():
                raise InputError(f"{path}: there is no such file; name the PEM file of the certificate or key")


class _Punctual(HttpToolsProtocol):
    """Connections that send no whole head of a request in time are closed."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client connects."""
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        """The first bytes of a request came."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """The head of a request is whole."""
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop()
        self._late = self.loop.call_later(_SECONDS_OF_HEADERS, self.transport.close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def listen(address: Address) -> socket.socket:
    """A socket at an address.

    Raises:
        InputError: if the address cannot be had.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"{address.host}: {error.strerror or error}; name an address of this machine") from None
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(place)
        opened.listen(1024)
    except OSError as error:
        opened.close()
        raise InputError(
            f"{address.host}, port {address.port}: {error.strerror}; end the program that has it, or take another "
            "with --port"
        ) from None
    return opened


def serve(
    service: Service,
    address: Address,
    tokens: Tokens | None = None,
    rate: float | None = None,
    threads: int | None = None,
    announce: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer requests until the process is told to end (SIGTERM, Ctrl-C); what has begun is answered.

    Args:
        service: what the server holds.
        address: where it listens.
        tokens, rate: see `fedrec.serving.gate.Gate`.
        threads: for kernels.
        announce: called with the URL when the server listens.

    Raises:
        InputError: if the address cannot be had, or strangers could ask.
    """
    address.check(tokens)
    run_app(create_app(service, tokens, rate, local_names(tokens)), address, threads, announce)


def local_names(tokens: Tokens | None) -> tuple[str, ...] | None:
    """Names by which requests may call a server: those of this machine, if nobody needs a token."""
    return _LOCAL if tokens is None else None


def run_app(app: ASGIApp, address: Address, threads: int | None, announce: Callable[[str], None]) -> None:
    """Serve an application until the process is told to end; see `serve`.

    Raises:
        InputError: if the address cannot be had.
    """
    config = uvicorn.Config(
        app,
        http=_Punctual,
        loop="auto",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # what is asked names users
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_SECONDS_IDLE,
        timeout_graceful_shutdown=_SECONDS_TO_END,
        limit_concurrency=_MOST_CONNECTIONS,
        backlog=1024,
        ssl_certfile=None if address.certificate is None else str(address.certificate),
        ssl_keyfile=None if address.key is None else str(address.key),
    )
    try:
        config.load()
    except OSError as error:
        raise InputError(
            f"{address.certificate}: no certificate and key in PEM that fit each other ({error})"
        ) from None
    with listen(address) as opened, held_threads(threads):
        scheme = "http" if address.certificate is None else "https"
        host = f"[{address.host}]" if ":" in address.host else address.host
        announce(f"{scheme}://{host}:{opened.getsockname()[1]}")
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        server = uvicorn.Server(config)
        server.run(sockets=[opened])
        if not server.started:
            raise FedrecError("the server did not start; see the message above")
