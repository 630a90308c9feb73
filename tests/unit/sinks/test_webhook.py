"""What the answers of a webhook mean, and that its URL is never shown, with a real HTTP server."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from stream.errors import ConfigError
from stream.places import webhook as module
from stream.places.webhook import Later, Webhook
from stream.sinks.command import sink
from tests.receiver import Answer, Receiver, Request


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def webhook(receiver: Receiver) -> Iterator[Webhook]:
    webhook = Webhook(receiver.url)
    yield webhook
    webhook.close()


def test_a_2xx_is_the_end_and_the_request_has_the_body_and_the_key(receiver: Receiver, webhook: Webhook) -> None:
    """Whatever the receiver says beside it."""
    receiver.answers = [Answer(200), Answer(204, body=b""), Answer(202, body=b"x" * 100_000)]
    for n in range(3):
        assert webhook.post(b'{"n": 1}', f"anomalies-0-{n}") is None
    kind, path = "application/json", "/hooks/S3CRET?token=T0KEN"
    assert receiver.requests == [Request(f"anomalies-0-{n}", b'{"n": 1}', kind, path) for n in range(3)]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_later(receiver: Receiver, webhook: Webhook, status: int) -> None:
    """The receiver may say when."""
    receiver.answers = [Answer(status, body=b"busy\nnow"), Answer(status, {"Retry-After": "7"})]
    with pytest.raises(Later, match=f"^status {status}: busy now$") as raised:
        webhook.post(b"{}", "k")
    assert raised.value.pause_s == 0
    with pytest.raises(Later) as raised:
        webhook.post(b"{}", "k")
    assert raised.value.pause_s == 7
    assert webhook.post(b"{}", "k") is None


def test_retry_after_may_be_a_date_or_wrong(receiver: Receiver, webhook: Webhook) -> None:
    """A wrong one is none, and one of the past is 0."""
    soon = datetime.now(UTC) + timedelta(seconds=100)
    for text, least, most in (
        (format_datetime(soon, usegmt=True), 80, 100),
        (format_datetime(soon - timedelta(days=1), usegmt=True), 0, 0),
        ("soon", 0, 0),
        ("-3", 0, 0),
        ("²", 0, 0),
        ("9" * 400, 1e8, 1e9),
    ):
        receiver.answers = [Answer(429, {"Retry-After": text.encode().decode("latin-1")})]
        with pytest.raises(Later) as raised:
            webhook.post(b"{}", "k")
        assert least <= raised.value.pause_s <= most, text


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 407, 410, 301, 302, 307, 308])
def test_what_is_wrong_for_every_event_ends_it(receiver: Receiver, webhook: Webhook, status: int) -> None:
    """A redirect is not followed: the other address gets nothing."""
    with Receiver() as other:
        receiver.answers = [Answer(status, {"Location": other.url}, b"no_service")]
        line = "sends to another address" if status < 400 else "refuses every event"
        with pytest.raises(ConfigError, match=rf"^{receiver.where} {line} \(status {status}: no_service\)"):
            webhook.post(b"{}", "k")
        assert other.requests == []


@pytest.mark.parametrize("status", [400, 406, 409, 413, 415, 422])
def test_a_refusal_of_one_event_is_its_reason(receiver: Receiver, webhook: Webhook, status: int) -> None:
    """It is no error: the next event may be right."""
    receiver.answers = [Answer(status, body=b"invalid_payload\x1b[2J")]
    assert webhook.post(b"{}", "k") == f"status {status}: invalid_payload?[2J"
    assert webhook.post(b"{}", "k") is None


def test_no_connection_no_answer_and_no_http_are_tried_later(
    receiver: Receiver, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is in the system's words."""
    monkeypatch.setattr(module, "ANSWER_S", 0.3)
    slow = Webhook(receiver.url)
    receiver.answers = [Answer(hangs=True)]
    with pytest.raises(Later, match=r"^no answer within 0 s$"):
        slow.post(b"{}", "k")
    assert slow.post(b"{}", "k") is None
    slow.close()
    receiver.close()
    with pytest.raises(Later, match="Connect"):
        webhook.post(b"{}", "k")


def test_the_url_is_never_shown(receiver: Receiver, webhook: Webhook) -> None:
    """Not in an error, and not if the receiver repeats it. Whoever has it can post."""
    shown = [repr(webhook.where)]
    for said in (b"no hook /hooks/S3CRET?token=T0KEN", b"unknown S3CRET", b"T0KEN is old"):
        receiver.answers = [Answer(404, body=said), Answer(500, body=said), Answer(400, body=said)]
        with pytest.raises(ConfigError) as ended:
            webhook.post(b"{}", "k")
        with pytest.raises(Later) as later:
            webhook.post(b"{}", "k")
        shown += [str(ended.value), str(later.value), str(webhook.post(b"{}", "k"))]
    for wrong in ("ftp://host/S3CRET", "https:///S3CRET", "S3CRET", "http://host:x/S3CRET", "https://host/S3CRET ä"):
        with pytest.raises(ConfigError, match="no address such as") as refused:
            Webhook(wrong)
        shown.append(str(refused.value))
    assert Webhook("https://eddy:S3CRET@hooks.example/T0KEN").where == "https://hooks.example"
    assert not [text for text in shown if "S3CRET" in text or "T0KEN" in text]


def test_an_error_of_the_library_does_not_show_the_url(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of its texts have it: the kind of the error is enough."""

    async def fails(*_: object) -> object:
        raise aiohttp.InvalidURL("https://hooks.example/SECRET", "it is https://hooks.example/SECRET")

    monkeypatch.setattr(webhook, "_post", fails)
    with pytest.raises(Later) as raised:
        webhook.post(b"{}", "a-0-1")
    assert str(raised.value) == "InvalidURL"


def test_a_connection_that_the_server_has_closed_meanwhile_is_no_error(webhook: Webhook, receiver: Receiver) -> None:
    """A server may end an idle connection at any time."""
    receiver.answers = [Answer(headers={"Connection": "close"})]
    assert webhook.post(b"{}", "k") is None
    assert webhook.post(b"{}", "k") is None


def run(*words: str) -> str:
    """The error of a command, in one line."""
    done = CliRunner().invoke(sink, ["webhook", *words])
    assert done.exception is not None
    error = done.stderr if isinstance(done.exception, SystemExit) else str(done.exception)
    return " ".join(error.split())


def test_wrong_options_are_refused_before_anything_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to give instead."""
    monkeypatch.delenv("EDDY_SINK_URL", raising=False)
    assert "no URL: give --url-file, EDDY_SINK_URL or --url" in run()
    missing = tmp_path / "url.txt"
    assert f"--url-file {missing} cannot be read (No such file or directory)" in run("--url-file", str(missing))
    missing.write_bytes(b"\xff\xfe")
    assert "is no text with a URL" in run("--url-file", str(missing))
    both = run("--url", "https://hooks.example/S3CRET", "--url-file", str(missing))
    assert both.endswith("--url and --url-file both name the webhook: give one of them.")
    monkeypatch.setenv("EDDY_SINK_URL", "https://hooks.example/S3CRET")
    assert "--most-per-minute is for --format slack" in run("--most-per-minute", "5")
    assert "name some of these with --topics" in run("--format", "slack", "--topics", "anomalies,sessions")
    for word in ("undecided", "yesterday", "2026-13-01"):
        assert f"'{word}' is not earliest, latest or a time such as" in run("--start-at", word)
    assert (
        "other users can read --url in the list of processes"
        in CliRunner().invoke(sink, ["webhook", "--url", "x"]).stderr
    )


def test_the_settings_file_of_a_worker_does_not_set_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the workers' group the sink would take partitions from them."""
    file = tmp_path / "eddy.toml"
    file.write_text('broker = "k1:9092"\ngroup = "workers"\nstart_at = "earliest"\n')
    given: dict[str, object] = {}
    monkeypatch.setenv("EDDY_SINK_URL", "https://hooks.example/S3CRET")
    monkeypatch.setenv("EDDY_GROUP", "workers")
    monkeypatch.setenv("EDDY_START_AT", "earliest")

    def post(webhook: Webhook, form: str, only_opened: bool, most: float, group: str, begins: str, **rest: str) -> None:
        webhook.close()
        given.update(group=group, begins=begins, broker=rest["broker"], form=form, only_opened=only_opened, most=most)

    monkeypatch.setattr("stream.sinks.command.post", post)
    usual = {"group": "eddy-sink-webhook", "begins": "latest", "broker": "k1:9092"}
    for words, form in (
        ([], {"form": "json", "only_opened": False, "most": float("inf")}),
        (["--only-opened"], {"form": "json", "only_opened": True, "most": float("inf")}),
        (["--format", "slack"], {"form": "slack", "only_opened": True, "most": 20}),
        (["--format", "slack", "--every-alert", "--most-per-minute", "3"],
         {"form": "slack", "only_opened": False, "most": 3}),
    ):  # fmt: skip
        done = CliRunner().invoke(sink, ["webhook", "--settings", str(file), *words], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        assert given == usual | form


def test_an_option_of_the_url_precedes_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere. A line end in the file is no part of the URL."""
    found: list[str] = []
    monkeypatch.setattr("stream.sinks.command.post", lambda webhook, *_, **__: found.append(webhook.where))
    file = tmp_path / "url"
    file.write_text("https://file.example/S3CRET\n")
    monkeypatch.setenv("EDDY_SINK_URL_FILE", str(file))
    CliRunner().invoke(sink, ["webhook"], catch_exceptions=False)
    monkeypatch.setenv("EDDY_SINK_URL", "https://variable.example/S3CRET")
    CliRunner().invoke(sink, ["webhook", "--url-file", str(file)], catch_exceptions=False)
    CliRunner().invoke(sink, ["webhook", "--url", "https://option.example/S3CRET"], catch_exceptions=False)
    assert found == ["https://file.example", "https://file.example", "https://option.example"]
