"""The page for a person at `/`: its files, and the figures that it asks for.

The page loads nothing from elsewhere, and the policy of each file forbids it. The files are read once, at start.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
from aiohttp import web

from stream.web.display import Display

HERE = Path(__file__).with_name("page")

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""The files of these kinds are served."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
"""Of the model's report, which is one file with its styles and charts."""


def page_routes(display: Display) -> Sequence[web.AbstractRouteDef]:
    """The routes of the page, and of the figures that name no user, for Server."""

    async def status(_: web.Request) -> web.Response:
        return _json(display.status())

    async def history(_: web.Request) -> web.Response:
        return _json(display.history())

    files = [web.get(f"/page/{path.name}", _file(path)) for path in sorted(HERE.iterdir()) if path.suffix in KINDS]
    index = web.get("/", _file(HERE / "index.html"))
    return [index, *files, web.get("/v1/status", status), web.get("/v1/history", history)]


def report_route(display: Display) -> web.AbstractRouteDef:
    """The route of the model's report. It names items, so it is for workers that answer requests."""

    async def report(_: web.Request) -> web.Response:
        if display.report is None:
            raise web.HTTPNotFound
        try:
            text = display.report.read_bytes()
        except OSError:
            raise web.HTTPNotFound from None
        return web.Response(
            body=text,
            content_type="text/html",
            charset="utf-8",
            headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY},
        )

    return web.get("/v1/report", report)


def _file(path: Path) -> Callable[[web.Request], Awaitable[web.Response]]:
    body, kind = path.read_bytes(), KINDS[path.suffix]

    async def file(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)

    return file


def _json(body: dict[str, object]) -> web.Response:
    encoded = msgspec.json.encode(body)
    return web.Response(
        body=encoded, content_type="application/json", charset="utf-8", headers={"Cache-Control": "no-store"}
    )
