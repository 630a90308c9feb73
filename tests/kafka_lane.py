"""Prints at the end whether the tests on a real Kafka ran. With EDDY_REQUIRE_KAFKA=1 it is an error if they did not.

Tests marked `real_kafka` are counted by their reports, because under pytest-xdist only reports reach the process that
gives the exit status. A session in which none of them ran has failed, whatever the reason (no Java, deselected, not
collected).
"""

import os
from collections import Counter

import pytest

REQUIRED = os.environ.get("EDDY_REQUIRE_KAFKA") == "1"


class KafkaLane:
    """Counts the reports of tests marked `real_kafka`: outcome -> tests."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "real_kafka" in report.keywords and (report.when == "call" or report.skipped):
            self.outcomes[report.outcome] += 1

    @property
    def ran(self) -> int:
        return self.outcomes["passed"] + self.outcomes["failed"]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if REQUIRED and not self.ran and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.ran:
            terminalreporter.write_line(f"the Kafka lane: {self.ran} tests ran on a real Kafka")
        elif REQUIRED or self.outcomes["skipped"]:
            required = "; EDDY_REQUIRE_KAFKA=1 makes this a failure" if REQUIRED else ""
            terminalreporter.write_line(f"THE KAFKA LANE DID NOT RUN{required}", red=True, bold=True)


def count_kafka_lane(config: pytest.Config) -> None:
    """Call it in pytest_configure."""
    if not hasattr(config, "workerinput"):  # a process of pytest-xdist sees its own tests alone
        config.pluginmanager.register(KafkaLane())
