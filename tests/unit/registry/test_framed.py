"""Schemas are fetched once, unknown ones are asked for again, and a registry that is away is no fault of a click."""

import json
import logging
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from stream.errors import BadClick, ConfigError, NoRegistry
from stream.kafka_config import PLAINTEXT, KafkaConfig
from stream.mapping.parse import parse_mapping
from stream.mapping.shape import decoded_shape
from stream.meter import Meter
from stream.registry.client import REMIND_S, Registry, Texts
from stream.registry.framed import UNKNOWN_S, Framed
from stream.wire.json import JsonCodec

SCHEMA = {
    "type": "record",
    "name": "E",
    "fields": [{"name": "u", "type": "string"}, {"name": "i", "type": "int"}, {"name": "t", "type": "long"}],
}
CLICK = b"\0\0\0\0\7" + b"\x02u" + b"\x0a" + b"\x80\xc0\xf7\xc1\x80d"


class Schemas(Registry):
    """A registry with these schemas, which counts the questions."""

    def __init__(self, **schemas: Texts) -> None:
        self.schemas = {int(name[1:]): texts for name, texts in schemas.items()}
        self.asked = 0
        self.away = False

    def schema(self, number: int) -> Texts:
        self.asked += 1
        if self.away:
            raise NoRegistry("away")
        if number not in self.schemas:
            raise BadClick("unknown_schema", f"no schema {number}")
        return self.schemas[number]


AVRO = Texts("avro", json.dumps(SCHEMA), {})


def reason(decode: Framed, value: bytes) -> str:
    with pytest.raises(BadClick) as caught:
        decode(value)
    return caught.value.reason


def test_a_schema_is_fetched_once() -> None:
    """Also one that cannot be used: its messages are dead letters with the reason."""
    registry = Schemas(s7=AVRO, s8=Texts("protobuf", "", {}), s9=Texts("avro", "{}", {}))
    decode = Framed(registry, "avro")
    for _ in range(3):
        assert decode(CLICK)["i"] == 5
        for wrong in (8, 9):
            assert reason(decode, bytes((0, 0, 0, 0, wrong, 0))) == "unusable_schema"
    assert registry.asked == 3


def test_an_unknown_schema_is_asked_for_again_after_a_while() -> None:
    """It may be known a moment later, and a flood of such messages is no flood of requests."""
    now_s = 0.0
    registry = Schemas()
    decode = Framed(registry, "avro", lambda: now_s)
    assert [reason(decode, CLICK) for _ in range(3)] == ["unknown_schema"] * 3
    registry.schemas[7] = AVRO
    assert registry.asked == 1
    now_s = UNKNOWN_S
    assert decode(CLICK)["u"] == "u"


def test_while_the_registry_is_away_no_message_is_refused() -> None:
    """The codec passes it on, so the worker reads the message again. Known schemas need no registry."""
    registry = Schemas(s7=AVRO)
    mapping = parse_mapping('[fields]\nuser_id = "u"\nitem_id = "i"\ntimestamp = "t"', "test")
    codec = JsonCodec(1000, 1000, decoded_shape(mapping.of_topic(), Framed(registry, "avro")))
    registry.away = True
    with pytest.raises(NoRegistry):
        codec.decode(b"u", CLICK, 2**62)
    registry.away = False
    click = codec.decode(b"u", CLICK, 2**62)
    assert (click.user_id, click.item_id) == ("u", "5")
    registry.away = True
    assert codec.decode(b"u", CLICK, 2**62) == click


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"{}", "no_schema_id"),
        (b"\0\0\0", "no_schema_id"),
        (b"\1" + CLICK[1:], "no_schema_id"),
        (CLICK[:-1], "not_of_schema"),
        (CLICK + b"x", "not_of_schema"),
        (CLICK[:5], "not_of_schema"),
    ],
)
def test_bytes_that_are_no_message_are_refused(value: bytes, expected: str) -> None:
    """With a reason of their own."""
    assert reason(Framed(Schemas(s7=AVRO), "avro"), value) == expected


class Answers(BaseHTTPRequestHandler):
    """A server that answers every request with one status."""

    status, body = 500, b'{"message": "no", "error_code": 1}'
    seen: list[str | None] = []  # noqa: RUF012  of one test

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b'{"message": "no", "error_code": 40403}' if self.status == 404 else self.body)

    def log_message(self, *_: Any) -> None:
        pass


PROXY = b"<html>400 Bad Request</html>"


@pytest.mark.parametrize(
    ("status", "body", "unknown"),
    [
        *((status, Answers.body, False) for status in (401, 403, 429, 500, 503)),
        *((status, Answers.body, True) for status in (400, 404, 422)),
        *((status, PROXY, False) for status in (400, 422)),
    ],
)
def test_a_status_is_an_unknown_schema_only_if_the_registry_says_so(
    status: int, body: bytes, unknown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything else is waited for, counted and logged once, without the password. A registry may refuse an id that it
    could never have given: if it were waited for, one such message would stop its partition for ever."""
    server = HTTPServer(("127.0.0.1", 0), type("One", (Answers,), {"status": status, "body": body, "seen": []}))
    Thread(target=server.serve_forever, daemon=True).start()
    config = KafkaConfig({}, {"basic.auth.user.info": "eddy:secret"})
    meter, now_s = Meter(), 0.0
    try:
        registry = Registry(f"http://127.0.0.1:{server.server_port}", config, meter, lambda: now_s)
        with caplog.at_level(logging.WARNING, "stream.registry"):
            for now_s in (0.0, 1.0, REMIND_S + 1):  # noqa: B007
                with pytest.raises(BadClick if unknown else NoRegistry):
                    registry.schema(7)
        failures = 0 if unknown else 3
        assert meter.snapshot().count("registry_failures") == failures
        assert len(caplog.records) == (2 if failures else 0)
        assert "secret" not in caplog.text
        assert server.RequestHandlerClass.seen[0].startswith("Basic ")  # type: ignore[attr-defined]
        if status == 401:
            with pytest.raises(ConfigError, match=r"basic\.auth\.user\.info"):
                registry.check()
    finally:
        server.shutdown()
        server.server_close()


def test_no_server_is_waited_for() -> None:
    """Another program than a worker ends with this line."""
    with pytest.raises(NoRegistry, match="does not answer"):
        Registry("http://127.0.0.1:1", PLAINTEXT).check()
