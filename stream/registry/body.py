"""What the bodies of all formats share: where they begin, and bytes that may be text."""

HEADER = 5
"""Bytes of a message before the body: the byte 0, and the id of the schema, big-endian."""


def text_of(data: bytes) -> str | bytes:
    """Bytes as text if they are UTF-8; else as they are, which no field of a click takes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
