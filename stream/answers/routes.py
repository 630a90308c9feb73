"""The paths under /v1: requests about users, items, alerts and workers, and the description of these paths.

Each answer is a JSON object; an error is one with `error`. A request that comes from another worker of the group has
the header Eddy-Forwarded, and is not passed on again.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from stream.answers import openapi
from stream.answers.admin import Token
from stream.answers.asked import read, read_alerts
from stream.answers.desk import Desk, reason
from stream.answers.users import with_episodes
from stream.answers.workers import FORWARDED
from stream.errors import EddyError, Unanswered
from stream.meter import Meter
from stream.web.alerts import KEPT, Streams
from stream.web.display import Display
from stream.web.files import report_route

Body = dict[str, Any] | bytes
Answer = Callable[[web.Request], Awaitable[tuple[int, Body]]]

EVENT_STREAM = "text/event-stream"
OFF = "this worker answers no requests; start it with --http-answers"


def answer_routes(desk: Desk, token: Token, display: Display) -> Sequence[web.AbstractRouteDef]:
    """The routes of a worker that answers, for Server."""
    meter, streams = display.meter, Streams(display.alerts)

    async def recommendations(request: web.Request) -> tuple[int, Body]:
        asked = read(_query(request), desk.opened().k)
        return _found(await desk.recommendations(_id(request), asked, *_passed_on(request)))

    async def user(request: web.Request) -> tuple[int, Body]:
        k = read(_query(request), desk.opened().k, ("k",)).k
        found = await desk.state(_id(request), k, *_passed_on(request))
        if isinstance(found, dict):  # else it comes from another worker, with the episodes that this one knows
            found = with_episodes(found, display.alerts.latest(KEPT, found["user_id"]))
        return _found(found)

    async def similar(request: web.Request) -> tuple[int, Body]:
        k = read(_query(request), desk.opened().k, ("k",)).k
        return 200, await desk.similar(_id(request), k)

    async def forget(request: web.Request) -> tuple[int, Body]:
        token.check(request.headers.get("Authorization"))
        read(_query(request), 1, ())
        return 202, {"user_id": _id(request), "partitions": await desk.forget(_id(request))}

    async def anomalies(request: web.Request) -> tuple[int, Body]:
        id_, limit = read_alerts(_query(request))
        own = display.alerts.latest(limit, None if id_ is None else desk.user(id_))
        path, query, forwarded = _passed_on(request)
        return 200, {"anomalies": own} if forwarded else await desk.anomalies(own, limit, path, query)

    async def follow(request: web.Request) -> web.StreamResponse:
        try:
            id_, _ = read_alerts(_query(request))
            return await streams.follow(request, None if id_ is None else desk.user(id_))
        except EddyError as exc:
            return _error(reason(exc))

    as_list = _as_json(anomalies, "anomalies", meter)

    async def anomalies_or_stream(request: web.Request) -> web.StreamResponse:
        streamed = EVENT_STREAM in request.headers.get("Accept", "")
        return await (follow(request) if streamed else as_list(request))

    async def workers(request: web.Request) -> tuple[int, Body]:
        read(_query(request), 1, ())
        return 200, await desk.workers(display.status())

    async def description(_: web.Request) -> tuple[int, Body]:
        return 200, openapi.description()

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=openapi.page(), content_type="text/html")

    return [
        web.get("/v1/users/{id:[^/]+}/recommendations", _as_json(recommendations, "recommendations", meter)),
        web.get("/v1/users/{id:[^/]+}", _as_json(user, "user", meter)),
        web.delete("/v1/users/{id:[^/]+}", _as_json(forget, "forget", meter)),
        web.get("/v1/items/{id:[^/]+}/similar", _as_json(similar, "similar", meter)),
        web.get("/v1/anomalies", anomalies_or_stream),
        web.get("/v1/workers", _as_json(workers, "workers", meter)),
        report_route(display),
        web.get("/v1/openapi.json", _as_json(description, "openapi", meter)),
        web.get("/v1", page),
    ]


def no_routes() -> Sequence[web.AbstractRouteDef]:
    """The routes of a worker that has an HTTP port and does not answer requests."""

    async def off(_: web.Request) -> web.Response:
        return _json(404, {"error": OFF})

    return [web.route("*", "/v1/{rest:.*}", off)]


def _as_json(answer: Answer, what: str, meter: Meter) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that converts an answer, or the error that it raises, to a response, and counts it."""

    async def respond(request: web.Request) -> web.Response:
        began_s = time.monotonic()
        try:
            status, body = await answer(request)
            response = _json(status, body)
        except EddyError as exc:
            response = _error(reason(exc))
        meter.count("answers", answer=what, status=str(response.status))
        meter.observe("answer", time.monotonic() - began_s, answer=what)
        return response

    return respond


def _found(found: dict[str, Any] | bytes | frozenset[int]) -> tuple[int, Body]:
    """Status and body of what a desk has found."""
    if isinstance(found, frozenset):
        return 404, {"error": "no row of this user in these partitions", "partitions": sorted(found)}
    return 200, found


def _id(request: web.Request) -> str:
    """The id in the path. Raises Unanswered if it is not in UTF-8: aiohttp takes it for an id with the sign %."""
    try:
        unquote(request.rel_url.raw_path, errors="strict")
    except UnicodeError:
        raise Unanswered(400, "the id in the path is not in UTF-8; encode its bytes in UTF-8 as %XX") from None
    return request.match_info["id"]


def _query(request: web.Request) -> dict[str, list[str]]:
    query = request.rel_url.query
    return {name: query.getall(name) for name in query}


def _passed_on(request: web.Request) -> tuple[str, str, bool]:
    """Path and query as the client wrote them, and whether a worker has passed them on."""
    url = request.rel_url
    return url.raw_path, url.raw_query_string, FORWARDED in request.headers


def _error(exc: Unanswered) -> web.Response:
    response = _json(exc.status, {"error": str(exc)})
    if exc.retry_s is not None:
        response.headers["Retry-After"] = str(exc.retry_s)
    if exc.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _json(status: int, body: Body) -> web.Response:
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return web.Response(status=status, body=encoded, content_type="application/json", charset="utf-8")
