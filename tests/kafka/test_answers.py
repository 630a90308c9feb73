"""Requests to real workers on a real Kafka: the answers are the decisions that were written, whoever is asked."""

import json
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from click.testing import CliRunner

from stream.ops.explain import explain
from tests.kafka.lane import Lane, bot, clicks, wait_until
from tests.kafka.scrape import free_port, get, health, value, wait_for_phase

TOKEN = "a-token-of-a-test-0123456789"


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, JSON object and headers of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read()), dict(answer.headers)
    except urllib.error.HTTPError as exc:
        return exc.code, json.loads(exc.read()), dict(exc.headers)


def last_decisions(lane: Lane) -> dict[str, dict[str, Any]]:
    """User -> the decision on the user's last click, as a consumer reads it."""
    found: dict[str, dict[str, Any]] = {}
    decisions = [json.loads(message.value() or b"") for message in lane.read(lane.topics.recommendations)]
    for decision in sorted(decisions, key=lambda one: int(one["id"].partition("@")[0].rpartition("-")[2])):
        found[decision["user_id"]] = decision
    return found


def assert_as_decided(port: int, decision: dict[str, Any]) -> None:
    """The answer for a user is the decision on the user's last click."""
    status, answer, _ = ask(port, f"/v1/users/{quote(decision['user_id'], safe='')}/recommendations")
    assert status == 200, answer
    shown = {field: answer[field] for field in ("user_id", "items", "log_probs", "model")}
    assert shown == {field: decision[field] for field in shown}
    assert (answer["known"], f"{answer['last_click']}@{answer['model']}") == (True, decision["id"])


def wait_for_two_each(ports: list[int]) -> None:
    for port in ports:
        wait_for_phase(port, "assigned")
    wait_until(lambda: [health(port, "/readyz")[1]["partitions"] for port in ports] == [2, 2], "two partitions each")


def test_answers_are_the_decisions_that_were_written(lane: Lane) -> None:
    """Of every user the list and its probabilities; what is known of a user; a new user's list; a user who is forgotten
    on a request with the token."""
    port, token = free_port(), lane.directory / "token"
    token.write_text(f"{TOKEN}\n")
    worker = lane.start(http_port=port, http_answers=True, http_token_file=token)
    wait_for_phase(port, "assigned")
    lane.produce([*clicks(2_000, users=60), *bot()])
    lane.wait_for_clicks()
    decided = last_decisions(lane)
    assert len(decided) == 61
    for decision in decided.values():
        assert_as_decided(port, decision)

    made = [json.loads(message.value() or b"") for message in lane.read(lane.topics.clicks)]
    theirs = [one for one in made if one["user_id"] == "user7"]
    status, state, _ = ask(port, "/v1/users/user7?k=3")
    assert status == 200
    assert (state["clicks"], f"{state['last_click']}@{state['model']}") == (len(theirs), decided["user7"]["id"])
    assert state["timestamp"] == max(one["timestamp"] for one in theirs)
    known = [None if int(one["item_id"][1:]) >= 300 else one["item_id"] for one in reversed(theirs)]
    assert state["last_items"] == known[: len(state["last_items"])]
    assert len(state["beliefs"]) == 3
    alerts = [json.loads(message.value() or b"") for message in lane.read(lane.topics.anomalies)]
    episodes = {alert["user_id"]: alert["episode"] for alert in alerts}
    assert "bot" in episodes
    assert len(episodes) < len(decided)
    for user in decided:
        state = ask(port, f"/v1/users/{user}")[1]
        assert (state["episode"] and state["episode"]["id"]) == episodes.get(user)
        of_user = {alert["episode"] for alert in alerts if alert["user_id"] == user}
        assert {one["id"] for one in state["episodes"]} == of_user
        assert sum(one["alerts"] for one in state["episodes"]) == sum(alert["user_id"] == user for alert in alerts)
    assert [one["timestamp"] for one in ask(port, "/v1/users/bot")[1]["last_clicks"]] == [
        one["timestamp"] for one in made if one["user_id"] == "bot"
    ][-10:]

    because = ask(port, "/v1/users/user7/recommendations?k=3&because=2")[1]["because"]
    assert len(because) == 3
    assert all(reason["item_id"] in known for reasons in because for reason in reasons)
    said = CliRunner().invoke(explain, ["--user", "user7", "--recommendations", f"http://127.0.0.1:{port}"]).output
    assert [line.split()[0] for line in said.splitlines()[1:]] == decided["user7"]["items"]

    status, new, _ = ask(port, "/v1/users/nobody/recommendations?k=5&exclude=i1")
    assert (status, new["known"], new["last_click"], len(new["items"])) == (200, False, None, 5)
    assert "i1" not in new["items"]
    status, error, _ = ask(port, "/v1/users/nobody")
    assert (status, list(error)) == (404, ["error"])
    assert value(port, "eddy_answers_total", answer="user", status="404") == 1

    path = "/v1/users/user7"
    assert ask(port, path, "DELETE")[0] == 401
    assert ask(port, path, "DELETE", Authorization=f"Bearer {TOKEN}x")[0] == 401
    assert ask(port, path)[0] == 200
    status, done, _ = ask(port, path, "DELETE", Authorization=f"Bearer {TOKEN}")
    assert (status, done) == (202, {"user_id": "user7", "partitions": 4})
    wait_until(lambda: ask(port, path)[0] == 404, "the user is forgotten")
    wait_until(lambda: value(port, "eddy_forgotten_users_total", cause="request") == 1, "the metrics count it")
    assert worker.end(signal.SIGTERM) == 0, worker.log
    assert "Traceback" not in worker.log


def test_each_worker_answers_for_all_users(lane: Lane) -> None:
    """Two workers share the partitions. Each answers for the users of both with the decisions that were written, also
    after one of them was killed and the other has its partitions; meanwhile an answer is right or is a 503."""
    ports = [free_port(), free_port()]
    started = [
        lane.start(worker_id=name, http_port=port, http_answers=True, http_advertise=f"127.0.0.1:{port}")
        for name, port in zip("ab", ports, strict=True)
    ]
    wait_for_two_each(ports)
    lane.produce(clicks(1_000, users=40))
    lane.wait_for_clicks()
    decided = last_decisions(lane)
    for decision in decided.values():
        for port in ports:
            assert_as_decided(port, decision)
    partitions = [{ask(port, f"/v1/users/{user}")[1]["partition"] for user in decided} for port in ports]
    assert partitions == [{0, 1, 2, 3}] * 2
    for port in ports:
        assert ask(port, "/v1/users/nobody")[0] == 404
        assert ask(port, "/v1/users/nobody/recommendations")[1]["known"] is False

    started[1].process.kill()
    waiting, deadline = dict(decided), time.monotonic() + 60
    refused = 0
    while waiting:
        assert time.monotonic() < deadline, started[0].log
        for user in list(waiting):
            status, answer, headers = ask(ports[0], f"/v1/users/{user}/recommendations")
            if status == 200:
                assert (answer["known"], answer["items"]) == (True, decided[user]["items"])
                del waiting[user]
            else:
                assert (status, headers["Retry-After"]) == (503, "1"), answer
                assert answer["error"]
                refused += 1
    assert refused
    assert started[0].end(signal.SIGTERM) == 0, started[0].log
    assert "Traceback" not in started[0].log


def test_a_worker_without_an_address_is_named(lane: Lane) -> None:
    """Bound to this machine only and with no address given, a worker cannot be asked: the error says what to do. A
    worker without --http-answers has no such paths, and a token in an empty file ends it at the start."""
    ports = [free_port(), free_port()]
    for name, port in zip("ab", ports, strict=True):
        lane.start(worker_id=name, http_port=port, http_answers=True)
    wait_for_two_each(ports)
    status, error, _ = ask(ports[0], "/v1/users/nobody/recommendations")
    assert status == 503
    assert "--http-advertise" in error["error"]

    silent = free_port()
    lane.start(worker_id="c", http_port=silent)
    wait_until(lambda: get(silent, "/livez")[0] == 200, "the third worker has a port")
    assert "--http-answers" in ask(silent, "/v1/users/nobody")[1]["error"]
    empty = Path(lane.directory / "empty")
    empty.write_text("\n")
    ended = lane.start(worker_id="d", http_port=free_port(), http_answers=True, http_token_file=empty)
    assert ended.process.wait(timeout=60) == 2
    assert "the token in --http-token-file" in ended.log.splitlines()[-1]
