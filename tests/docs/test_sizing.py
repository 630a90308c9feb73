"""The tables of docs/sizing.md follow from the committed result files, by the formulas that the page names."""

from math import ceil
from typing import Any

from tests.docs.blocks import ROOT
from tests.docs.test_results import results, table

PAGE = (ROOT / "docs" / "sizing.md").read_text()
MIB = 2**20
SHOP = {"items": 100_000, "users": 5_000_000, "peak": 5_000}
BUSY = 0.7
"""Share of a core that the page plans with."""


def cpu_us(items: int) -> float:
    """CPU time of a click in a worker with a backlog: that of its engine, and what the worker adds at 20,000 items."""
    engine = results("scaling")["results"]
    return float(
        engine[f"{items} items"]["cpu_us"]
        + results("throughput")["results"]["eddy"]["cpu_us"]
        - engine["20000 items"]["cpu_us"]
    )


def slope(what: str, column: str) -> float:
    """Bytes for each item or user: between the smallest and the largest number of them."""
    rows = {int(k.split()[0]): row[column] for k, row in results("scaling")["results"].items() if k.endswith(what)}
    few, many = min(rows), max(rows)
    return float((rows[many] - rows[few]) * MIB / (many - few))


def volumes() -> dict[str, dict[str, float]]:
    """What the soak wrote to each topic."""
    found: dict[str, dict[str, float]] = results("soak")["results"]["volumes"]
    return found


def test_cores_by_number_of_items() -> None:
    """Each measured catalogue has a row."""
    sizes = [int(name.split()[0]) for name in results("scaling")["results"] if name.endswith("items")]
    expected = [[f"{size:,}", f"{cpu_us(size):.0f}", f"{cpu_us(size) / 1_000:.2f}"] for size in sizes]
    assert table(PAGE, "Cores") == expected


def test_cores_of_a_worker_that_keeps_up() -> None:
    """Each rate of the latency benchmark has a row."""
    report = results("latency")
    expected: list[list[str]] = []
    for rate in report["conditions"]["rates"]:
        us = report["results"][str(rate)]["eddy"]["cpu_us"]
        expected.append([f"{rate:,}", f"{us:.0f}", f"{rate * us / 1e6:.2f}"])
    assert table(PAGE, "Cores of a worker that keeps up") == expected


def test_memory() -> None:
    """Of a whole worker, from the soak; per user and per item, from the growth benchmark; per row, and at recovery,
    from the recovery benchmark."""
    recovery, whole = results("recovery"), results("soak")["results"]["thirds"]
    expected = [
        f"{whole['anon_mb']['last']:.0f} + {whole['file_mb']['last']:.0f}",
        f"{slope('users', 'users_mb'):,.0f}",
        f"{slope('items', 'peak_mb'):,.0f}",
        f"{recovery['conditions']['row_bytes']:,}",
        f"{recovery['results']['memory_of_rows']:.2f}",
        f"{recovery['results']['users_per_s']:,}",
    ]
    assert [row[1] for row in table(PAGE, "Memory")] == expected


def test_bytes_per_click() -> None:
    """What a click costs on each topic."""
    digits = {"records_per_click": ".2f", "bytes_per_record": ",.0f", "bytes_per_click": ",.0f"}
    expected = [
        [f"`{topic}`", *(format(of[key], form) for key, form in digits.items())] for topic, of in volumes().items()
    ]
    assert table(PAGE, "Bytes on Kafka") == expected


def test_workers() -> None:
    """One worker and two on the same backlog."""
    found = results("workers")["results"]
    expected = [
        [name, f"{of['clicks_per_s']:,}", f"{of['cpu_us']:.0f}", f"{of['kafka_cpu_us']:.0f}", f"{of['cores']:.2f}"]
        for name, of in found.items()
        if name in ("1", "2")
    ]
    assert table(PAGE, "More workers") == expected
    eddy = results("throughput")["results"]["eddy"]
    assert eddy["kafka_cpu_us"] < eddy["cpu_us"] / 4  # as the section on brokers claims
    assert f"{found['gain']:.2f} times ({found['gain_lowest']:.2f} to {found['gain_highest']:.2f})" in PAGE


def example() -> dict[str, str]:
    """The figures of the example."""
    cores = SHOP["peak"] * cpu_us(SHOP["items"]) / 1e6
    workers = ceil(cores / BUSY) + 1
    left = workers - 1
    recovery: dict[str, Any] = results("recovery")
    row = recovery["conditions"]["row_bytes"]
    users_gb = SHOP["users"] * slope("users", "users_mb") / 1e9
    model_gb = SHOP["items"] * slope("items", "peak_mb") / 1e9
    written = sum(of["bytes_per_click"] for of in volumes().values())
    return {
        "cores at the peak": f"{cores:.1f}",
        "workers, at 70 % of a core each, and one more": f"{workers}",
        "memory of all users": f"{users_gb:.1f} GB",
        "memory of a worker while one is away": f"{users_gb / left + model_gb:.1f} GB",
        "recovery of a worker": f"{SHOP['users'] / workers / recovery['results']['users_per_s']:.0f} s",
        "changelog after compaction, one replica": f"{SHOP['users'] * row / 1e9:.1f} GB",
        "written to Kafka at the peak, one replica": f"{SHOP['peak'] * written / 1e6:.1f} MB/s",
    }


def test_the_example() -> None:
    """Each line follows from the tables above it."""
    assert dict(table(PAGE, "Example")) == example()  # type: ignore[arg-type]


def test_a_hundred_workers() -> None:
    """The calculation is labelled as one, and follows from one worker's capacity."""
    found = results("throughput")["results"]["eddy"]
    each = BUSY * found["clicks_per_s"]
    kafka = 100 * each * found["kafka_cpu_us"] / 1e6
    written = 100 * each * sum(of["bytes_per_click"] for of in volumes().values()) / 1e6
    expected = [f"{100 * each:,.0f}", f"{kafka:.0f}", f"{written:,.0f} MB/s"]
    assert [row[1] for row in table(PAGE, "A hundred workers, calculated")] == expected
