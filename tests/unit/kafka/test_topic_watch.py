"""A running worker notices that its topics are not what they were."""

import pytest

from stream.errors import ConfigError
from stream.kafka.topics import Seen, compare
from stream.settings import Topics

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
