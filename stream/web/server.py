"""An HTTP server in a thread of its own, so that neither its clients nor its pages can stop the worker's event loop.

It answers from the first second of a process on, also while the main thread loads a model or waits for Kafka. A client
that is slow, sends nothing or does not read is cut off: a connection has one request and CONNECTION_S. Only a stream
may take longer, and its handler cuts off a client that does not read. What the server serves is given as aiohttp's
routes; a handler runs in the server's thread.
"""

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from stream.errors import ConfigError

CONNECTION_S = 10.0
"""How long a connection may take, from the moment that it is accepted."""

MOST_CONNECTIONS = 64
"""Connections at the same time: each costs a file descriptor of the worker. One more ends the oldest idle one."""

QUEUE = 128
"""Connections that the system holds until they are accepted."""

REMIND_S = 300.0
"""How often the log says that there is no file descriptor for a connection."""

NAME = "eddy"
"""The header Server of each answer. By default it has the versions of Python and aiohttp."""

NO_ADDRESS = "--http-host must be an address or a name of this machine"
ADVICE = {
    errno.EADDRINUSE: "stop the program that has it, or give another --http-port",
    errno.EACCES: "this user may not open it: give a --http-port above 1023",
    **dict.fromkeys((errno.EADDRNOTAVAIL, socket.EAI_NONAME, socket.EAI_AGAIN, socket.EAI_FAIL), NO_ADDRESS),
}
"""Number of the system's error -> what to do."""

log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """Open a port. Raises ConfigError if it cannot be opened, with what to do about it."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as exc:
        reason = str(exc.strerror or exc).partition(" (while")[0]  # Python adds the address to the system's text
        advice = ADVICE.get(exc.errno or 0, "give another --http-port or --http-host")
        raise ConfigError(f"port {port} of {host} cannot be opened ({reason}); {advice}") from exc
    except (TypeError, ValueError) as exc:  # a NUL, or half of a surrogate pair
        raise ConfigError(f"port {port} of {host!r} cannot be opened ({exc}); {NO_ADDRESS}") from exc


class Server:
    """Serves routes on an open port until `close`, or until the process ends. The server owns the socket."""

    def __init__(self, listener: socket.socket, routes: Sequence[web.AbstractRouteDef]) -> None:
        self._listener = listener
        self._routes = routes
        self._loop = asyncio.SelectorEventLoop()  # not uvloop: the thread may be in it when the process ends
        self._loop.set_exception_handler(self._failed)
        self._said_s: float | None = None  # when the log said that there is no file descriptor
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and close the port and all connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        runner, accepting = self._loop.run_until_complete(self._start())
        self._loop.run_forever()
        accepting.close()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.run_until_complete(_end_tasks())
        self._loop.run_until_complete(asyncio.sleep(0))  # the transports close in the next round
        self._loop.close()

    async def _start(self) -> tuple[web.AppRunner, asyncio.Server]:
        app = web.Application(middlewares=[_mark])
        app.on_response_prepare.append(_last_answer)
        app.add_routes(self._routes)
        log.addFilter(_is_ours)
        options: dict[str, Any] = {"access_log": None, "logger": log}
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1, **options)
        await runner.setup()
        server = runner.server
        assert server is not None

        def connection() -> asyncio.BaseProtocol:
            protocol = _Connection(server, loop=self._loop, **options)
            self._loop.call_soon(_make_room, server)  # `connections` has those that came before it by then, and not it
            self._loop.call_later(CONNECTION_S, _cut_late, protocol)
            return protocol

        # asyncio tries so many times at once to accept, also without a file descriptor, and logs each of these failures
        accepting = await self._loop.create_server(connection, sock=self._listener, backlog=1)
        self._listener.listen(QUEUE)
        return runner, accepting

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what the loop cannot give to anybody. It accepts again a second after it had no file descriptor."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif self._said_s is None or loop.time() - self._said_s >= REMIND_S:
            self._said_s = loop.time()
            log.warning("the HTTP port cannot accept a connection: %s; raise the limit (ulimit -n)", error.strerror)


async def _end_tasks() -> None:
    """Cancel what still runs, such as streams, and wait for it."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


class _Connection(web.RequestHandler):
    """A connection, which has one request.

    asked    the request is known: the connection is not idle
    streams  the answer is a stream, which may take longer than CONNECTION_S
    """

    asked = False
    streams = False

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """As in aiohttp. The answer to what is no HTTP does not pass `on_response_prepare`."""
        response = super().handle_error(request, status, exc, message)
        response.headers["Server"] = NAME
        return response


def _make_room(server: web.Server) -> None:
    """Before one more connection: if there are too many, end the oldest idle one, or else the oldest.

    If the new one were refused, clients that send nothing could keep out the health check, and the worker would be
    restarted.
    """
    running = [each for each in server.connections if each.transport is not None and not each.transport.is_closing()]
    if len(running) >= MOST_CONNECTIONS:
        idle = (each for each in running if isinstance(each, _Connection) and not each.asked)
        _cut(next(idle, running[0]))


def keep_open(request: web.Request) -> None:
    """Let the answer to this request take longer than CONNECTION_S. Its handler must cut off a client that is slow."""
    assert isinstance(request.protocol, _Connection)
    request.protocol.streams = True


def _cut_late(protocol: asyncio.BaseProtocol) -> None:
    """End a connection that has taken CONNECTION_S, if it is no stream."""
    if not getattr(protocol, "streams", False):
        _cut(protocol)


def _is_ours(record: logging.LogRecord) -> bool:
    """Leave out what clients do wrong: aiohttp logs each request that is no HTTP as an error, with a stack trace."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


def _cut(protocol: asyncio.BaseProtocol) -> None:
    """End a connection without waiting for its client. Nothing happens if it has ended."""
    transport = getattr(protocol, "transport", None)
    if transport is not None:
        transport.abort()


@web.middleware
async def _mark(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Mark the connection of a request as not idle, and answer errors as JSON objects.

    An error that is a bug is logged, and the client gets no stack trace.
    """
    assert isinstance(request.protocol, _Connection)
    request.protocol.asked = True
    try:
        return await handler(request)
    except web.HTTPException as exc:
        allowed = {"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else None
        words = f"{exc.reason}: {request.method} {request.path[:256]}"
        if exc is request.match_info.http_exception and exc.status == web.HTTPNotFound.status_code:
            words = f"{words}; this port has {', '.join(_fixed_paths(request.app))}"
        return web.json_response({"error": words}, status=exc.status, headers=allowed)
    except Exception:
        log.exception("a request on the HTTP port failed")
        return web.json_response({"error": "a bug of Eddy; the worker's log has more"}, status=500)


def _fixed_paths(app: web.Application) -> list[str]:
    """The paths that a person may look for, such as /livez: those of no user and of no file."""
    paths = [resource.canonical for resource in app.router.resources()]
    return [path for path in paths if not {"{", "."} & set(path)]


async def _last_answer(_: web.Request, response: web.StreamResponse) -> None:
    """Close the connection after each answer: a client that keeps it would be cut off between two requests."""
    response.headers["Server"] = NAME
    response.force_close()
