"""The program that posts alerts to a chat, with a broker and a webhook of this test."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue
from typing import Any

from confluent_kafka import Producer

from stream.demo.broker import EmbeddedBroker
from tests.docs.blocks import ROOT, blocks

OPENS = {"id": "clicks-0-7", "episode": "clicks-0-7", "user_id": "ann", "reason": "10 clicks on one item"}
GOES_ON = {**OPENS, "id": "clicks-0-9", "reason": "still"}
MANY = {"id": "clicks-0-8", "episode": "clicks-0-8", "users": 30, "reason": "the same clicks"}
CLOSES = {**MANY, "id": "clicks-0-10", "reason": "it is over"}
LIMIT_S = 60


def test_each_alert_that_opens_is_posted_and_no_other() -> None:
    """One alert of a user, one on many users; later ones of the same episode are left out."""
    posted: Queue[dict[str, Any]] = Queue()

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    [program] = [block.text for block in blocks(ROOT / "docs" / "slack.md") if block.language == "python"]
    server = HTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with EmbeddedBroker({"anomalies": 1, "system-alerts": 1}) as broker:
        producer = Producer({"bootstrap.servers": broker.address})
        for topic, alert in (
            ("anomalies", GOES_ON),
            ("anomalies", OPENS),
            ("system-alerts", CLOSES),
            ("system-alerts", MANY),
        ):
            producer.produce(topic, json.dumps(alert))
        producer.flush(LIMIT_S)
        environ = {**os.environ, "WEBHOOK": f"http://127.0.0.1:{server.server_address[1]}/"}
        process = subprocess.Popen(
            [sys.executable, "-c", program.replace("localhost:9092", broker.address)], env=environ
        )
        try:
            texts = {posted.get(timeout=LIMIT_S)["text"] for _ in range(2)}
        finally:
            process.kill()
            process.wait()
            server.shutdown()
            server.server_close()
    assert texts == {"ann: 10 clicks on one item", "many users: the same clicks"}
    assert posted.empty()
