"""Finds the traces that the messages of a batch belong to, by their Kafka header `traceparent`.

Source: W3C Trace Context, https://www.w3.org/TR/trace-context/#traceparent-header.
"""

import re
from collections.abc import Iterable
from typing import Any

MOST = 32
"""Links of one transaction. A batch may have thousands of clicks, and each link is sent with the span."""

HEADER = "traceparent"
SAMPLED = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f][13579bdf]")
"""Version, trace id, span id, and flags whose last bit says that somebody keeps the trace."""

Link = tuple[int, int]
"""Trace id and span id."""


def links(records: Iterable[Any]) -> list[Link]:
    """The sampled spans that sent these records of aiokafka, each once, in the order of the records; at most MOST.

    A header that is not valid counts as none.
    """
    found: dict[Link, None] = {}
    for record in records:
        for name, value in record.headers:
            if name != HEADER or value is None:
                continue
            match = SAMPLED.fullmatch(value)
            if match is None:
                continue
            link = int(match[1], 16), int(match[2], 16)
            if all(link):
                found[link] = None
                if len(found) == MOST:
                    return list(found)
    return list(found)
