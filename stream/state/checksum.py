"""Checksums of rows: a broken row is noticed, and so are rows that are missing from a changelog.

Each row holds the 64-bit hash of its other bytes, seeded with the hash of the user id, so a row under a wrong key is
broken, too. A partition's checksum is the sum of its rows' checksums modulo 2^64. The sum does not depend on the order
of the rows, and a cycle updates it with the rows that it changes.

Source: XXH3, https://github.com/Cyan4973/xxHash. It notices accidents; it does not protect against an attacker.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from stream.state.row import CHECKSUM_BYTES, HEAD, Head, Rows


class Totals(NamedTuple):
    """What the rows of a partition add up to.

    users     number of rows
    checksum  sum of the checksums of the rows, modulo 2^64
    """

    users: int
    checksum: int


def checksums(keys: Iterable[bytes], rows: Rows, rests: Sequence[bytes] | None = None) -> npt.NDArray[np.uint64]:
    """Compute the checksums (n,) of n rows from their other bytes.

    keys   user ids in UTF-8, length n
    rows   (n,), contiguous
    rests  what follows each row in the changelog, length n; None = nothing
    """
    size, data = rows.dtype.itemsize, rows.view(np.uint8).reshape(-1).data
    ends = range(size, size * len(rows) + 1, size)
    if rests is not None:
        found = [
            xxh3_64_intdigest(bytes(data[end - size + CHECKSUM_BYTES : end]) + rest, xxh3_64_intdigest(key))
            for key, end, rest in zip(keys, ends, rests, strict=True)
        ]
        return np.array(found, np.uint64)
    hashed = (data[end - size + CHECKSUM_BYTES : end] for end in ends)
    return np.fromiter(map(xxh3_64_intdigest, hashed, map(xxh3_64_intdigest, keys)), np.uint64, len(rows))


def intact(key: bytes, row: bytes) -> bool:
    """True if a row in the changelog, of any length, is one that some version of Eddy wrote for this user."""
    checksum, rest = row[:CHECKSUM_BYTES], row[CHECKSUM_BYTES:]
    return bool(rest) and _checksum(key, rest) == checksum


def with_head(key: bytes, row: bytes, **fields: int) -> bytes:
    """The row with other values of these fields of Head, and the checksum that it then has."""
    head = Head.of(row)._replace(**fields)
    rest = HEAD.pack(*head)[CHECKSUM_BYTES:] + row[HEAD.size :]
    return _checksum(key, rest) + rest


def _checksum(key: bytes, rest: bytes) -> bytes:
    """The first bytes of a row from all that follow them."""
    return xxh3_64_intdigest(rest, xxh3_64_intdigest(key)).to_bytes(CHECKSUM_BYTES, "little")
