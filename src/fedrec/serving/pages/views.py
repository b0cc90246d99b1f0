"""The pages: an ASGI application over a home."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.exceptions import HTTPException

from fedrec.data.databases.logs import event_database
from fedrec.documents import MOST_LINES, read_file
from fedrec.errors import DamagedError, FedrecError
from fedrec.privacy.budget import Budget, Limits
from fedrec.runs.verifying import verify_run
from fedrec.serving.model import ServedModel
from fedrec.serving.pages.homes import Home, Place
from fedrec.serving.pages.records import Record, moved
from fedrec.serving.pages.shown import Shown
from fedrec.serving.pages.trying import Models, tried
from fedrec.serving.recent import Recent
from fedrec.serving.refusals import RefusalError

__all__ = ["create_pages"]

_TEMPLATES = Path(__file__).parent / "templates"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LONGEST_LIST = 50
_USERS_OFFERED = 20

Loads = Callable[[Request, Place], ServedModel]
Recents = Callable[[], Recent]


def create_pages(
    home: Home,
    events: str | None = None,
    models: Models | None = None,
    loads: Loads | None = None,
    recent: Recents | None = None,
) -> FastAPI:
    """The pages of a home.

    Args:
        home: a folder of runs.
        events: path or URL of a log of events; `None` without.
        models: loads models and gives them turns; by default with that log.
        loads: finds the model of a run, if a server has it already.
        recent: what users did since, if a server has it already.
    """
    return _Pages(home, events, models or Models(events), loads, recent).application()


class _Pages:
    def __init__(
        self, home: Home, events: str | None, models: Models, loads: Loads | None, recent: Recents | None
    ) -> None:
        self._home, self._events, self._models = home, events, models
        self._loads = loads or (lambda request, place: models.of(place.path))
        self._recent = recent or models.recent
        self._templates = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
        self._templates.filters |= {"moved": moved, "quoted": lambda text: quote(text, safe="")}

    def application(self) -> FastAPI:
        """The routes."""
        pages = FastAPI(title="fedrec pages", openapi_url=None, docs_url=None, redoc_url=None)
        views: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/": self._runs,
            "/run": self._run,
            "/verify": self._verify,
            "/try": self._try,
            "/budget": self._budget,
            "/federation": self._of_federation,
            "/events": self._shown,
            "/style.css": self._style,
        }
        for path, view in views.items():
            pages.add_route(path, view, methods=["GET", "POST"] if path == "/try" else ["GET"])
        for kind in (RefusalError, FedrecError, HTTPException, OSError):
            pages.add_exception_handler(kind, self._wrong)
        return pages

    async def _runs(self, request: Request) -> Response:
        records = await to_thread(self._records)
        return self._page(request, "runs.html", "Runs", records=records, home=str(self._home.folder))

    async def _run(self, request: Request) -> Response:
        record = await to_thread(lambda: Record.read(self._place(request)))
        drawings = [Markup(drawing) for drawing in record.drawings()]
        return self._page(request, "run.html", f"Run {record.name}", record=record, drawings=drawings)

    async def _verify(self, request: Request) -> Response:
        place = self._place(request)
        verdict = await to_thread(verify_run, place.path)
        return self._page(request, "verify.html", f"Verify {place.name}", name=place.name, verdict=verdict)

    async def _try(self, request: Request) -> Response:
        name, asked = "", dict[str, str]()
        if request.method == "POST":
            try:
                fields = parse_qs((await request.body()).decode("utf-8"), max_num_fields=10)
            except ValueError:
                raise RefusalError(422, "the form cannot be read; go back and send it again") from None
            asked = {key: values[0] for key, values in fields.items()}
            name = asked.get("name", "")
        runs = self._home.runs()
        name = name or request.query_params.get("name") or next((place.name for place in runs), "")
        shown: dict[str, Any] = {"names": [place.name for place in runs], "name": name}
        shown |= {"asked": asked, "result": None, "trouble": None, "users": [], "titled": False, "digest": ""}
        if runs:
            place = self._home.run(name)
            user, items = asked.get("user", "").strip(), asked.get("items", "")
            n = asked.get("n", "10")

            def work() -> None:
                model = self._loads(request, place)
                shown["users"] = model.profiles.some(_USERS_OFFERED)
                shown["titled"], shown["digest"] = model.catalog.has_titles, model.digest
                if asked:
                    length = int(n) if n.isascii() and n.isdigit() and len(n) < 4 else 0
                    length = min(max(length, 1), _LONGEST_LIST)
                    shown["result"] = tried(model, self._recent, user, items, length)

            try:
                await self._models.turns.take(work)
            except (FedrecError, OSError, ValueError) as error:
                shown["trouble"] = str(error)
        status = 422 if asked and shown["trouble"] else 200
        return self._page(request, "try.html", "Try a model", status, **shown)

    async def _budget(self, request: Request) -> Response:
        journals, problems = [], []
        for place in await to_thread(self._home.budgets):
            try:
                journals.append((place.name, *await to_thread(_spent, place)))
            except FedrecError as error:
                problems.append(str(error))
        private = [record for record in await to_thread(self._records) if record.epsilon]
        shown: dict[str, Any] = {"journals": journals, "private": private, "problems": problems}
        return self._page(request, "budget.html", "Privacy budget", **shown)

    async def _of_federation(self, request: Request) -> Response:
        trouble, federation, ends = None, None, dict[str, Any]()
        try:
            federation = self._home.federation()
            ends = {} if federation is None else federation.valid_until()
        except FedrecError as error:
            trouble = str(error)
        seen: dict[str, tuple[Record, int]] = {}
        for record in await to_thread(self._records):  # newest first
            for node, rounds in record.took_part().items():
                seen.setdefault(node, (record, rounds))
        known = {} if federation is None else dict(federation.nodes)
        nodes = [(node, known.get(node), ends.get(node), seen.get(node)) for node in sorted({*known, *seen})]
        return self._page(
            request,
            "federation.html",
            "Federation",
            federation=federation,
            nodes=nodes,
            trouble=trouble,
        )

    async def _shown(self, request: Request) -> Response:
        page: dict[str, Any] = {"shown": None, "drawing": Markup(""), "trouble": None, "log": None, "catalog": 0}
        if self._events is not None:
            page["log"] = event_database(self._events).shown
            try:
                page["shown"] = shown = await to_thread(Shown.of, self._events)
                page["drawing"] = Markup(shown.drawing())
                page["catalog"] = next(
                    (one.items for one in await to_thread(self._records) if one.digest and one.digest == shown.model), 0
                )
            except FedrecError as error:
                page["trouble"] = str(error)
        return self._page(request, "events.html", "Events", **page)

    async def _style(self, request: Request) -> Response:
        text = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
        return Response(text, media_type="text/css", headers=_HEADERS)

    async def _wrong(self, request: Request, error: Exception) -> Response:
        status, reason = 422, str(error)
        if isinstance(error, RefusalError):
            status, reason = error.status, error.reason
        elif isinstance(error, HTTPException):
            status, reason = error.status_code, f"{error.detail}: {request.url.path}"
        page = self._page(request, "wrong.html", "This page cannot be shown", status, reason=reason)
        page.headers.update(error.headers if isinstance(error, RefusalError) else {})
        return page

    def _records(self) -> list[Record]:
        return [Record.read(place) for place in self._home.runs()]

    def _place(self, request: Request) -> Place:
        return self._home.run(request.query_params.get("name", ""))

    def _page(self, request: Request, template: str, title: str, status: int = 200, **shown: Any) -> Response:
        base = str(request.scope.get("root_path", ""))
        text = self._templates.get_template(template).render(
            base=base, path=request.url.path.removeprefix(base) or "/", title=title, **shown
        )
        return HTMLResponse(text.encode("utf-8", "replace"), status, _HEADERS)  # errors name files of any bytes


def _spent(place: Place) -> tuple[Limits, list[tuple[str, float, int]]]:
    """The limits of a journal, and of each node the ε spent and the number of runs. Reads a copy: opening one repairs.

    Raises:
        FedrecError: if it is damaged.
    """
    with TemporaryDirectory(prefix="fedrec-") as folder:
        copy = Path(folder) / place.path.name
        try:
            copy.write_bytes(read_file(place.path, MOST_LINES))
            budget = Budget.open(copy)
        except FedrecError as error:
            raise DamagedError(str(error).replace(str(copy), place.name)) from None
        except (OSError, ValueError) as error:
            raise DamagedError(f"{place.name} cannot be read ({error})") from None
        assert budget.limits is not None
        return budget.limits, [(node, budget.epsilon(node), budget.runs(node)) for node in budget.nodes()]
