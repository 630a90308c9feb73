"""The latest alerts that a worker has decided and committed, and a stream of them to clients that follow.

The kept alerts are the only buffer: each client reads on from the place that it has reached. So a client that does not
read costs no memory, and it is cut off after WRITE_S. It never delays the worker or another client.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from stream.errors import Unanswered
from stream.events import Anomaly, SystemAlert
from stream.web.server import keep_open

KEPT = 200
"""Alerts that a worker keeps."""

LOOK_S = 0.25
"""How often a stream looks for new alerts."""

HEARTBEAT_S = 5.0
"""A stream without alerts has a comment so often: proxies close a connection that is silent."""

WRITE_S = 5.0
"""A client that takes nothing for so long is cut off."""

MOST_STREAMS = 16

RETRY_MS = 1000
"""A browser connects again after so long."""

Alert = Anomaly | SystemAlert


class Alerts:
    """The last KEPT alerts. Any thread may call the methods.

    clock_ms  returns the current time, ms since the epoch
    """

    def __init__(self, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, Alert]] = deque(maxlen=KEPT)
        self._added = 0

    def add(self, alerts: Sequence[Alert]) -> None:
        """Add the alerts of a committed transaction, in the order of their clicks."""
        if alerts:
            now_ms = self._clock_ms()
            with self._lock:
                self._kept.extend((now_ms, alert) for alert in alerts)
                self._added += len(alerts)

    def latest(self, most: int, user: str | None = None) -> list[dict[str, Any]]:
        """Up to `most` alerts, newest first: the fields of each message, and the time of its commit.

        user  only alerts of this user; None = all, also those on many users
        """
        with self._lock:
            kept = [*reversed(self._kept)]
        return [_shown(*each) for each in kept if user is None or getattr(each[1], "user_id", None) == user][:most]

    def after(self, number: int) -> tuple[list[dict[str, Any]], int]:
        """The kept alerts that were added after the first `number` ones, oldest first, and the number up to them."""
        with self._lock:
            kept, added = [*self._kept], self._added
        begin = max(0, number - (added - len(kept)))
        return [_shown(*each) for each in kept[begin:]], added

    def number_of(self, id_: str | None) -> int:
        """How many alerts were added up to the first one with this id; 0 if it is not kept.

        Alerts can have the same id. Those after the first one are sent again, so that none is missing.
        """
        with self._lock:
            first = self._added - len(self._kept) + 1
            return next((first + at for at, (_, alert) in enumerate(self._kept) if alert.id == id_), 0)


def _shown(committed_ms: int, alert: Alert) -> dict[str, Any]:
    return {"committed": committed_ms, **msgspec.to_builtins(alert)}


class Streams:
    """Streams of alerts as server-sent events, at most MOST_STREAMS. Every method is called in the server's loop."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts
        self._free = MOST_STREAMS

    async def follow(self, request: web.Request, user: str | None) -> web.StreamResponse:
        """Send the kept alerts after the one of Last-Event-ID, and then each new one, until the client goes.

        Raises Unanswered if there are too many streams.
        """
        if not self._free:
            raise Unanswered(503, f"this worker has {MOST_STREAMS} streams already", RETRY_MS // 1000)
        self._free -= 1
        try:
            return await self._send(request, user)
        finally:
            self._free += 1

    async def _send(self, request: web.Request, user: str | None) -> web.StreamResponse:
        keep_open(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        if request.method == "HEAD":  # the answer has no body, and ends here
            return response
        try:
            await _write(response, f"retry: {RETRY_MS}\n\n".encode())
            sent, written_s = self._alerts.number_of(request.headers.get("Last-Event-ID")), time.monotonic()
            while request.transport is not None and not request.transport.is_closing():
                alerts, sent = self._alerts.after(sent)
                events = [_event(alert) for alert in alerts if user is None or alert.get("user_id") == user]
                if not events and time.monotonic() - written_s >= HEARTBEAT_S:
                    events = [b": nothing new\n\n"]
                if events:
                    await _write(response, b"".join(events))
                    written_s = time.monotonic()
                await asyncio.sleep(LOOK_S)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Raises TimeoutError if the client does not take it within WRITE_S, ConnectionError if it has gone."""
    async with asyncio.timeout(WRITE_S):
        await response.write(data)


def _event(alert: dict[str, Any]) -> bytes:
    """One event. JSON has no line ends, and neither has an id: a topic's name has none."""
    kind = b"system-alert" if "sign" in alert else b"anomaly"
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (alert["id"].encode(), kind, msgspec.json.encode(alert))
