"""Which traces a batch is linked to. The headers are anything that a producer may send."""

from types import SimpleNamespace
from typing import Any

import pytest

from stream.tracing.links import MOST, links

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
LINK = (int(TRACE, 16), int(SPAN, 16))


def record(*headers: tuple[str, bytes | None]) -> Any:
    return SimpleNamespace(headers=headers)


def parent(trace: str = TRACE, span: str = SPAN, flags: str = "01") -> tuple[str, bytes]:
    return "traceparent", f"00-{trace}-{span}-{flags}".encode()


def test_a_sampled_parent_is_a_link_once() -> None:
    """A producer may send several clicks in one span."""
    other = parent(span="00f067aa0ba902b7")
    batch = [record(), record(("other", b"x"), parent()), record(parent()), record(other)]
    assert links(batch) == [LINK, (LINK[0], 0x00F067AA0BA902B7)]


@pytest.mark.parametrize(
    "header",
    [
        parent(flags="00"),
        parent(flags="02"),
        parent(trace="0" * 32),
        parent(span="0" * 16),
        parent(trace=TRACE.upper()),
        parent(flags="1"),
        ("traceparent", b""),
        ("traceparent", None),
        ("traceparent", b"\xff" * 55),
        ("traceparent", parent()[1] + b"-more"),
        ("tracestate", parent()[1]),
    ],
)
def test_what_is_not_sampled_or_not_valid_is_no_link(header: tuple[str, bytes | None]) -> None:
    """Nobody keeps the trace, or nobody could find it."""
    assert links([record(header)]) == []


def test_a_transaction_has_few_links() -> None:
    """A batch may have thousands of clicks, each of a trace of its own."""
    batch = [record(parent(span=f"{n + 1:016x}")) for n in range(1_000)]
    found = links(batch)
    assert len(found) == MOST == 32
    assert found[-1] == (LINK[0], 32)
