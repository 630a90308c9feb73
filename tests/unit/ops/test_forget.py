"""`eddy forget` refuses what cannot be a user before it asks any broker."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from stream.errors import ConfigError
from stream.ops.forget import _key, forget
from stream.ops.text import read_ids


@pytest.mark.parametrize(("user", "key"), [("u17", b"u17"), ("17.0", b"17"), (" a", b" a"), ("ü", "ü".encode())])
def test_a_user_has_the_key_of_the_state(user: str, key: bytes) -> None:
    """By the rules of the clicks topic, so that 17.0 and 17 are the same user."""
    assert _key(user) == key


@pytest.mark.parametrize("user", ["", "u" * 257, "\udc80"])
def test_what_no_click_can_have_as_user_is_refused(user: str) -> None:
    """With one line."""
    with pytest.raises(ConfigError, match="no click can have this user id"):
        _key(user)


@pytest.mark.parametrize(("topic", "warned"), [("shop-by-user", True), ("shop", False)])
def test_the_topic_of_the_copies_gets_a_warning(monkeypatch: pytest.MonkeyPatch, topic: str, warned: bool) -> None:
    """Clicks that are not copied yet come after the request. A topic of the shop's own may have such a name, too."""
    monkeypatch.setattr("stream.answers.admin.request_to_forget", lambda *_: 4)
    done = CliRunner().invoke(forget, ["u17", "--clicks-topic", topic], catch_exceptions=False)
    assert done.exit_code == 0
    assert ("If workers re-key shop, give --clicks-topic shop, too" in done.stderr) is warned


def test_a_user_who_is_named_twice_has_one_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The count is of users, which whoever must prove the deletion may compare with the list."""
    written: list[bytes] = []
    monkeypatch.setattr("stream.answers.admin.request_to_forget", lambda *given: written.extend(given[-1]) or 4)
    (tmp_path / "users").write_text("u1\nu2\nu1\n")
    done = CliRunner().invoke(forget, ["u2", "--file", str(tmp_path / "users")], catch_exceptions=False)
    assert written == [b"u2", b"u1"]
    assert "requests about 2 users written" in done.stdout


def test_a_file_has_one_user_a_line(tmp_path: Path) -> None:
    """Blank lines do not count; a file that is no text is refused."""
    (tmp_path / "users").write_text("u1\n\nu 2\r\n")
    assert read_ids(tmp_path / "users", "--file") == ["u1", "u 2"]
    (tmp_path / "users").write_bytes("\ufeffu1\r\nu\u2028 2\x85\r\nu3".encode())
    assert read_ids(tmp_path / "users", "--file") == ["u1", "u\u2028 2\x85", "u3"]
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, line in (("bytes", "is not UTF-8 text with one user id a line"), ("missing", r"\(No such file")):
        with pytest.raises(ConfigError, match=line):
            read_ids(tmp_path / name, "--file")


@pytest.mark.parametrize(("text", "shown"), [("u1\nu2 \n", "'u2 '"), ('"u1"\n', "'\"u1\"'"), ("u1\n'\n", None)])
def test_an_id_with_a_blank_or_quotes_around_it_gets_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, shown: str | None
) -> None:
    """It may be the id. If it is not, nobody would notice that the user is not forgotten."""
    monkeypatch.setattr("stream.answers.admin.request_to_forget", lambda *_: 4)
    (tmp_path / "users").write_text(text)
    done = CliRunner().invoke(forget, ["--file", str(tmp_path / "users")], catch_exceptions=False)
    assert done.exit_code == 0
    assert (f"warning: 1 id with a blank or quotes around it, such as {shown}" in done.stderr) is (shown is not None)
