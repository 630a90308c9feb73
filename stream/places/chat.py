"""What is posted to a webhook: the event itself, or a line for a chat such as Slack, Mattermost or Rocket.Chat.

    json    the bytes of the message as they are on the topic
    slack   {"text": LINE}, with the line of `eddy explain` and the p-value

User and item ids come from outside. So Slack's control characters are escaped, as Slack asks for, and an @ that begins
a word is separated from it: neither `<!channel>` nor `@all` in an item id calls anybody.
Source: docs.slack.dev, "Formatting message text".
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from stream.events import Anomaly, SystemAlert
from stream.log_lines import counted, printable
from stream.ops.explain import line
from stream.ops.text import time_of
from stream.places.sink import Event
from stream.trigger import CONTROL, Trigger

IN_WORDS = ("anomalies", "system-alerts", "triggers")
"""The outputs that have a line for a chat."""

MOST_CHARACTERS = 1_000
"""Of a line. Ids may be long, and Slack cuts a text off after 4,000."""

SEPARATED = "@\u200b"


class Form(NamedTuple):
    """What is posted.

    body      event and bytes of its message -> body
    left_out  number of messages of a minute -> the body that stands for them; None = each of them is posted
    """

    body: Callable[[Event, bytes], bytes]
    left_out: Callable[[int], bytes] | None


def opens(event: Event) -> bool:
    """False for a later alert of an episode, which a person knows already."""
    if isinstance(event, Anomaly):
        return event.id == event.episode
    return not isinstance(event, SystemAlert) or event.phase == "opened"


def in_words(event: Event) -> str:
    """An event of IN_WORDS in one line."""
    if isinstance(event, Trigger):
        group = ", control group: do not act" if event.group == CONTROL else ""
        text = f"{event.id}  {time_of(event.timestamp)}  user {event.user_id}: {event.reason} ({event.rule}{group})"
        return printable(text, MOST_CHARACTERS)
    assert isinstance(event, Anomaly | SystemAlert)
    text = line(event)
    severity = "" if event.p_value is None else f" (p-value {event.p_value:.2g})"
    if severity not in text:  # a worker's reason of an alert on a user has it already
        text += severity
    return printable(text, MOST_CHARACTERS)


def escaped(text: str) -> str:
    """A text that a chat shows as it is, and in which nothing mentions a person or a channel."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, entity)
    return re.sub(r"(?<!\w)@(?=\w)", SEPARATED, text)


def _chat(text: str) -> bytes:
    return msgspec.json.encode({"text": escaped(text)})


JSON = Form(lambda event, raw: raw, None)
SLACK = Form(
    lambda event, raw: _chat(in_words(event)),
    lambda count: _chat(f"and {counted(count, 'more message')}, left out because of --most-per-minute"),
)
FORMS = {"json": JSON, "slack": SLACK}
