"""An embedded Kafka broker: the mock cluster of librdkafka, which the confluent-kafka wheel contains.

It supports all requests of the worker's transactions and needs no Java. Use it for the demo and for quick tests only:

- It ignores aborts, stores no transactional offsets and does not compact.
- It has no CreateTopics request: the topics are given to the constructor.
- It keeps the last 5 MB of a partition, so a reader must keep up.
- It finds a batch by a linear search from the oldest one, so batches must not be tiny.

The delivery guarantees are tested on a real Kafka. Source: rdkafka_mock.h of librdkafka, which is not part of its
stable interface.
"""

import ctypes
import ctypes.util
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import confluent_kafka

from stream.errors import ConfigError

LAYOUTS = ("../confluent_kafka.libs/librdkafka*.so*", ".dylibs/librdkafka*.dylib", "../.dylibs/librdkafka*.dylib")
"""Paths of the library in the wheels for Linux and macOS, relative to the package's directory."""

PRODUCER = 0
ERROR_BYTES = 512


class EmbeddedBroker:
    """A context manager that runs a broker with the given topics; `address` is its host:port.

    topics  name -> number of partitions
    Raises ConfigError if this installation of confluent-kafka has no librdkafka, or one without the mock cluster.
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._topics = dict(topics)
        self._library = _load()
        self._client: int | None = None
        self.address = ""

    def __enter__(self) -> "EmbeddedBroker":
        library, error = self._library, ctypes.create_string_buffer(ERROR_BYTES)
        conf = library.rd_kafka_conf_new()
        for name, value in (("test.mock.num.brokers", "1"), ("log_level", "3")):
            if library.rd_kafka_conf_set(conf, name.encode(), value.encode(), error, ERROR_BYTES) != 0:
                raise ConfigError(f"embedded broker: {error.value.decode()}; install confluent-kafka again")
        # The broker's thread inherits the mask. Without it, a Ctrl-C that the kernel delivers to this thread ends the
        # broker's poll with EINTR, and the broker with it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            client = library.rd_kafka_new(PRODUCER, conf, error, ERROR_BYTES)  # the client owns conf from here on
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if not client:
            raise ConfigError(f"embedded broker did not start: {error.value.decode()}")
        self._client = client
        cluster = library.rd_kafka_handle_mock_cluster(client)
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)  # default: wait 3 s for more workers
        for topic, partitions in self._topics.items():
            if library.rd_kafka_mock_topic_create(cluster, topic.encode(), partitions, 1) != 0:
                self.__exit__(None, None, None)
                raise ConfigError(f"embedded broker: it did not create topic {topic!r} with {partitions} partitions")
        self.address = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the broker. All its messages are lost."""
        client, self._client = self._client, None
        if client is not None:
            self._library.rd_kafka_destroy(client)


def find_library(package: Path) -> str:
    """Return the path of librdkafka: the package's own library, else the system's.

    package  directory of the installed package confluent_kafka
    Raises ConfigError if neither exists.
    """
    for layout in LAYOUTS:
        found = sorted((package / Path(layout).parent).resolve().glob(Path(layout).name))
        if found:
            return str(found[0])
    system = ctypes.util.find_library("rdkafka")
    if system is None:
        raise ConfigError(
            f"embedded broker: {package} has no librdkafka; install confluent-kafka from its wheel (pip install "
            "--force-reinstall --only-binary :all: confluent-kafka), or use a real Kafka"
        )
    return system


def _load() -> ctypes.CDLL:
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    path = find_library(Path(confluent_kafka.__file__).parent)
    try:
        library = ctypes.CDLL(path)
        for name, result, arguments in (
            ("rd_kafka_conf_new", pointer, []),
            ("rd_kafka_conf_set", number, [pointer, text, text, text, ctypes.c_size_t]),
            ("rd_kafka_new", pointer, [number, pointer, text, ctypes.c_size_t]),
            ("rd_kafka_destroy", None, [pointer]),
            ("rd_kafka_handle_mock_cluster", pointer, [pointer]),
            ("rd_kafka_mock_cluster_bootstraps", text, [pointer]),
            ("rd_kafka_mock_topic_create", number, [pointer, text, number, number]),
            ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, [pointer, ctypes.c_int32]),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as exc:
        raise ConfigError(f"embedded broker: {path} cannot be used ({exc}); install confluent-kafka again") from exc
    return library
