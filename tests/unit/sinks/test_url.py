"""The URL of a server: what of it may be shown, and whether it may have a password."""

import pytest

from stream.places.url import Url


@pytest.mark.parametrize(
    ("text", "has_password"),
    [
        ("redis://cache:6379/0", False),
        ("127.0.0.1:6379", False),
        ("redis://:secret@cache:6379/0", True),
        ("redis//:secret@cache:6379/0", True),
        ("postgresql://shop@db/shop", False),
        ("postgresql://shop:secret@db/shop", True),
        ("postgresql://db/shop?password=secret", True),
        ("host=db password=secret", True),
    ],
)
def test_a_password_is_noticed_and_not_shown(text: str, has_password: bool) -> None:
    """Also in a text that is no URL; and no user is warned of a password that is not there."""
    url = Url(text)
    assert url.has_password is has_password
    assert "secret" not in f"{url.shown} {url!r} {url.redact(f'cannot use {text}')}"
