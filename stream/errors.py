"""What can go wrong, by whose fault it is.

    EddyError
    +-- BadClick        the message's: to the dead-letter topic with its reason, the stream goes on
    +-- ConfigError     the operator's: a setting, topic or broker; refuse to start, say what to do
    +-- ArtifactError   the model directory's: missing, corrupt or foreign; refuse to start
    +-- Fenced          the group's: another worker owns this work now; exit at once, write nothing

Only BadClick is raised on the data path. The command line prints the others as one line and exits non-zero.
"""


class EddyError(Exception):
    """Root of Eddy's own errors; its text is one line that says what came and what to do."""


class BadClick(EddyError):
    """A message that is not a click.

    reason  a fixed word for metrics and filters, such as "not_json" or "future_timestamp"
    detail  what came and what was expected, for a person
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ConfigError(EddyError):
    """A setting, a topic or a broker that the worker cannot run with."""


class ArtifactError(EddyError):
    """A model directory that cannot be served: missing, corrupt, or not written by `eddy train`."""


class Fenced(EddyError):
    """The group or the broker has given this worker's work to another one."""
