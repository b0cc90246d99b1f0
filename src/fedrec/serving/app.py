"""The HTTP API: an ASGI application over a service."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from fedrec.data.events import Event
from fedrec.errors import InputError
from fedrec.serving import schemas
from fedrec.serving.gate import MODEL, PAGES, Gate
from fedrec.serving.model import Found, ServedModel
from fedrec.serving.pages.homes import Home, Place
from fedrec.serving.pages.trying import Models
from fedrec.serving.pages.views import create_pages
from fedrec.serving.profiles import Profile
from fedrec.serving.recent import Deed
from fedrec.serving.refusals import RefusalError
from fedrec.serving.schemas import Id, Problem, Text, seconds
from fedrec.serving.service import Service
from fedrec.serving.tokens import Tokens

__all__ = ["create_api", "create_app"]

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is no JSON."},
    401: {"model": Problem, "description": "No token, or an unknown one."},
    403: {"model": Problem, "description": "The token lacks a scope."},
    404: {"model": Problem, "description": "Nothing is known of the user or item."},
    408: {"model": Problem, "description": "The body did not come in time."},
    413: {"model": Problem, "description": "The body is longer than 1 MiB."},
    421: {"model": Problem, "description": "The server does not answer to this name."},
    422: {"model": Problem, "description": "A value cannot be used; the reason names it."},
    429: {"model": Problem, "description": "Too many requests; see Retry-After."},
    503: {"model": Problem, "description": "Too much work waits; see Retry-After."},
}
_Length = Annotated[int, Query(ge=1, le=1000, description="Length of the list.")]
_IdText = Annotated[Text, Query(description="An id as in the data.")]
_LISTS = ("only", "block")


def create_app(
    service: Service,
    tokens: Tokens | None = None,
    rate: float | None = None,
    hosts: tuple[str, ...] | None = None,
) -> ASGIApp:
    """The API behind its gate.

    Args:
        service: what the server holds; closed when the application ends.
        tokens, rate, hosts: see `fedrec.serving.gate.Gate`.
    """
    return Gate(create_api(service), service, tokens, rate, hosts)


def create_api(service: Service) -> FastAPI:
    """The API alone; `create_app` puts it behind a gate, which requests need."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(service.watch())
        try:
            yield
        finally:
            service.ending = True
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await asyncio.to_thread(service.close)

    api = FastAPI(
        title="fedrec",
        version="1",
        description="Recommendations of one model for the users of this node.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
    )
    api.add_exception_handler(RefusalError, _refused)
    api.add_exception_handler(InputError, _unusable)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    _add_lists(api, service)
    _add_reasons(api, service)
    _add_events(api, service)
    _add_state(api, service)
    api.mount(PAGES, _pages(service))
    plain = api.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}, {}]
        return document

    api.openapi = openapi  # type: ignore[method-assign]
    return api


def _pages(service: Service) -> FastAPI:
    """The pages of the run that is served, with its model and its events."""

    def loads(request: Request, place: Place) -> ServedModel:
        model: ServedModel = request.scope[MODEL]
        return model

    return create_pages(Home(service.folder), service.events, Models(), loads, lambda: service.recent)


def _add_lists(api: FastAPI, service: Service) -> None:
    asked_in_url = {"parameters": schemas.ListQuestion.parameters()}

    @api.get("/v1/recommend", response_model=schemas.ListAnswer, tags=["lists"], openapi_extra=asked_in_url)
    async def recommend(request: Request) -> Response:
        """The best items for a user of this node."""
        question = _list_question(request)
        model: ServedModel = request.scope[MODEL]
        wanted = _id(question.user, model.user_id)
        allowed = _allowed(model, question.only, question.block)

        def work() -> list[Found]:
            return model.recommend(
                _known(service, model, wanted), question.n, question.include_seen, allowed, service.explore
            )

        return _list_answer(model, await service.turns.take(work), user=wanted)

    @api.post("/v1/recommend", response_model=schemas.ListAnswer, tags=["lists"])
    async def recommend_to_history(request: Request, question: schemas.HistoryQuestion) -> Response:
        """The best items for somebody with this history, whom the server need not know; nothing of it is kept."""
        model: ServedModel = request.scope[MODEL]
        deeds = _deeds(model, question.history)
        allowed = _allowed(model, question.only, question.block)

        def work() -> list[Found]:
            return model.recommend(
                model.profiles.stranger(deeds), question.n, question.include_seen, allowed, service.explore
            )

        return _list_answer(model, await service.turns.take(work))

    @api.post("/v1/recommend/batch", response_model=schemas.BatchAnswer, tags=["lists"])
    async def recommend_to_some(request: Request, question: schemas.BatchQuestion) -> Response:
        """The best items for each of several users of this node."""
        model: ServedModel = request.scope[MODEL]
        lists: list[dict[str, Any]] = []
        unknown: list[int | str] = []
        for user in question.users:
            wanted = _id(user, model.user_id)

            def work(wanted: int | str = wanted) -> list[Found] | None:
                profile = model.profiles.known(wanted, service.recent)
                if profile is None:
                    return None
                return model.recommend(profile, question.n, question.include_seen, explore=service.explore)

            found = await service.turns.take(work)
            if found is None:
                unknown.append(wanted)
            else:
                lists.append({"user": wanted, "items": _listed(found)})
        return _json({"model": model.digest, "request_id": secrets.token_hex(16), "lists": lists, "unknown": unknown})


def _add_reasons(api: FastAPI, service: Service) -> None:
    @api.get("/v1/similar", response_model=schemas.SimilarAnswer, tags=["reasons"])
    async def similar(request: Request, item: _IdText, n: _Length = 10) -> Response:
        """The items that the model finds nearest to an item."""
        model: ServedModel = request.scope[MODEL]
        wanted = _item(model, item)
        found = await service.turns.take(lambda: model.similar(wanted, n))
        return _json({"model": model.digest, "item": wanted, "items": _listed(found)})

    @api.get("/v1/explain", response_model=schemas.ExplainAnswer, tags=["reasons"])
    async def explain(request: Request, user: _IdText, item: _IdText, n: _Length = 5) -> Response:
        """Which items of the user bring an item its score: exactly, or by similarity where scores are no sum."""
        model: ServedModel = request.scope[MODEL]
        wanted, position = _id(user, model.user_id), _item(model, item)
        found = await service.turns.take(lambda: model.explain(_known(service, model, wanted), position, n))
        answer: dict[str, Any] = {"model": model.digest, "user": wanted, "item": position, "score": found.score}
        answer |= {"exact": found.how == "sum", "how": found.how, "because": _listed(found.because)}
        return _json(answer)


def _add_events(api: FastAPI, service: Service) -> None:
    @api.post("/v1/events", response_model=schemas.EventsAnswer, status_code=202, tags=["events"])
    async def add_events(
        request: Request, events: Annotated[list[schemas.SentEvent], schemas.Field(min_length=1, max_length=1000)]
    ) -> Response:
        """Keep what users did. The answer comes when all is on the disk; an event sent twice counts once."""
        model: ServedModel = request.scope[MODEL]
        now = time.time()
        kept = [
            Event(
                sent.event_id,
                _id(sent.user, model.user_id, 422, "user"),
                _id(sent.item, model.item_id, 422, "item"),
                sent.kind,
                seconds(sent.at, now),
                sent.value,
                sent.model,
                sent.request_id,
                sent.rank,
                sent.propensity,
            )
            for sent in events
        ]
        new = await service.add(kept)
        return _json({"model": model.digest, "accepted": len(kept), "new": new}, 202)

    @api.delete("/v1/users/{user:path}", response_model=schemas.ForgetAnswer, tags=["events"])
    async def forget(request: Request, user: Text) -> Response:
        """Forget a user: the history is gone at once, events are removed, and the next training leaves the user out."""
        model: ServedModel = request.scope[MODEL]
        wanted = _id(user, model.user_id)
        removed = await service.forget(wanted)
        there = model.profiles.place(wanted) is not None
        return _json({"model": model.digest, "user": wanted, "events": removed, "in_run": there})


def _add_state(api: FastAPI, service: Service) -> None:
    @api.get("/v1/model", response_model=schemas.ModelAnswer, tags=["state"])
    async def model(request: Request) -> Response:
        """The model that answers."""
        served: ServedModel = request.scope[MODEL]
        opened = served.opened
        answer = {"model": served.digest, "name": served.name, "rounds": opened.trained.rounds}
        answer |= {"items": len(served.catalog), "users": opened.data.n_users}
        return _json(answer | {"settings": opened.model.model_dump(mode="json")})

    @api.get("/healthz", tags=["state"])
    async def healthz() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "alive"}

    @api.get("/readyz", tags=["state"])
    async def readyz() -> dict[str, str]:
        """Whether requests should come here."""
        if (reason := service.ready) is not None:
            raise RefusalError(503, reason, 5.0)
        return {"status": "ready"}

    @api.get("/metrics", response_class=Response, tags=["state"])
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _list_question(request: Request) -> schemas.ListQuestion:
    """The question in a URL; checked at once, as FastAPI takes a third of a request to check parameters one by one.

    Raises:
        RequestValidationError: naming the parameter that is wrong.
    """
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in _LISTS:
            given.setdefault(name, []).append(value)
        elif name in schemas.ListQuestion.model_fields:
            given[name] = value
    try:
        return schemas.ListQuestion.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("query", *one["loc"])} for one in error.errors()]) from None


def _known(service: Service, model: ServedModel, user: int | str) -> Profile:
    profile = model.profiles.known(user, service.recent)
    if profile is None:
        raise RefusalError(404, "nothing is known of this user; POST a history to /v1/recommend for somebody new")
    return profile


def _id(given: int | str, parse: Callable[[str], int | str], status: int = 404, field: str = "") -> int | str:
    """An id in the type of the data; a number may be sent as text, and the other way round."""
    try:
        return parse(str(given))
    except InputError as error:
        raise RefusalError(status, f"{field}{': ' * bool(field)}{error}") from None


def _item(model: ServedModel, given: int | str) -> int | str:
    item = _id(given, model.item_id)
    if not model.has_item(item):
        raise RefusalError(404, "the model does not know this item")
    return item


def _allowed(
    model: ServedModel, only: Sequence[int | str] | None, block: Sequence[int | str] | None
) -> np.ndarray | None:
    if only is None and block is None:
        return None
    parts = [None if ids is None else [_id(i, model.item_id, 422) for i in ids] for ids in (only, block)]
    return model.allowed(*parts)


def _deeds(model: ServedModel, history: Sequence[schemas.Taken | Id]) -> list[Deed]:
    now = time.time()
    deeds = []
    for place, taken in enumerate(history):
        entry = taken if isinstance(taken, schemas.Taken) else schemas.Taken(item=taken)
        item = _id(entry.item, model.item_id, 422, f"history.{place}")
        deeds.append(Deed(item, seconds(entry.at, now), entry.rating))
    return deeds


def _listed(found: Sequence[Found]) -> list[dict[str, Any]]:
    listed = []
    for rank, (item, title, score, propensity) in enumerate(found, start=1):
        entry = {"item": item, "score": score, "rank": rank}
        entry |= {} if title is None else {"title": title}
        listed.append(entry if propensity is None else entry | {"propensity": propensity})
    return listed


def _list_answer(model: ServedModel, found: Sequence[Found], **more: Any) -> Response:
    answer = {"model": model.digest, "request_id": secrets.token_hex(16), **more}
    return _json(answer | {"items": _listed(found)})


def _json(value: dict[str, Any], status: int = 200) -> Response:
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body.encode(), status, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    answer = _json({"reason": error.reason}, error.status)
    answer.headers.update(error.headers)
    return answer


async def _unusable(request: Request, error: Exception) -> Response:
    return _json({"reason": str(error)}, 422)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _json({"reason": f"{where}: {first['msg']}"}, 422)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _json({"reason": str(error.detail)}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer
