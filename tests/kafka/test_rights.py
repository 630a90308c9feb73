"""The ACL table of docs/security.md: a worker needs each of its rights and no other."""

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic, ResourceType

from stream.access.messages import read_messages, span_of
from stream.access.rights import check_rights
from stream.errors import ConfigError
from stream.kafka import topics as kafka_topics
from stream.kafka.topics import check_topics, create_topics
from stream.kafka.waiting import KafkaWatch
from stream.kafka_config import KafkaConfig
from stream.rekey.topic import check_all, create
from stream.settings import Settings, Topics, variable
from stream.sinks.source import Source
from stream.worker.checks import check_cluster
from tests.kafka.apicurio import Running
from tests.kafka.lane import ROOT, bot, clicks, fault, trigger_file
from tests.kafka.secured import FIELDS, KINDS, RIGHTS, Cluster, Right, Secure, properties, refusal, written
from tests.receiver import Receiver, alert


def test_a_missing_right_on_a_topic_is_named_before_the_start(secure: Secure, cluster: Cluster) -> None:
    """Each row of the table that is about a topic, taken away alone, is the one that the line names."""
    on_topics = [right for right in RIGHTS if right.kind == "topic"]
    assert len(on_topics) == 10
    config = KafkaConfig(properties(cluster, "PLAIN"))
    secure.grant(RIGHTS)
    assert len(check_topics(cluster.kafka.sasl, secure.topics, config).partitions) == 9
    for right in on_topics:
        secure.revoke(right)
        lacking = f"lacks rights on topics: {right.operation} on {secure.binding(right).name}; add the ACLs"
        with pytest.raises(ConfigError, match=lacking):
            check_topics(cluster.kafka.sasl, secure.topics, config)
        secure.grant([right])


def test_all_that_a_worker_may_not_do_is_one_line_before_it_joins(secure: Secure, cluster: Cluster) -> None:
    """On topics, group and transactional id. Without READ on the group, aiokafka would ask for it without end."""
    secure.grant([right for right in RIGHTS if right.kind == "topic" and right.name != "sessions"])
    config = written(secure.directory / "c", properties(cluster, "PLAIN"))
    line = refusal(secure.start(broker=cluster.kafka.sasl, kafka_config=config, worker_id="a"))
    of_id = f"on transactional ids: WRITE on {secure.name}:a; add the ACLs"
    lacking = f"on topics: WRITE on {secure.topics.sessions}; on consumer groups: READ on {secure.name}; {of_id}"
    assert f"this user lacks rights {lacking}" in line
    secure.grant([Right("topic", "sessions", "WRITE")])
    line = refusal(secure.start(broker=cluster.kafka.sasl, kafka_config=config, worker_id="a"))
    assert f"this user lacks rights on consumer groups: READ on {secure.name}; {of_id}" in line


def test_a_user_without_any_right_is_refused_with_the_whole_table(secure: Secure, cluster: Cluster) -> None:
    """The first start on a secured cluster: every topic is hidden from the user, so no configuration is asked for."""
    config = written(secure.directory / "c", properties(cluster, "PLAIN"))
    line = refusal(secure.start(broker=cluster.kafka.sasl, kafka_config=config, worker_id="a"))
    for right in RIGHTS:
        if right.kind == "topic" and right.name not in ("triggers", "behaviour"):
            assert f"{right.operation} on {secure.binding(right).name}" in line
    assert f"on consumer groups: READ on {secure.name}; on transactional ids: WRITE on {secure.name}:a; add" in line


def test_a_missing_right_on_the_transactional_id_is_refused_before_the_worker_joins(
    secure: Secure, cluster: Cluster
) -> None:
    """The group does not wait for a worker that cannot write. DESCRIBE, which a coordinator asks for, is not enough."""
    secure.grant([right for right in RIGHTS if right.kind != "transactional id"])
    secure.allow(ResourceType.TRANSACTIONAL_ID, f"{secure.name}:a", "DESCRIBE")
    config = written(secure.directory / "c", properties(cluster, "PLAIN"))
    worker = secure.start(broker=cluster.kafka.sasl, kafka_config=config, log_format="json", worker_id="a")
    line = json.loads(refusal(worker))["message"]
    assert f"this user lacks rights on transactional ids: WRITE on {secure.name}:a; add the ACLs" in line
    assert "ready to join" not in worker.log
    assert not [line for line in worker.log.splitlines() if json.loads(line)["logger"] == "librdkafka"]


@pytest.mark.parametrize("how", ["PLAIN", "certificate"])
def test_the_question_about_a_transactional_id_fences_nobody(secure: Secure, cluster: Cluster, how: str) -> None:
    """A producer with this id goes on with its transaction; and an id that nobody has used is not created."""
    secure.grant(RIGHTS)
    address = cluster.kafka.tls if how == "certificate" else cluster.kafka.sasl
    config, used, unused = KafkaConfig(properties(cluster, how)), f"{secure.name}:a", f"{secure.name}:b"
    own = {"bootstrap.servers": address, **config.properties, "transactional.id": used, "log_level": 0}
    producer = Producer(own)
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(secure.topics.anomalies, b"before")
    producer.flush(20)
    check_topics(address, secure.topics, config, secure.name, ids=(used, unused))
    producer.produce(secure.topics.anomalies, b"after")
    producer.commit_transaction(20)
    assert {message.value() for message in secure.read(secure.topics.anomalies)} == {b"before", b"after"}
    with pytest.raises(ConfigError, match=r"on transactional ids: WRITE on other:1, WRITE on other:2; add the ACLs"):
        check_topics(address, secure.topics, config, secure.name, ids=(used, "other:1", "other:2"))


@pytest.mark.parametrize("right", [r for r in RIGHTS if (r.name, r.operation) != ("eddy-changelog", "READ")], ids=str)
def test_each_right_is_needed_while_the_worker_runs(secure: Secure, cluster: Cluster, right: Right) -> None:
    """A right taken away later ends the worker with one line; so the table has no row that only the start asks for.

    The changelog is read at recovery only.
    """
    secure.grant(RIGHTS)
    config = written(secure.directory / "c", properties(cluster, "PLAIN"))
    secure.produce(clicks(50, seed=1))
    triggers = trigger_file(secure.directory)
    worker = secure.start(broker=cluster.kafka.sasl, kafka_config=config, alpha=0.5, triggers=triggers)
    secure.wait_for_clicks()
    secure.revoke(right)
    secure.produce([*fault(), *bot(), (b"u", b"no click")])
    assert re.search(r"^eddy: (Kafka does not allow it: )?this user lacks", refusal(worker))


def test_every_right_that_topics_create_lacks_is_named_at_once(secure: Secure, cluster: Cluster) -> None:
    """An operator adds all ACLs in one go; meanwhile no topic is created. With the ACLs that it names, it succeeds."""
    config = KafkaConfig(properties(cluster, "PLAIN"))
    new = {field: f"{secure.name}-new-{field.replace('_', '-')}" for field in FIELDS.values()}
    topics, names = Topics(**new), sorted(new.values())
    visible = names[3]
    secure.allow(KINDS["topic"], visible, "DESCRIBE")
    with pytest.raises(ConfigError) as raised:
        create_topics(cluster.kafka.sasl, topics, 4, 1, config)
    named = re.findall(r"(CREATE|DESCRIBE) on (\S+?)[, ]", str(raised.value).split("(")[0])
    wanted = [("CREATE", name) for name in names] + [("DESCRIBE", name) for name in names if name != visible]
    assert named == wanted
    assert not cluster.admin.list_topics(timeout=10).topics.keys() & set(names)
    for operation, name in named:
        secure.allow(KINDS["topic"], name, operation)
    assert create_topics(cluster.kafka.sasl, topics, 4, 1, config).keys() == set(names)


def test_the_rights_of_re_keying_are_named_by_the_check(secure: Secure, cluster: Cluster, tmp_path: Path) -> None:
    """`eddy topics check --mapping` looks at the source and the copy, too; `create` names the right that it lacks."""
    mapping = tmp_path / "shop.toml"
    mapping.write_text('[fields]\nuser_id="u"\nitem_id="i"\ntimestamp="t"\n[key]\nholds="other"\nrekey=true\n')
    clicks_topic, config = secure.topics.clicks, KafkaConfig(properties(cluster, "PLAIN"))
    secure.grant(RIGHTS)
    with pytest.raises(ConfigError, match=f"CREATE on {clicks_topic}-by-user, DESCRIBE on {clicks_topic}-by-user "):
        create(cluster.kafka.sasl, secure.topics, str(mapping), 4, 1, config)
    create(cluster.kafka.address, secure.topics, str(mapping), 4, 1)
    secure.revoke(Right("topic", "clicks", "READ"))
    secure.grant([Right("topic", "clicks", "DESCRIBE")])
    copy = f"{clicks_topic}-by-user"
    secure.allow(KINDS["topic"], copy, "READ")
    with pytest.raises(ConfigError, match=f"lacks rights on topics: READ on {clicks_topic}, .*WRITE on {copy}"):
        check_all(cluster.kafka.sasl, secure.topics, str(mapping), config)
    found = check_all(cluster.kafka.address, secure.topics, str(mapping))
    assert (found[copy], clicks_topic in found) == (4, False)


def test_a_worker_that_re_keys_names_all_missing_rights_at_once(
    secure: Secure, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the copying, too: its topic, group and transactional id. Kafka is asked once."""
    source, copy = secure.topics.clicks, f"{secure.topics.clicks}-by-user"
    cluster.admin.create_topics([NewTopic(copy, 4, 1)])[copy].result()
    secure.grant([right for right in RIGHTS if right.name != "clicks" and right.kind == "topic"])
    secure.allow(KINDS["topic"], source, "DESCRIBE")
    secure.allow(KINDS["topic"], copy, "READ")
    topics = msgspec.structs.replace(secure.topics, clicks=copy)
    settings = Settings(model="m", broker=cluster.kafka.sasl, group=secure.name, topics=topics)
    config, watch = KafkaConfig(properties(cluster, "PLAIN")), cast(KafkaWatch, SimpleNamespace(wait=lambda: None))
    asked: list[Any] = []
    monkeypatch.setattr(kafka_topics, "check_rights", lambda *given: asked.append(check_rights(*given)))
    with pytest.raises(ConfigError) as refused:
        check_cluster(settings, source, "a", config, watch, 1_000, carries=False)
    lacking = str(refused.value)
    assert f"on topics: READ on {source}, WRITE on {copy}; " in lacking
    assert f"on consumer groups: READ on {secure.name}, READ on {copy}; " in lacking
    assert f"on transactional ids: WRITE on {secure.name}:a, WRITE on {secure.name}:a:rekey; add the ACLs" in lacking
    secure.grant([right for right in RIGHTS if right.kind != "topic" or right.name == "clicks"])
    secure.allow(KINDS["topic"], copy, "WRITE")
    secure.allow(KINDS["group"], copy, "READ")
    assert check_cluster(settings, source, "a", config, watch, 1_000, carries=False)[0] == 4
    assert len(asked) == 1  # nothing is in it of the call before, which raised


def test_without_describe_configs_a_worker_warns_and_works(secure: Secure, cluster: Cluster) -> None:
    """The optional right: its absence costs a check, and a log line says so."""
    secure.grant(RIGHTS)
    config = written(secure.directory / "c", properties(cluster, "PLAIN"))
    worker = secure.start(broker=cluster.kafka.sasl, kafka_config=config)
    worker.wait_for("partitions recovered")
    warned = [line for line in worker.log.splitlines() if "configuration of topics could not be read" in line]
    assert len(warned) == 1, worker.log
    assert all(topic in warned[0] for topic in secure.topics.used(triggers="").names())
    assert "the right DESCRIBE_CONFIGS" in warned[0]
    assert worker.end(signal.SIGTERM) == 0


def test_a_reader_beside_a_worker_needs_read_on_its_topic_and_no_group(secure: Secure, cluster: Cluster) -> None:
    """`eddy init`, `record`, `explain`, `dead-letters` and most sinks join no group; librdkafka asks for one anyway."""
    secure.produce(clicks(50, seed=1))
    topic, read = secure.topics.clicks, Right("topic", "clicks", "READ")
    config = KafkaConfig(properties(cluster, "PLAIN"))
    secure.grant([Right("topic", "clicks", "DESCRIBE")])
    with pytest.raises(ConfigError, match=f"lacks the right READ on topic {topic}"):
        list(read_messages(cluster.kafka.sasl, topic, config))
    secure.grant([read])
    assert len(list(read_messages(cluster.kafka.sasl, topic, config))) == 50
    span = span_of(cluster.kafka.sasl, topic, config)
    assert len(list(read_messages(cluster.kafka.sasl, topic, config, span=span))) == 50
    source = Source(cluster.kafka.sasl, [topic], config, Event())
    source.look()
    source.seek({})
    taken = 0
    while not source.ended:
        taken += len(source.take(100, 0.5))
    source.close()
    assert taken == 50


COMMANDS = {
    "explain": ["READ anomalies", "READ system-alerts"],
    "explain --user u": ["READ anomalies"],
    "feedback i true": ["READ anomalies", "WRITE feedback"],
    "feedback i true --quiet 1h": ["READ anomalies", "WRITE clicks", "WRITE feedback"],
    "calibrate": ["READ feedback", "READ anomalies"],
    "dead-letters --publish": ["READ clicks-dead-letter", "READ clicks", "WRITE clicks"],
    "triggers report": ["READ triggers", "READ sessions"],
    "sink redis --url redis://127.0.0.1:9": ["READ recommendations", "READ anomalies"],
    "sink postgres --url postgresql://127.0.0.1:9/shop": ["READ recommendations", "READ anomalies"],
    "sink parquet --directory none --topics sessions,anomalies": ["READ sessions", "READ anomalies"],
}
"""Command -> the rights that it needs."""

ENDS = {0: "", 2: "no alert on a user has the id 'i'"}
"""Exit code of a command that has its rights, on empty topics -> words of its line."""


def environ(secure: Secure, cluster: Cluster) -> dict[str, str]:
    """The variables of a command that comes as the user eddy, to the topics of the test."""
    topics = {**msgspec.structs.asdict(secure.topics), "feedback": f"{secure.name}-feedback"}
    connection = {
        "broker": cluster.kafka.sasl,
        "kafka_config": str(written(secure.directory / "c", properties(cluster, "PLAIN"))),
    }
    return {variable(f"{field}_topic"): name for field, name in topics.items()} | {
        variable(name): value for name, value in connection.items()
    }


def eddy(variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stream.ops.cli", *words]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_command_names_all_rights_that_it_lacks_in_one_line(secure: Secure, cluster: Cluster) -> None:
    """Beside a worker, too: before the first message is read. With these rights it needs no other."""
    feedback = f"{secure.name}-feedback"
    cluster.admin.create_topics([NewTopic(feedback, 2, 1)])[feedback].result()
    names = {name: getattr(secure.topics, field) for name, field in FIELDS.items()} | {"feedback": feedback}
    variables = environ(secure, cluster)
    with ThreadPoolExecutor(3) as pool:
        ended = dict(zip(COMMANDS, pool.map(lambda words: eddy(variables, *words.split()), COMMANDS), strict=True))
    for words, needed in COMMANDS.items():
        rights = ", ".join(f"{operation} on {names[name]}" for operation, name in map(str.split, needed))
        hidden = ", ".join(dict.fromkeys(names[right.split()[1]] for right in needed))
        line = f"eddy: this user lacks rights on topics: {rights}; add the ACLs of docs/security.md (kafka-acls.sh), "
        line += f"or there is no such topic ({hidden}): without a right on a topic Kafka hides it"
        said = ended[words].stderr.strip().split("; did you mean")[0]  # a topic of another test
        assert (said, ended[words].returncode) == (line, 2), words
    for right in {right for needed in COMMANDS.values() for right in needed}:
        operation, name = right.split()
        secure.allow(ResourceType.TOPIC, names[name], operation)
    reading = [words for words in COMMANDS if not words.startswith("sink")]
    with ThreadPoolExecutor(3) as pool:
        for words, done in zip(reading, pool.map(lambda words: eddy(variables, *words.split()), reading), strict=True):
            assert ENDS[done.returncode] in done.stderr, (words, done.stderr)
            assert done.returncode == 2 * words.startswith("feedback"), (words, done.stderr)


def test_a_mistyped_topic_may_be_a_missing_right_or_a_topic_that_does_not_exist(
    secure: Secure, cluster: Cluster
) -> None:
    """Kafka does not say which it is. A similar topic on which this user has a right is named."""
    secure.grant(RIGHTS)
    secure.allow(ResourceType.TOPIC, secure.topics.anomalies, "READ")
    variables, mistyped = environ(secure, cluster), f"{secure.topics.anomalies}s"
    rights = "READ on {}; add the ACLs of docs/security.md (kafka-acls.sh), or there is no such topic ({}): "
    for words in ("explain --user u", "sink parquet --directory none --topics anomalies"):
        done = eddy({**variables, variable("anomalies_topic"): mistyped}, *words.split())
        assert rights.format(mistyped, mistyped) in done.stderr, done.stderr
        assert f"hides it; did you mean {secure.topics.anomalies!r} by {mistyped!r}?" in done.stderr, done.stderr
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
    secure.revoke(Right("topic", "clicks", "READ"))
    secure.allow(ResourceType.TOPIC, secure.topics.clicks, "DESCRIBE")
    with pytest.raises(ConfigError) as refused:
        check_topics(cluster.kafka.sasl, secure.topics, KafkaConfig(properties(cluster, "PLAIN")))
    assert f"READ on {secure.topics.clicks}; add" in str(refused.value)
    assert "no such topic" not in str(refused.value)  # it is seen


def test_a_sink_in_avro_needs_the_rights_of_its_rows_and_no_other(
    secure: Secure, cluster: Cluster, registry: Running
) -> None:
    """On its source, its topic, and on the group and the transactional id of the same name; it names all at once."""
    source, topic = secure.topics.recommendations, f"{secure.topics.recommendations}-avro"
    words = ["sink", "avro", "--topics", "recommendations", "--schema-registry", registry.url, "--once", "--json"]
    variables = environ(secure, cluster)
    of_topics = f"on topics: READ on {source}, READ on {topic}, WRITE on {topic}"
    of_others = f"on consumer groups: READ on {topic}; on transactional ids: WRITE on {topic}"
    done = eddy(variables, *words, "--create")
    assert f"(1) this user lacks rights {of_topics}; {of_others}; add the ACLs" in done.stderr
    assert f"(2) this user lacks rights on topics: CREATE on {topic}, DESCRIBE on {topic} (" in done.stderr
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
    assert topic not in cluster.admin.list_topics(timeout=10).topics
    cluster.admin.create_topics([NewTopic(topic, 2, 1)])[topic].result()
    for kind, name, operation, lacking in (
        (ResourceType.TOPIC, source, "READ", of_topics),
        (ResourceType.TOPIC, topic, "READ", f"on topics: READ on {topic}, WRITE on {topic}"),
        (ResourceType.TOPIC, topic, "WRITE", f"on topics: WRITE on {topic}"),
        (ResourceType.GROUP, topic, "READ", f"lacks rights {of_others}"),
        (ResourceType.TRANSACTIONAL_ID, topic, "WRITE", f"lacks rights on transactional ids: WRITE on {topic}; add"),
    ):
        done = eddy(variables, *words)
        assert (done.returncode, lacking in done.stderr) == (2, True), done.stderr
        secure.allow(kind, name, operation)
    producer = Producer({"bootstrap.servers": cluster.kafka.address})
    producer.produce(source, b"no recommendation", partition=0)
    assert producer.flush(20) == 0
    done = eddy(variables, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"written": {"recommendations": 0}, "left_out": 1, "offsets": {f"{source}-0": 1}}


def test_a_webhook_needs_read_on_its_topic_and_on_its_group_and_no_other(secure: Secure, cluster: Cluster) -> None:
    """It names both at once; with them it posts and commits. A right that is taken away while it runs ends it."""
    topic, group, right = secure.topics.anomalies, secure.name, Right("group", secure.name, "READ")
    with Receiver() as receiver:
        variables = {**environ(secure, cluster), "EDDY_SINK_URL": receiver.url}
        words = ["sink", "webhook", "--group", group, "--start-at", "earliest"]
        of_group = f"on consumer groups: READ on {group}; add the ACLs"
        done = eddy(variables, *words)
        assert f"eddy: this user lacks rights on topics: READ on {topic}; {of_group}" in done.stderr
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        secure.allow(ResourceType.TOPIC, topic, "READ")
        done = eddy(variables, *words)
        assert f"lacks rights {of_group}" in done.stderr
        secure.grant([right])
        producer = Producer({"bootstrap.servers": cluster.kafka.address})
        producer.produce(topic, json.dumps(alert(0)), partition=0)
        assert producer.flush(20) == 0
        done = eddy(variables, *words, "--once", "--json")
        assert json.loads(done.stdout)["written"] == {"anomalies": 1}, done.stderr
        running = secure.start_command([*words, "--log-format", "json"], ROOT, variables)
        running.wait_for("begins to read")
        secure.revoke(right)
        producer.produce(topic, json.dumps(alert(1)), partition=0)
        assert producer.flush(20) == 0
        assert running.process.wait(60) == 2, running.log
        assert "the right READ on its consumer group" in running.log.splitlines()[-1]
