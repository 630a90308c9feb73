"""What a worker serves on its HTTP port: /metrics, /livez and /readyz."""

import math
import time
from collections.abc import Sequence

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from stream.meter import Meter
from stream.web.health import Health, Verdict
from stream.web.metrics import exposition, registry

FRESH_S = 1.0
"""/metrics is made at most so often, however often it is asked for: it takes the worker's Python a few milliseconds."""


def worker_routes(meter: Meter, health: Health) -> Sequence[web.AbstractRouteDef]:
    """The routes of a worker, for Server."""
    made = registry(meter, health)
    latest: tuple[float, bytes] = (-math.inf, b"")

    async def metrics(_: web.Request) -> web.Response:
        nonlocal latest
        now_s = time.monotonic()
        if now_s - latest[0] >= FRESH_S:
            latest = (now_s, exposition(made))
        return web.Response(body=latest[1], headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def livez(_: web.Request) -> web.Response:
        return _answer("live", health.live())

    async def readyz(_: web.Request) -> web.Response:
        return _answer("ready", health.ready())

    return [web.get("/metrics", metrics), web.get("/livez", livez), web.get("/readyz", readyz)]


def _answer(word: str, verdict: Verdict) -> web.Response:
    """200 or 503, with a JSON object of the reason and the facts."""
    body = {word: not verdict.reason, "reason": verdict.reason, **verdict.facts}
    return web.json_response(body, status=503 if verdict.reason else 200)
