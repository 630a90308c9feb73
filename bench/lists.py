"""Clicks per second of Eddy with a list for each click and with `--lists last`, on a real Kafka.

With `last` only a user's last click of a transaction gets a list. So the gain depends on how often users click in one:
the fewer users make the same clicks, the more. The clicks, the model and the measurement are those of
bench/throughput. For each number of users, the two workers run in turn, on new topics.

    make lists                                      about 15 minutes on two cores
    python -m bench.lists --clicks 5000 --users 500 --rounds 1
                                                    a short trial
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from bench.apache_kafka import VERSION
from bench.command import say
from bench.report import RESULTS, conclude, write_report
from bench.throughput.clicks import Message, made_up
from bench.throughput.contenders.model import BATCH
from bench.throughput.rounds import WARM_UP, Measured, Runner
from bench.throughput.started import SHOP, Site, shop_site

RESULT = RESULTS / "lists.json"
USERS = "20000,5000,2000,500"
WAYS = ("eddy", "eddy_last")


def measure(site: Site, clicks: list[Message], rounds: int, prefix: str) -> list[dict[str, Measured]]:
    """Run both workers `rounds` times; which one is first changes. Their results are compared with those of the limit.

    prefix  of the names of the topics, unique
    """
    runner = Runner(site)
    runner.run("limit", f"{prefix}-0", clicks)
    found = []
    for number in range(rounds):
        this = {}
        for name in WAYS if number % 2 else WAYS[::-1]:
            this[name] = runner.run(name, f"{prefix}-{number}", clicks)
            say(f"{prefix}: {name:10}{this[name].clicks_per_s:>7,.0f} clicks/s")
        found.append(this)
    return found


def figures(rounds: list[dict[str, Measured]]) -> dict[str, float]:
    """Medians over the rounds. A gain is that of one round: a machine that is slower meanwhile changes it less."""
    gains = [one["eddy_last"].clicks_per_s / one["eddy"].clicks_per_s for one in rounds]
    return {
        "clicks_per_list": round(statistics.median(one["eddy_last"].clicks_per_list for one in rounds), 2),
        **{f"{name}_clicks_per_s": round(statistics.median(one[name].clicks_per_s for one in rounds)) for name in WAYS},
        **{f"{name}_cpu_us": round(statistics.median(one[name].cpu_us for one in rounds), 1) for name in WAYS},
        "gain": round(statistics.median(gains), 2),
        "gain_lowest": round(min(gains), 2),
        "gain_highest": round(max(gains), 2),
    }


def table(found: dict[str, dict[str, float]]) -> str:
    """The figures, for a person."""
    lines = [
        f"{'users':>8}{'clicks per list':>17}{'gain':>7}{'lowest':>8}{'highest':>9}{'CPU us every':>14}{'last':>7}"
    ]
    lines += [
        f"{users:>8}{of['clicks_per_list']:>17.2f}{of['gain']:>7.2f}{of['gain_lowest']:>8.2f}{of['gain_highest']:>9.2f}"
        f"{of['eddy_cpu_us']:>14.0f}{of['eddy_last_cpu_us']:>7.0f}"
        for users, of in found.items()
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.lists", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clicks", type=int, default=60_000, help="clicks of a run [60000]")
    parser.add_argument("--users", default=USERS, help=f"numbers of users, with commas [{USERS}]")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each worker [5]")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    rounds: dict[str, list[dict[str, Measured]]] = {}
    with shop_site() as (_, site):
        for users in given.users.split(","):
            clicks = made_up(given.clicks + WARM_UP, users=int(users))
            rounds[users] = measure(site, clicks, given.rounds, f"{users}-users")
    conditions: dict[str, Any] = {
        "clicks": given.clicks,
        "rounds": given.rounds,
        **SHOP,
        "largest transaction": BATCH,
        "users": "skewed: the most active of N users makes 1 / sqrt(N) of the clicks",
    }
    found: dict[str, Any] = {users: figures(each) for users, each in rounds.items()}
    single = {users: [{n: run._asdict() for n, run in one.items()} for one in each] for users, each in rounds.items()}
    report = write_report(given.out, "bench.lists", conditions, {**found, "rounds": single}, [], kafka=VERSION)
    print(table(found))
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
