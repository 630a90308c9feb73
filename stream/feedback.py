"""What a person says of an alert, as it is on the topic `feedback`."""

from msgspec import Struct


class Feedback(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a person says of an alert on a user. Of several verdicts on one alert the last one counts.

    id               of the alert
    episode          of the alert
    verdict          "true": what it says did happen and was worth an alert; "false": a false alert
    timestamp        when it was given, ms since the epoch
    by, note         who gave it, and why; empty = not said
    quiet_until_ms   only if alerts on the user were asked to be kept back: those on clicks before this time
    statistics       only if only those for these statistics were
    """

    id: str
    user_id: str
    episode: str
    verdict: str
    timestamp: int
    by: str = ""
    note: str = ""
    quiet_until_ms: int | None = None
    statistics: list[str] = []
