"""An OAuth token endpoint for tests."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class TokenEndpoint:
    """An OAuth token endpoint that knows one client, and whose tokens the broker takes without a signature.

    secret  of the client eddy
    life_s  of its tokens
    ahead_s how far its clock is ahead: a broker refuses a token that is issued in the future
    out     it answers 503
    body    its answer, if it is not a token
    asked   how often it was asked
    """

    def __init__(self, secret: str, life_s: int = 600, ahead_s: int = 0) -> None:
        self.out, self.asked = False, 0
        self.body: bytes | None = None
        expected = "Basic " + base64.b64encode(f"eddy:{secret}".encode()).decode()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.asked += 1
                status = 503 if endpoint.out else 200 if self.headers["Authorization"] == expected else 401
                now_s = int(time.time()) + ahead_s
                claims = {"sub": "eddy", "iat": now_s, "exp": now_s + life_s, "scope": "kafka"}
                parts = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in ({"alg": "none"}, claims))
                token = ".".join(part.decode().rstrip("=") for part in parts) + "."
                answer: dict[str, Any] = {"error": "no"}
                if status == 200:
                    answer = {"access_token": token, "expires_in": life_s, "token_type": "Bearer"}
                body = json.dumps(answer).encode() if endpoint.body is None else endpoint.body
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing: a test prints no log of a server."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
