"""A TCP proxy that hurts the connections through it: stalls, delay, broken connections, a listener that is gone.

For tests and benchmarks of a bad network. The broker must advertise the proxy's address on the listener behind it
(ApacheKafka(proxy=...)), because Kafka's clients connect to advertised addresses.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self

CHUNK = 1 << 16
QUEUED_CHUNKS = 64
"""Most chunks of one direction that are delayed at a time; then the proxy stops to read, as a full link does."""


class TcpProxy:
    """Forwards connections from `address` to `target`, in a thread of its own.

    address  "127.0.0.1:port" of this proxy. Nothing is forwarded before `target` is set
    target   "host:port"
    delay_s  added to every chunk, in both directions; the order of the chunks is kept
    """

    def __init__(self, target: str = "") -> None:
        self.target = target
        self.delay_s = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._flows = self._call(self._make_event()).result()
        self.listen()
        self.address = f"127.0.0.1:{self._port}"

    def stall(self) -> None:
        """Accept connections and bytes, and forward nothing until `resume`. What arrives meanwhile comes later."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def resume(self) -> None:
        self._loop.call_soon_threadsafe(self._flows.set)

    def drop(self) -> None:
        """Break all connections with a reset. Clients may connect again."""
        self._call(self._drop()).result()

    def close(self) -> None:
        """Refuse connections and break those that are open, until `listen`."""
        self._call(self._close()).result()

    def listen(self) -> None:
        """Accept connections, at the same address as before."""
        self._call(self._listen()).result()

    def stop(self) -> None:
        self.close()
        self._call(self._cancel()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _make_event(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._drop()

    async def _drop(self) -> None:
        for writer in list(self._writers):
            at_once = struct.pack("ii", 1, 0)  # else the connection ends in order, without a reset
            with suppress(OSError):  # it is closed already
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.transport.abort()
        self._writers.clear()

    async def _cancel(self) -> None:
        """End what still waits, for example in a stall; asyncio would complain about it when the process ends."""
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            await self._flows.wait()
            there, back = await asyncio.open_connection(host, int(port))
        except (OSError, ValueError):  # ValueError: no target yet
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        with suppress(asyncio.CancelledError):
            await asyncio.gather(self._forward(reader, back), self._forward(there, writer))
        self._writers -= {writer, back}

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one direction. Chunks that are delayed wait in a queue, so that the delay costs no throughput."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        sending = asyncio.ensure_future(self._send(queue, writer))
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await queue.put((self._loop.time() + self.delay_s, data))
        await queue.put((self._loop.time() + self.delay_s, b""))
        await sending

    async def _send(self, queue: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        broken = False
        while True:
            at_s, data = await queue.get()
            await asyncio.sleep(max(0.0, at_s - self._loop.time()))
            await self._flows.wait()
            if not data:
                break
            try:
                if not broken:
                    writer.write(data)
                    await writer.drain()
            except OSError:
                broken = True  # the queue is emptied nevertheless, or the reader would wait for room
        writer.close()
