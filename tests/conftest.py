"""What all tests share: one torch thread, kept traces of graphs, a complete model, and a report on the Kafka tests."""

import os
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from export.model import trace
from export.model.untrained import write_untrained
from stream.manifest import Ahead
from tests.graphs import ROOT, KeptTraces, trace_directory
from tests.kafka_lane import count_kafka_lane
from tests.once import once, shared_directory
from tests.servers import Postgres, Redis, running_postgres, running_redis

ITEMS = [f"i{n}" for n in range(50)]
EVENT_TYPES = ["view", "cart", "purchase"]
WITH_PROGRAMS = ("docs", "embedded", "kafka")
"""Directories of tests that start workers and other programs, and wait for them."""

settings.register_profile("eddy", deadline=None)  # a busy machine is not a slow function
settings.load_profile("eddy")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the commands that tests start, as for torch here
torch.set_num_threads(1)  # on matrices this small a second thread only waits for the first


@pytest.fixture(scope="module")
def redis_server() -> Iterator[Redis]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def traced() -> Iterator[Path]:
    """Networks that differ only in their weights share one trace, kept in this directory; see tests/graphs.py.

    So do those of the commands that tests start.
    """
    directory = trace_directory(ROOT / ".cache" / "traces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "trace", KeptTraces(directory))
        patch.setenv("KEPT_TRACES", str(directory))
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT / "tests" / "children", ROOT))))
        yield directory


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 50 items i0..i49 and three event types, untrained but complete."""
    directory = shared_directory(tmp_path_factory) / "untrained" / "tiny" / "1"
    return once(directory, lambda path: write_untrained(path, ITEMS, EVENT_TYPES, hidden=16, seed=0))


@pytest.fixture(scope="session")
def ahead_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, which also predicts what a user does next."""
    directory = shared_directory(tmp_path_factory) / "ahead" / "tiny" / "2"
    ahead = Ahead(True, 0, {}, "purchase")
    return once(directory, lambda path: write_untrained(path, ITEMS, EVENT_TYPES, hidden=16, seed=0, ahead=ahead))


def pytest_xdist_auto_num_workers() -> int:
    """Three more than there are cores: the tests on Kafka mostly wait."""
    return (os.cpu_count() or 1) + 3


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the modules whose tests mostly wait evenly among the others, whose tests compute.

    The processes take their tests from parts of this order. In the order of the directories they would first all
    compute and then all wait.
    """
    modules = [list(group) for _, group in groupby(items, key=attrgetter("path"))]
    waits = [module[0].path.parent.name in WITH_PROGRAMS for module in modules]
    places = {which: iter(np.linspace(0, 1, waits.count(which))) for which in set(waits)}
    place = [float(next(places[which])) for which in waits]
    items[:] = [item for number in np.argsort(place, kind="stable").tolist() for item in modules[number]]


def pytest_configure(config: pytest.Config) -> None:
    count_kafka_lane(config)
