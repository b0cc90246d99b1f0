"""Commands that answer over HTTP: serve, pages, and token, which says who may ask."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrec.cli.finished import RunFolder
from fedrec.cli.options import Json, Quiet, Threads, split_list
from fedrec.cli.output import Output
from fedrec.errors import InputError, suggestion

__all__ = ["check_installed", "pages", "serve", "token"]

Certificate = Annotated[Path | None, typer.Option("--tls-cert", help="Certificate for HTTPS, in PEM.")]
CertificateKey = Annotated[Path | None, typer.Option("--tls-key", help="Key of the certificate, in PEM.")]

_NEEDED = ("fastapi", "uvicorn", "httptools", "jinja2", "prometheus_client")


def serve(
    run: RunFolder,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at. Addresses that other machines reach need --tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 for any that is free.")] = 8080,
    events: Annotated[
        str | None,
        typer.Option(
            "--events",
            help="Keep events here: a SQLite file, which is made, or postgresql://user@host/database.",
        ),
    ] = None,
    explore: Annotated[
        str | None,
        typer.Option(
            "--explore",
            help="Draw lists: epsilon:0.1 or plackett-luce:0.5. Each item then comes with its propensity. Default: the "
            "best items.",
        ),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option("--tokens", help="File of tokens, see 'fedrec token'. Default: nobody needs one.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.001, help="Requests per second of each token or address. Default: no limit."),
    ] = None,
    most_waiting: Annotated[
        int, typer.Option("--most-waiting", min=1, help="Requests that may wait; further ones get status 503.")
    ] = 64,
    deadline: Annotated[
        float, typer.Option("--deadline", min=0.01, help="Seconds that a request may wait before it gets status 503.")
    ] = 1.0,
    tls_cert: Certificate = None,
    tls_key: CertificateKey = None,
    threads: Threads = 1,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer over HTTP for the users of a run: lists, similar items, reasons, events. Ends with Ctrl-C.

    A newer run at the same place, such as models/latest of a node, replaces the model without a pause.
    """
    check_installed("serve")
    output = Output(json_, quiet)
    output.begin("serve", threads, progress=False)
    from fedrec.recommending.exploring import Exploration
    from fedrec.serving.server import Address
    from fedrec.serving.server import serve as serve_at
    from fedrec.serving.service import Service
    from fedrec.serving.tokens import Tokens

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    allowed = None if tokens is None else Tokens.read(tokens)
    address = Address(host, port, tls_cert, tls_key)
    address.check(allowed)
    policy = None if explore is None else Exploration.parse(explore)
    service = Service(run, events, most_waiting, deadline, threads, policy)

    def announce(url: str) -> None:
        answer: dict[str, Any] = {"url": url, "model": service.model.digest, "events": events}
        output.answer(answer, f"{service.model.name} of {run} answers at {url}/v1/recommend?user=ID; Ctrl-C ends it")
        sys.stdout.flush()

    serve_at(service, address, allowed, rate, threads, announce)


def pages(
    home: Annotated[
        Path, typer.Argument(metavar="HOME", help="A folder with runs: runs, the home of a node, or of a coordinator.")
    ],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at. Addresses that other machines reach need --tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 for any that is free.")] = 8081,
    events: Annotated[
        str | None, typer.Option("--events", help="Log of 'fedrec serve' to show: a SQLite file or a URL.")
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            "--tokens", help="File of tokens, see 'fedrec token'; a token is the password that pages ask for."
        ),
    ] = None,
    tls_cert: Certificate = None,
    tls_key: CertificateKey = None,
    threads: Threads = 1,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show runs, lists, budgets, a federation and events as pages for a browser. Ends with Ctrl-C."""
    check_installed("pages")
    output = Output(json_, quiet)
    output.begin("pages", threads, progress=False)
    from fedrec.data.databases.logs import event_database
    from fedrec.serving.gate import PagesGate
    from fedrec.serving.pages.homes import Home
    from fedrec.serving.pages.views import create_pages
    from fedrec.serving.server import Address, local_names, run_app
    from fedrec.serving.tokens import Tokens

    if events is not None:
        event_database(events)
    allowed = None if tokens is None else Tokens.read(tokens)
    address = Address(host, port, tls_cert, tls_key)
    address.check(allowed)
    app = PagesGate(create_pages(Home(home), events), allowed, local_names(allowed))

    def announce(url: str) -> None:
        output.answer({"url": url, "home": str(home), "events": events}, f"pages of {home}: {url}/; Ctrl-C ends them")
        sys.stdout.flush()

    run_app(app, address, threads, announce)


def token(
    name: Annotated[str, typer.Argument(help="Whom the token is for.")],
    to: Annotated[Path, typer.Option("--to", help="File of tokens; the token's hash is added to it.")],
    scopes: Annotated[
        str, typer.Option("--scopes", help="What it allows: read, events, metrics, admin (all, and removing users).")
    ] = "read",
    rate: Annotated[float | None, typer.Option("--rate", min=0.001, help="Requests per second that it allows.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a token for 'fedrec serve', print it once, and add its hash to a file."""
    from fedrec.serving.tokens import SCOPES, new_token

    wanted = split_list(scopes) or []
    chosen = tuple(scope for scope in SCOPES if scope in wanted)
    for text in wanted:
        if text not in SCOPES:
            raise InputError(f"--scopes {text!r} is not known{suggestion(text, SCOPES)}")
    made = new_token(name, chosen, rate, to)
    Output(json_, quiet).answer({"name": name, "token": made, "scopes": list(chosen)}, made)


def check_installed(command: str) -> None:
    """Check that what a server needs is installed.

    Raises:
        InputError: naming the command and what is missing.
    """
    missing = [module for module in _NEEDED if find_spec(module) is None]
    if missing:
        raise InputError(f"{command}: {', '.join(missing)} is not installed; run pip install 'fedrec[serve]'")
