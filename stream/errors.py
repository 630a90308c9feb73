"""Eddy's exceptions, one class for each kind of cause.

    EddyError
    +-- BadClick        a bad message: it goes to the dead-letter topic with its reason, and the stream continues
    |   +-- Dropped     a message that the mapping leaves out: it is counted and is no dead letter
    +-- ConfigError     a bad setting, topic or broker: Eddy refuses to start and prints what to do
    |   +-- Several     more than one reason, in one line
    |   +-- MissingRights  what this user is not allowed
    |   +-- NoAnswer    no Kafka answers: a worker waits for it, other commands end
    |   +-- NoRegistry  no Schema Registry answers: the same
    +-- ArtifactError   a model directory that is missing, corrupt or foreign: Eddy refuses to start
    +-- Fenced          another worker owns this worker's partitions now: the worker exits and writes nothing
    +-- Unanswered      a request on the HTTP port has no answer: the client gets the status and the text

Only BadClick and NoRegistry are raised on the data path, and Unanswered only for a request. For every other class the
command line prints one line and exits with a code that is not 0.
"""

from collections.abc import Collection, Sequence
from typing import Self


class EddyError(Exception):
    """Base class of Eddy's errors. The text is one line that names the problem and the remedy."""


class BadClick(EddyError):
    """A message that is not a valid click.

    reason  a fixed word for metrics and filters, such as "not_json" or "future_timestamp"
    detail  the value that was found and the value that is expected, for a person
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Dropped(BadClick):
    """A message that is no click by the mapping's own rules, such as the view of a page without a product.

    reason  a fixed word, such as "event_type". Neither reason nor detail has a value of the message
    """


class ConfigError(EddyError):
    """A setting, topic or broker with which the worker cannot run."""

    @property
    def reasons(self) -> "Sequence[ConfigError]":
        return (self,)


class Several(ConfigError):
    """More than one reason for which the worker cannot run."""

    def __init__(self, reasons: Sequence[ConfigError]) -> None:
        numbered = "; ".join(f"({number}) {reason}" for number, reason in enumerate(reasons, 1))
        super().__init__(f"{len(reasons)} reasons: {numbered}")
        self._reasons = reasons

    @property
    def reasons(self) -> Sequence[ConfigError]:
        return self._reasons


class MissingRights(ConfigError):
    """What this user is not allowed on Kafka.

    topics  those on which a right is missing; the user may not even see them
    """

    def __init__(self, text: str, topics: Collection[str]) -> None:
        super().__init__(text)
        self.topics = topics


class NoAnswer(ConfigError):
    """No Kafka answers at the given address. It may be down for a while, or the address may be wrong."""


class Problems:
    """Collects what several checks refuse, to raise it as one error: `with problems: check()`, then `problems.end()`.

    NoAnswer is not collected: without an answer nothing is known.
    """

    def __init__(self) -> None:
        self.found: list[ConfigError] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ConfigError) or isinstance(error, NoAnswer):
            return False
        self.found += error.reasons
        return True

    def end(self) -> None:
        """Raises ConfigError if anything was refused."""
        if self.found:
            raise self.found[0] if len(self.found) == 1 else Several(self.found)


class NoRegistry(ConfigError):
    """No Schema Registry answers, so a message cannot be decoded now. It may be a valid click: it is read again."""


class ArtifactError(EddyError):
    """A model directory that cannot be used: missing, corrupt, or not written by `eddy train`."""


class Fenced(EddyError):
    """The consumer group or the broker has given this worker's partitions to a different worker."""


class Unanswered(EddyError):
    """A request on the HTTP port that gets an error as its answer.

    status   HTTP status
    retry_s  after so many seconds the client may try again; None: the same request fails again
    """

    def __init__(self, status: int, text: str, retry_s: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_s = retry_s
