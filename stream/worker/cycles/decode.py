"""Decodes the messages of a batch: clicks, requests about users, states that move, and what is not valid."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from stream.carry.messages import Moves, Way
from stream.engine.engine import Engine
from stream.engine.requests import Asking
from stream.errors import BadClick, Dropped
from stream.events import Click, Origin, Partition
from stream.kafka.consumer.fetch import Chunk
from stream.mapping.shape import all_with_headers
from stream.wire.codec import TRUSTED_MS, Codec


class Refused(NamedTuple):
    """A message that became a dead letter: its origin, what the codec keeps of aiokafka's record, and the reason."""

    origin: Origin
    record: Any
    why: BadClick


class Decoded(NamedTuple):
    """What the messages of a batch are.

    clicks, origins, taken  the valid clicks, in their order; where each comes from; its message
    refused   the messages that became dead letters
    dropped   origin of each message that the mapping leaves out -> why
    requests  about users
    offsets   partition -> offset of the next message to read
    chunks, rest  those whose messages these are, and those that another batch after it must begin with
    begins    at which of the clicks each chunk begins
    moves     the states that go from anonymous ids to users; None = they stay
    """

    clicks: list[Click]
    origins: list[Origin]
    taken: list[Any]
    refused: list[Refused]
    dropped: dict[Origin, str]
    requests: Asking
    offsets: dict[Partition, int]
    chunks: Sequence[Chunk]
    rest: Sequence[Chunk]
    begins: list[int]
    moves: Moves | None


def decode(
    engine: Engine,
    codec: Codec,
    chunks: Sequence[Chunk],
    expected: Mapping[Partition, int],
    now_ms: int,
    way: Way | None,
) -> Decoded:
    """Decode the messages of the chunks. The arguments are those of batch.decide.

    Raises RuntimeError if a chunk does not begin at the end of the previous chunk of its partition.
    """
    read, check_key, latest_ms = codec.decode, codec.check_key, now_ms + TRUSTED_MS
    codec.left_out.clear()
    clicks: list[Click] = []
    origins: list[Origin] = []
    taken: list[Any] = []
    refused: list[Refused] = []
    dropped: dict[Origin, str] = {}
    requests = Asking(codec, clicks)
    offsets: dict[Partition, int] = {}
    if codec.headers:
        chunks = [replace(chunk, records=all_with_headers(chunk.records, codec.headers)) for chunk in chunks]
    moves = None if way is None else Moves(way, engine.arena, engine.forgetting, codec, clicks, requests)
    later: list[Chunk] = []
    begins: list[int] = []
    for number, chunk in enumerate(chunks):
        partition = chunk.partition
        reached = offsets.get(partition, expected[partition])
        if chunk.begin != reached:
            raise RuntimeError(
                f"{partition}: decided up to offset {reached}, but the next chunk begins at {chunk.begin}: clicks "
                "would be left out or repeated"
            )
        begins.append(len(clicks))
        for record in chunk.records if moves is None else moves.records(chunk):
            origin = Origin(*partition, record.offset)
            try:
                stamp = record.timestamp
                seen_ms = now_ms if stamp <= now_ms else min(stamp, latest_ms)
                click = read(record.key, record.value, seen_ms)
                check_key(record.key, click.user_id)
                clicks.append(click)
                origins.append(origin)
                taken.append(record)
            except Dropped as exc:
                dropped[origin] = exc.reason
            except BadClick as exc:
                if requests.read(record, partition):
                    continue
                why = BadClick(exc.reason, exc.detail)  # `exc` references this frame, and so the whole batch
                refused.append(Refused(origin, codec.keep(record), why))
        offsets[partition] = chunk.end
        if moves is not None and moves.rest is not None:
            chunks, later = moves.split(chunks, number)
            offsets[partition] = chunks[-1].end
            break
    return Decoded(clicks, origins, taken, refused, dropped, requests, offsets, chunks, later, begins, moves)
