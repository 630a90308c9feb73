"""Posts events to a webhook: one HTTP request for each, and what its answer means.

    2xx                                           the receiver has the event
    no connection, no answer, 408, 425, 429, 5xx  waiting may help: Later, with the pause that Retry-After asks for
    redirects, 401, 402, 403, 404, 405, 407, 410  the address or the secret is wrong, for every event: ConfigError
    other 4xx                                     the receiver refuses this event

The URL is a secret, because whoever has it can post: nothing here shows more than its scheme, host and port.
Sources: RFC 9110 (status codes, Retry-After); draft-ietf-httpapi-idempotency-key-header.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from stream.errors import ConfigError
from stream.log_lines import printable
from stream.places.sink import Away

ANSWER_S = 10.0
"""How long a request may take as a whole. On SIGTERM, the process waits for an answer so long."""

KEEP_S = 2.0
"""A connection that was not used for longer is made again: servers close idle ones after 5 s and more."""

SAID_BYTES = 200
"""So much of an answer is in an error."""

PASSING = (408, 425, 429)
WRONG = {
    401: "it does not accept the secret in the URL",
    402: "its account has to be paid",
    403: "it does not allow this webhook to post",
    404: "it does not know this webhook",
    405: "it takes no POST at this address",
    407: "the proxy of this machine wants a password",
    410: "this webhook was removed",
}
"""Status -> what it means for every event."""


class Later(Away):
    """The receiver did not take an event, and may later. pause_s: not before so many seconds; 0 = it does not say"""

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class Webhook:
    """One address that events are posted to, over one connection.

    where  scheme, host and port of the URL, for the log
    """

    def __init__(self, url: str) -> None:
        """Raises ConfigError if the URL is none of HTTP."""
        self._url = _checked(url)
        self.where = f"{self._url.scheme}://{self._url.host_port_subcomponent}"
        parts = (url, self._url.raw_path_qs, self._url.password or "", *re.split(r"[/?&=]", self._url.raw_path_qs))
        self._secrets = [part for part in parts if len(part) > 3]
        self._runner = asyncio.Runner()  # its loop begins with the first request
        self._session: aiohttp.ClientSession | None = None

    def post(self, body: bytes, key: str) -> str | None:
        """Post one event as JSON. None: the receiver has it; else the reason for which it refuses this event.

        key  of the header Idempotency-Key: a repeat of the event has the same one
        Raises Later, and ConfigError if the receiver refuses every event.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "User-Agent": "eddy"}
        try:
            status, answered, said = self._runner.run(self._post(body, headers))
        except TimeoutError:
            raise Later(f"no answer within {ANSWER_S:.0f} s") from None
        except (aiohttp.ClientError, OSError) as exc:
            raise Later(_why(exc)) from None
        if 200 <= status < 300:
            return None
        text = f"status {status}{self._shown(said)}"
        if status in PASSING or status >= 500:
            raise Later(text, _pause_s(answered))
        if 300 <= status < 400:
            raise ConfigError(
                f"{self.where} sends to another address ({text}), and events are posted to the given address only; "
                "give the final address"
            )
        if status in WRONG:
            raise ConfigError(
                f"{self.where} refuses every event ({text}): {WRONG[status]}; check the URL in --url-file or "
                "EDDY_SINK_URL. The next run begins with this event"
            )
        return text

    def close(self) -> None:
        """Disconnect; `post` may not be called any more."""
        if self._session is not None:
            self._runner.run(self._session.close())
        self._runner.close()

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and the begin of the answer."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1, keepalive_timeout=KEEP_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=ANSWER_S),
                trust_env=True,  # HTTPS_PROXY: shops often let nothing out without one
            )
        async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
            said = b""
            with suppress(aiohttp.ClientError, TimeoutError, OSError):  # the status counts, also if the rest is cut off
                said = await answer.content.read(SAID_BYTES)
            return answer.status, answer.headers, said

    def _shown(self, said: bytes) -> str:
        """What the receiver says, for a line; nothing if it repeats a part of the URL."""
        text = printable(" ".join(said.decode(errors="replace").split()), SAID_BYTES)
        return f": {text}" if text and not any(secret in text for secret in self._secrets) else ""


def _checked(text: str) -> URL:
    """The URL, exactly as it was given. Raises ConfigError, which does not show it."""
    try:
        url = URL(text, encoded=True)
        if url.scheme in ("http", "https") and url.host and url.port and text.isascii() and text.isprintable():
            return url.with_fragment(None)
    except ValueError:
        pass
    raise ConfigError(
        "the URL of the webhook is no address such as https://HOST/PATH (it is not shown: it is a secret)"
    )


def _why(exc: BaseException) -> str:
    """Why there is no answer. Texts of aiohttp may have the URL, so only those of the system are taken."""
    found = getattr(exc, "certificate_error", None) or getattr(exc, "os_error", None) or exc
    text = getattr(found, "verify_message", "") or (found.strerror if isinstance(found, OSError) else "")
    return printable(" ".join((text or type(found).__name__).split()))


def _pause_s(headers: Mapping[str, str]) -> float:
    """The seconds of Retry-After, which is a number or a date; 0 if there is none."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
