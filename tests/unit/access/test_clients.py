"""Every Kafka client of a process goes through one place, or it would know nothing of TLS."""

import logging
import re
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from stream.access.credentials import connect
from stream.access.refusal import SILENT_S, Admin
from stream.kafka_config import PLAINTEXT

ROOT = Path(__file__).parents[3]
MAKES_A_CLIENT = re.compile(r"\b(?:Producer|Consumer|AdminClient)\(\s*\{|bootstrap[._]servers")


@pytest.mark.parametrize(
    "path",
    [p for room in ("stream", "export") for p in sorted((ROOT / room).rglob("*.py"))] + [ROOT / "bench" / "readers.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_other_file_makes_a_kafka_client(path: Path) -> None:
    """Only stream/access/credentials.py does, and the demo, whose embedded broker has no TLS."""
    name = str(path.relative_to(ROOT))
    if name == "stream/access/credentials.py" or name.startswith("stream/demo/"):
        return
    if name == "stream/kafka_config.py":  # refuses bootstrap.servers
        return
    assert not MAKES_A_CLIENT.search(path.read_text()), name


def test_what_a_client_logs_itself_goes_through_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """librdkafka would write to the terminal, past the format and the filters of the log."""
    own = {"log_level": 7, "debug": "conf", "error_cb": lambda error: None}
    producer = connect(Producer, "127.0.0.1:9", PLAINTEXT, own)
    with caplog.at_level(logging.DEBUG, "librdkafka"):
        while not caplog.records:
            producer.poll(0.1)
    assert {record.name for record in caplog.records} == {"librdkafka"}


@pytest.mark.parametrize(("gives_up", "most"), [(True, "6"), (False, "unlimited")])
def test_a_client_without_a_first_answer_says_soon_and_once_what_it_waits_for(
    gives_up: bool, most: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The line comes before the limit of the question, and the limit is not longer for it."""
    admin, limits_s = Admin("127.0.0.1:9", PLAINTEXT), []

    def silent(timeout: float) -> None:
        limits_s.append((timeout, len(caplog.records)))
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    monkeypatch.setattr(admin, "list_topics", silent)
    for _ in range(2):
        with pytest.raises(KafkaException):
            admin.described(6.0, gives_up)
    assert limits_s == [(SILENT_S, 0), (6.0 - SILENT_S, 1), (6.0, 1)]
    line = f"Kafka does not answer yet, Eddy waits for it: broker=127.0.0.1:9 most_s={most}"
    assert caplog.messages == [line]
