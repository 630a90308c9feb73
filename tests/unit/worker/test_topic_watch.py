"""A running worker notices that its topics are not what they were."""

import pytest

from stream.errors import ConfigError
from stream.kafka_config import PLAINTEXT
from stream.settings import Topics
from stream.worker.topic_watch import ADDED_CHECKS, Seen, TopicWatch, compare

TOPICS = Topics()
WERE = {"clicks": Seen("A", 4), "eddy-changelog": Seen("B", 4), "anomalies": Seen("C", 4)}


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"clicks": Seen("A", 6)}, "clicks has 6 partitions now, and 4 when.*eddy topics repair`"),
        ({"eddy-changelog": Seen("B", 5)}, "eddy-changelog has 5 partitions now"),
        ({"clicks": Seen("X", 4)}, "clicks was deleted and created again.*eddy topics repair`"),
        ({"eddy-changelog": Seen("X", 4)}, "created again.*repair --accept-lost-rows"),
    ],
)
def test_added_partitions_and_new_topics_are_named(now: dict[str, Seen], words: str) -> None:
    """Each has a line with what changed and the way on."""
    with pytest.raises(ConfigError, match=words):
        compare(WERE, WERE | now, TOPICS)


def test_other_changes_do_not_matter() -> None:
    """Topics that are only written may change, and a broker that does not describe a topic says nothing."""
    compare(WERE, WERE, TOPICS)
    compare(WERE, {}, TOPICS)
    compare({}, WERE, TOPICS)
    compare(WERE, WERE | {"anomalies": Seen("X", 9)}, TOPICS)


def watch(
    monkeypatch: pytest.MonkeyPatch,
    *seen: tuple[dict[str, Seen], set[str]],
    first: dict[str, Seen] = WERE,
    source: str = "",
) -> TopicWatch:
    """A watch that sees these topics and missing topics, one after the other, and `first` at its start."""
    answers = iter([(first, set()), *seen])
    monkeypatch.setattr(TopicWatch, "_describe", lambda self: next(answers))
    monkeypatch.setattr("stream.worker.topic_watch.Admin", lambda *_: None)
    return TopicWatch("broker:1", TOPICS, PLAINTEXT, source)


def test_added_partitions_are_a_warning_before_they_end_the_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A line comes at once, and the worker has some seconds to decide what is in the old partitions."""
    added: tuple[dict[str, Seen], set[str]] = (WERE | {"clicks": Seen("A", 6)}, set())
    watched = watch(monkeypatch, *[added] * ADDED_CHECKS)
    for _ in range(ADDED_CHECKS - 1):
        watched.check()
        assert len(caplog.records) == 1
    with pytest.raises(ConfigError, match="6 partitions now"):
        watched.check()


def test_a_topic_must_be_missing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that has just come up may not know a topic; one that is gone is named with the way on."""
    gone: tuple[dict[str, Seen], set[str]] = ({}, {"clicks"})
    watched = watch(monkeypatch, gone, (WERE, set()), gone, gone)
    for _ in range(3):
        watched.check()
    with pytest.raises(ConfigError, match=r"clicks was deleted.*eddy topics create"):
        watched.check()


def test_a_watch_that_began_in_an_outage_learns_the_topics_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that did not answer at the start does not turn the watch off."""
    again: tuple[dict[str, Seen], set[str]] = (WERE | {"clicks": Seen("other", WERE["clicks"].partitions)}, set())
    watched = watch(monkeypatch, (WERE, set()), again, first={})
    watched.check()
    with pytest.raises(ConfigError, match="created again"):
        watched.check()


def test_the_topic_of_the_producers_is_watched_where_it_is_rekeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its consumer would notice a deletion after minutes, and one that was created again not at all."""
    first = WERE | {"visits": Seen("V", 4)}
    gone: tuple[dict[str, Seen], set[str]] = (WERE, {"visits"})
    watched = watch(monkeypatch, gone, gone, first=first, source="visits")
    watched.check()
    with pytest.raises(ConfigError, match=r"visits was deleted while this worker re-keyed it.* --group clicks,"):
        watched.check()
    again: tuple[dict[str, Seen], set[str]] = (WERE | {"visits": Seen("W", 4)}, set())
    watched = watch(monkeypatch, (first, set()), again, first=first, source="visits")
    watched.check()
    with pytest.raises(ConfigError, match="visits was deleted and created again"):
        watched.check()
