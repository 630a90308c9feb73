"""Which topics a worker accepts and creates, with an admin client that answers as a Kafka does."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation

from stream.errors import ConfigError, NoAnswer
from stream.kafka import topics as kafka_topics
from stream.kafka.topics import (
    DEFAULT_LIMIT,
    FRAME_BYTES,
    LIMIT,
    SMALLEST_LIMIT,
    check_same_partitions,
    check_topics,
    create_topics,
    record_limits,
)
from stream.settings import Topics

TOPICS = Topics()
NAMES = ["clicks", "recommendations", "anomalies", "clicks-dead-letter", "eddy-changelog", "system-alerts", "sessions"]
NAMES += ["triggers"]
BROKER = "broker:9092"


class Future:
    """A future that has its result."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def result(self, timeout: float) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Cluster:
    """A Kafka of one broker: topics with partitions and configurations. Replaces Admin.

    allowed     topic -> what this user may do; everything where it is not named
    refused     what `refusal` says of a broker that does not answer
    """

    def __init__(self, partitions: Mapping[str, int], configs: Mapping[str, dict[str, str]] | None = None) -> None:
        self.partitions = dict(partitions)
        self.configs = {name: dict((configs or {}).get(name, {})) for name in partitions}
        self.created: dict[str, tuple[int, int]] = {}
        self.refuses: dict[str, Exception] = {}
        self.cluster_id = "real"
        self.down = False
        self.asked, self.answers = 0, 1_000  # questions so far, and how many are answered
        self.allowed: dict[str, set[AclOperation]] = {}
        self.refused: ConfigError | None = None

    def refusal(self) -> ConfigError | None:
        return self.refused

    def describe_topics(self, topics: TopicCollection, include_authorized_operations: bool) -> dict[str, Future]:
        everything = {AclOperation.READ, AclOperation.WRITE}
        answers: dict[str, Future] = {}
        for name in topics.topic_names:
            known = Future(SimpleNamespace(authorized_operations=self.allowed.get(name, everything)))
            answers[name] = known if name in self.partitions else Future(failed("UNKNOWN_TOPIC_OR_PART"))
        for name, allowed in self.allowed.items():
            if not allowed:
                answers[name] = Future(failed("TOPIC_AUTHORIZATION_FAILED"))
        return answers

    def described(self, answer_s: float) -> Any:
        self.asked += 1
        if self.down or self.asked > self.answers:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        found = {
            name: SimpleNamespace(partitions=dict.fromkeys(range(count)), error=None)
            for name, count in self.partitions.items()
        }
        return SimpleNamespace(topics=found, cluster_id=self.cluster_id)

    def create_topics(self, new: list[Any], validate_only: bool = False) -> dict[str, Future]:
        answers = {}
        for topic in new:
            if topic.topic in self.refuses:
                answers[topic.topic] = Future(self.refuses[topic.topic])
                continue
            if validate_only:
                answers[topic.topic] = Future(None)
                continue
            self.partitions[topic.topic] = topic.num_partitions
            self.configs[topic.topic] = dict(topic.config)
            self.created[topic.topic] = (topic.num_partitions, topic.replication_factor)
            answers[topic.topic] = Future(None)
        return answers

    def describe_configs(self, resources: list[Any]) -> dict[Any, Future]:
        defaults = {"cleanup.policy": "delete", LIMIT: str(DEFAULT_LIMIT)}
        answers = {}
        for resource in resources:
            if resource.name in self.refuses:
                answers[resource] = Future(self.refuses[resource.name])
                continue
            config = defaults | self.configs[resource.name]
            answers[resource] = Future({name: SimpleNamespace(value=value) for name, value in config.items()})
        return answers


def limits(topics: Topics, longest_row: int) -> dict[str, int]:
    """The limits of a worker that may run with these topics."""
    return record_limits(topics, check_topics(BROKER, topics).configs, longest_row)


def failed(name: str) -> KafkaException:
    return KafkaException(KafkaError(getattr(KafkaError, name)))


def cluster(monkeypatch: pytest.MonkeyPatch, partitions: Mapping[str, int], **configs: dict[str, str]) -> Cluster:
    made = Cluster(partitions, {"eddy-changelog": {"cleanup.policy": "compact"}, **configs})
    monkeypatch.setattr(kafka_topics, "Admin", lambda broker, config: made)
    return made


def whole(count: int = 4) -> dict[str, int]:
    return dict.fromkeys(NAMES, count)


def test_a_complete_set_of_topics_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every topic with its partitions; only the changelog must have as many as the clicks topic."""
    cluster(monkeypatch, {**whole(), "recommendations": 9, "another application's": 1})
    assert check_topics(BROKER, TOPICS).partitions == {**whole(), "recommendations": 9}


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_topic_is_named_with_the_command_that_creates_it(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """A worker creates no topics: with a wrong --broker they would be on a different Kafka."""
    made = cluster(monkeypatch, {name: 4 for name in NAMES if name != missing})
    with pytest.raises(ConfigError, match=rf"no topic {missing} on {BROKER}.*eddy topics create"):
        check_topics(BROKER, TOPICS)
    assert made.created == {}


def test_a_mistyped_topic_is_refused_with_the_nearest_one_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """`eddy topics create` would make a new topic, empty for ever."""
    cluster(monkeypatch, {**whole(), "click-events": 4})
    words = r"no topic click-evnets on .*; did you mean 'click-events'\? Else create .* --clicks-topic click-evnets`"
    with pytest.raises(ConfigError, match=words):
        check_topics(BROKER, msgspec.structs.replace(TOPICS, clicks="click-evnets"))


def test_a_worker_without_triggers_needs_no_topic_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of an earlier version has none."""
    cluster(monkeypatch, {name: 4 for name in NAMES if name != "triggers"})
    assert check_topics(BROKER, TOPICS.used("")).partitions.keys() == {*NAMES} - {"triggers"}
    assert "triggers" not in limits(TOPICS.used(""), 1_000)
    with pytest.raises(ConfigError, match="no topic triggers"):
        check_topics(BROKER, TOPICS.used("triggers.toml"))


def test_the_topic_of_hours_is_needed_where_it_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker writes it only with --behaviour-topic; `eddy topics create` with this option creates it."""
    made = cluster(monkeypatch, dict.fromkeys(NAMES, 4))
    assert "" not in check_topics(BROKER, TOPICS).partitions
    named = msgspec.structs.replace(TOPICS, behaviour="hours")
    with pytest.raises(ConfigError, match="no topic hours"):
        check_topics(BROKER, named)
    assert create_topics(BROKER, named, 4, 1)["hours"] == "created, 4 partitions"
    assert set(made.created) == {"hours"}
    assert "hours" in limits(named, 1_000)


def test_a_changelog_with_a_different_number_of_partitions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partition p of the changelog has the users of partition p of the clicks, so the numbers must be equal."""
    cluster(monkeypatch, {**whole(4), "eddy-changelog": 8})
    with pytest.raises(ConfigError, match=r"has 8 partitions, clicks has 4.*eddy topics repair"):
        check_same_partitions(check_topics(BROKER, TOPICS).partitions, TOPICS)


@pytest.mark.parametrize(("policy", "fits"), [("compact", True), ("delete", False), ("compact,delete", False)])
def test_a_changelog_that_deletes_by_age_is_refused(monkeypatch: pytest.MonkeyPatch, policy: str, fits: bool) -> None:
    """Kafka would delete states after a week: the error has the command that prevents it."""
    made = cluster(monkeypatch, whole())
    made.configs["eddy-changelog"]["cleanup.policy"] = policy
    if fits:
        assert check_topics(BROKER, TOPICS).partitions == whole()
        return
    with pytest.raises(ConfigError, match=rf"cleanup\.policy={policy}.*kafka-configs\.sh"):
        check_topics(BROKER, TOPICS)


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_compacted_dead_letters_are_refused(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    """Kafka would refuse the letter of a message without a key, and the stream would stop at it."""
    cluster(monkeypatch, whole(), **{"clicks-dead-letter": {"cleanup.policy": policy}})
    with pytest.raises(
        ConfigError, match=r"without a key.*--topic clicks-dead-letter --add-config cleanup\.policy=del"
    ):
        check_topics(BROKER, TOPICS)


def test_compacted_clicks_are_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Clicks that compaction removes before they are read cannot be counted. Other compacted topics are no concern."""
    cluster(monkeypatch, whole(), recommendations={"cleanup.policy": "compact"})
    check_topics(BROKER, TOPICS)
    assert not caplog.messages
    cluster(monkeypatch, whole(), clicks={"cleanup.policy": "compact,delete"})
    check_topics(BROKER, TOPICS)
    assert [message.split(":")[0] for message in caplog.messages] == ["the clicks topic is compacted"]


@pytest.mark.parametrize("name", ["recommendations", "anomalies", "clicks-dead-letter", "system-alerts", "sessions"])
@pytest.mark.parametrize(("limit", "fits"), [(SMALLEST_LIMIT, True), (SMALLEST_LIMIT - 1, False)])
def test_a_topic_with_a_limit_too_small_for_its_events_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: int, fits: bool
) -> None:
    """The start is refused, with the limit that is needed, instead of a failure at the first large event."""
    made = cluster(monkeypatch, whole())
    made.configs[name][LIMIT] = str(limit)
    if fits:
        check_topics(BROKER, TOPICS)
        return
    with pytest.raises(ConfigError, match=rf"--topic {name} --add-config {LIMIT}={SMALLEST_LIMIT}"):
        check_topics(BROKER, TOPICS)


def test_no_broker_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address and the error's name, with the two usual causes."""
    made = cluster(monkeypatch, whole())
    made.down = True
    for call in (lambda: check_topics(BROKER, TOPICS), lambda: create_topics(BROKER, TOPICS, 4, 1)):
        with pytest.raises(ConfigError, match=rf"no Kafka answers at {BROKER}.*_TRANSPORT"):
            call()


def test_an_outage_between_two_questions_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker waits after NoAnswer, whichever question was the last one that Kafka answered."""
    made = cluster(monkeypatch, whole())
    for call in (lambda: check_topics(BROKER, TOPICS), lambda: limits(TOPICS, 5_000)):
        made.asked, made.answers = 0, 1_000
        call()
        questions = made.asked
        for answers in range(questions):
            made.asked, made.answers = 0, answers
            with pytest.raises(NoAnswer, match="_TRANSPORT"):
                call()


def test_only_what_is_missing_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    """Existing topics stay as they are, and the result shows which are new."""
    made = cluster(monkeypatch, {"anomalies": 7})
    done = create_topics(BROKER, TOPICS, partitions=4, replication=3)
    assert done["anomalies"] == "exists, 7 partitions"
    assert done["clicks"] == "created, 4 partitions"
    assert made.created == {name: (4, 3) for name in NAMES if name != "anomalies"}
    assert made.configs["clicks"] == {}
    assert made.configs["eddy-changelog"]["cleanup.policy"] == "compact"
    assert create_topics(BROKER, TOPICS, 4, 3) == {
        name: f"exists, {n} partitions" for name, n in made.partitions.items()
    }


def test_a_new_changelog_has_the_partitions_of_the_existing_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the clicks topic exists, its number of partitions is used instead of the command line's."""
    made = cluster(monkeypatch, {"clicks": 12})
    create_topics(BROKER, TOPICS, partitions=4, replication=1)
    assert made.created["eddy-changelog"] == (12, 1)
    assert made.created["recommendations"] == (4, 1)


def test_a_mistyped_name_is_not_created(monkeypatch: pytest.MonkeyPatch) -> None:
    """The changelog is there and has other partitions: nothing is created before that is said."""
    made = cluster(monkeypatch, {"eddy-changelog": 4})
    with pytest.raises(ConfigError, match=r"they must be equal\. Is one of the names mistyped"):
        create_topics(BROKER, TOPICS, partitions=7, replication=1)
    assert not made.created


def test_a_topic_that_is_created_at_the_same_time_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two deployments that start at the same time do not fail."""
    made = cluster(monkeypatch, {name: 4 for name in NAMES if name != "clicks"})
    admin = made.create_topics

    def overtaken(new: list[Any], validate_only: bool = False) -> dict[str, Future]:
        admin(new, validate_only)
        return {topic.topic: Future(KafkaException(KafkaError(KafkaError.TOPIC_ALREADY_EXISTS))) for topic in new}

    monkeypatch.setattr(made, "create_topics", overtaken)
    assert create_topics(BROKER, TOPICS, 4, 1)["clicks"] == "created, 4 partitions"


def test_one_broker_that_knows_the_new_topics_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers learn of a topic one after the other, and each question may go to another one."""
    made = cluster(monkeypatch, {})
    answer = made.described

    def alternate(answer_s: float) -> Any:
        found = answer(answer_s)
        return found if made.asked % 2 else SimpleNamespace(topics={}, cluster_id=made.cluster_id)

    monkeypatch.setattr(made, "described", alternate)
    assert create_topics(BROKER, TOPICS, 4, 1) == dict.fromkeys(NAMES, "created, 4 partitions")


def test_a_topic_that_may_not_be_created_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has Kafka's own reason."""
    made = cluster(monkeypatch, {})
    made.refuses["clicks"] = KafkaException(KafkaError(KafkaError.POLICY_VIOLATION, "not by you"))
    with pytest.raises(ConfigError, match="topic clicks could not be created: not by you"):
        create_topics(BROKER, TOPICS, 4, 1)


def test_record_limits_are_those_of_the_topics_that_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of key and value together is the topic's limit without Kafka's headers; the clicks topic is only
    read."""
    made = cluster(monkeypatch, whole())
    made.configs["anomalies"][LIMIT] = "20000"
    assert limits(TOPICS, 5_000) == dict.fromkeys(NAMES[1:], DEFAULT_LIMIT - FRAME_BYTES) | {
        "anomalies": 20_000 - FRAME_BYTES
    }


def test_state_rows_that_do_not_fit_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row cannot be cut: the error has the smallest limit that is enough, and one byte more does not fit."""
    made = cluster(monkeypatch, whole())
    made.configs["eddy-changelog"][LIMIT] = "6000"
    assert limits(TOPICS, 6_000 - FRAME_BYTES)["eddy-changelog"] == 6_000 - FRAME_BYTES
    with pytest.raises(ConfigError, match=rf"{LIMIT}=6000: .* need 6001; .*--add-config {LIMIT}=6001"):
        limits(TOPICS, 6_001 - FRAME_BYTES)


def test_without_permission_to_read_a_configuration_kafkas_default_is_assumed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker without this permission still starts; the log names the topic that was not checked."""
    made = cluster(monkeypatch, whole())
    made.refuses["eddy-changelog"] = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    made.configs["eddy-changelog"]["cleanup.policy"] = "delete"
    found = check_topics(BROKER, TOPICS)
    assert found.partitions == whole()
    assert record_limits(TOPICS, found.configs, 5_000)["eddy-changelog"] == DEFAULT_LIMIT - FRAME_BYTES
    [record] = caplog.records
    assert "topics=eddy-changelog" in record.getMessage()


def test_librdkafkas_embedded_broker_is_not_asked_for_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never answers, so the demo would wait for seconds at its start."""
    made = cluster(monkeypatch, whole())
    made.cluster_id = "mockCluster42"

    def ask(resources: list[Any]) -> dict[Any, Future]:
        raise AssertionError("asked")

    monkeypatch.setattr(made, "describe_configs", ask)
    assert check_topics(BROKER, TOPICS).partitions == whole()
    assert set(limits(TOPICS, 5_000).values()) == {DEFAULT_LIMIT - FRAME_BYTES}


def test_every_missing_right_on_a_topic_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator adds all ACLs in one go; a topic that may not even be seen lacks every right."""
    made = cluster(monkeypatch, whole())
    made.allowed = {"clicks": set(), "recommendations": {AclOperation.READ}, "eddy-changelog": {AclOperation.WRITE}}
    with pytest.raises(ConfigError, match=r"READ on clicks, WRITE on recommendations, READ on eddy-changelog; add"):
        check_topics(BROKER, TOPICS)


def test_every_right_that_a_creation_lacks_is_named_before_the_first_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """CREATE on some topics and DESCRIBE on others: one error has all of them, and nothing is created."""
    made = cluster(monkeypatch, {"anomalies": 4})
    made.refuses = {name: failed("TOPIC_AUTHORIZATION_FAILED") for name in ("clicks", "sessions")}
    made.allowed = {"clicks": set(), "triggers": set()}
    lacking = "CREATE on clicks, CREATE on sessions, DESCRIBE on clicks, DESCRIBE on triggers"
    with pytest.raises(ConfigError, match=rf"lacks rights on topics: {lacking} \(CREATE on the cluster"):
        create_topics(BROKER, TOPICS, 4, 1)
    assert made.created == {}


def test_a_broker_that_refuses_is_not_called_one_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password needs another remedy than a broker that is down."""
    made = cluster(monkeypatch, whole())
    made.down, made.refused = True, ConfigError("wrong password")
    with pytest.raises(ConfigError, match="wrong password"):
        check_topics(BROKER, TOPICS)


def test_rights_topics_and_limits_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that may not be seen is not called a missing one, and what can be seen is checked."""
    made = cluster(monkeypatch, {name: count for name, count in whole().items() if name not in ("clicks", "sessions")})
    made.allowed = {"clicks": set()}
    with pytest.raises(ConfigError) as raised:
        check_topics(BROKER, TOPICS)
    assert str(raised.value).startswith("2 reasons: (1) this user lacks rights on topics: READ on clicks; add")
    assert "; (2) no topic sessions on " in str(raised.value)
