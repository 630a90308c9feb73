"""An HTTP server in a thread of its own, so that neither its clients nor its pages can stop the worker's event loop.

It answers from the first second of a process on, also while the main thread loads a model or waits for Kafka. A client
that is slow, sends nothing or does not read is cut off: a connection has one request and CONNECTION_S. What it serves
is given as aiohttp's routes; a handler runs in the server's thread.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from stream.errors import ConfigError

CONNECTION_S = 10.0
"""How long a connection may take, from the moment that it is accepted."""

MOST_CONNECTIONS = 64
"""Connections at the same time. More are closed at once: each costs a file descriptor of the worker."""

log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """Open a port. Raises ConfigError if it is taken, or if `host` is no address of this machine."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as exc:
        reason = str(exc.strerror or exc).partition(" (while")[0]  # Python adds the address to the system's text
        raise ConfigError(
            f"port {port} of {host} cannot be opened ({reason}); stop the program that has it, or give another "
            "--http-port or --http-host"
        ) from exc


class Server:
    """Serves routes on an open port until `close`, or until the process ends. The server owns the socket."""

    def __init__(self, listener: socket.socket, routes: Sequence[web.AbstractRouteDef]) -> None:
        self._listener = listener
        self._routes = routes
        self._loop = asyncio.SelectorEventLoop()  # not uvloop: the thread may be in it when the process ends
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
        self._loop.run_until_complete(asyncio.sleep(0))  # the transports close in the next round
        self._loop.close()

    async def _start(self) -> tuple[web.AppRunner, asyncio.Server]:
        app = web.Application(middlewares=[_one_request])
        app.add_routes(self._routes)
        log.addFilter(_is_ours)
        runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=0.1, logger=log)
        await runner.setup()
        server = runner.server
        assert server is not None

        def limit(protocol: asyncio.BaseProtocol) -> None:
            if len(server.connections) >= MOST_CONNECTIONS:
                self._loop.call_soon(_cut, protocol)  # it has its transport by then

        def connection() -> asyncio.BaseProtocol:
            protocol = server()
            self._loop.call_soon(limit, protocol)  # `connections` has those that came before it by then
            self._loop.call_later(CONNECTION_S, _cut, protocol)
            return protocol

        return runner, await self._loop.create_server(connection, sock=self._listener)


def _is_ours(record: logging.LogRecord) -> bool:
    """Leave out what clients do wrong: aiohttp logs each request that is no HTTP as an error, with a stack trace."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


def _cut(protocol: asyncio.BaseProtocol) -> None:
    """End a connection without waiting for its client. Nothing happens if it has ended."""
    transport = getattr(protocol, "transport", None)
    if transport is not None:
        transport.abort()


@web.middleware
async def _one_request(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Close the connection after each answer: a client that keeps it would be cut off between two requests.

    Errors are JSON objects. One that is a bug is logged, and the client gets no stack trace.
    """
    try:
        response = await handler(request)
    except web.HTTPException as exc:
        allowed = {"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else None
        words = f"{exc.reason}: {request.method} {request.path[:256]}"
        response = web.json_response({"error": words}, status=exc.status, headers=allowed)
    except Exception:
        log.exception("a request on the HTTP port failed")
        response = web.json_response({"error": "a bug of Eddy; the worker's log has more"}, status=500)
    response.headers["Server"] = "eddy"  # else versions of Python and aiohttp
    response.force_close()
    return response
