"""Clicks per second of Eddy beside other ways to serve the same model, on a real Kafka.

All contenders read the same clicks, run the same ONNX graphs on one thread, keep a state for each user,
and publish one list of 20 items with the click's surprise for every click:

    limit            confluent-kafka and ONNX Runtime in batches: no durable state, no transactions
    bytewax_batched  Bytewax with flat_map_batch
    quix_batched     Quix Streams with batches of its Consumer
    eddy             `eddy worker`: exactly once, durable states, p-values and alerts
    eddy_last        the same with `--lists last`: a list only for a user's last click of a transaction
    bytewax_events   Bytewax, one click at a time, with stateful_map
    quix_events      Quix Streams, one click at a time, with its state store
    faust_events     stock Faust, one click at a time, with a table

Each is written as its own documentation teaches (bench/throughput/contenders). A round runs each of them once, on new
topics, in an order that changes. The time begins when a contender has answered some first clicks and the others are
sent, and ends when a reader has the last committed result. A contender whose results are not one for each click, or
differ from those of the limit, ends the benchmark with exit code 2.

    make throughput                                   the benchmark, about 15 minutes on two cores
    python -m bench.throughput --clicks 5000 --event-clicks 1000 --rounds 1
                                                      a short trial
    python -m bench.throughput --only limit,eddy      only these
    python -m bench.throughput --old CHECKOUT         also the limit and the batched ones with the files that an
                                                      earlier checkout, which has a .venv, exports

Quix Streams and Bytewax are installed into .contenders at the first use. Other programs on the machine make all
contenders slower; the table has the cores that they used (`others`). A second table has the CPU time of the stages of
a click in Eddy; all but the last row are its engine thread, measured without Kafka.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from bench.apache_kafka import VERSION
from bench.command import say, stop
from bench.report import RESULTS, commit, conclude, write_report
from bench.throughput import earlier
from bench.throughput.clicks import made_up
from bench.throughput.contenders.model import BATCH
from bench.throughput.environment import contenders_python, contenders_versions
from bench.throughput.rounds import WARM_UP, Measured, Runner
from bench.throughput.stages import stages, with_rest
from bench.throughput.stages import table as stage_table
from bench.throughput.started import CONTENDERS, SHOP, Site, shop_site

RESULT = RESULTS / "throughput.json"


def order(names: list[str], number: int) -> list[str]:
    """The contenders of round `number`, counted from 0, in the order of their runs. In round 0 the limit is first."""
    turn = number % len(names)
    return names[turn:] + names[:turn]


def figures(rounds: list[dict[str, Measured]]) -> dict[str, dict[str, float]]:
    """Contender -> medians over the rounds, and its share of the limit's clicks per second in the same round."""
    found = {}
    for name in rounds[0]:
        runs = [one[name] for one in rounds]
        shares = [one[name].clicks_per_s / one["limit"].clicks_per_s for one in rounds]
        found[name] = {
            "clicks_per_s": round(statistics.median(run.clicks_per_s for run in runs)),
            "of_limit": round(statistics.median(shares), 3),
            "of_limit_lowest": round(min(shares), 3),
            "of_limit_highest": round(max(shares), 3),
            "cpu_us": round(statistics.median(run.cpu_us for run in runs), 1),
            "kafka_cpu_us": round(statistics.median(run.kafka_us for run in runs), 1),
            "others_cores": round(statistics.median(run.others_cores for run in runs), 2),
            "clicks_per_list": round(statistics.median(run.clicks_per_list for run in runs), 2),
        }
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    """The figures, for a person."""
    lines = [f"{'':24}{'clicks/s':>9}{'of limit':>9}{'lowest':>8}{'highest':>8}{'CPU us':>8}{'others':>8}"]
    lines += [
        f"{name:24}{of['clicks_per_s']:>9,}{of['of_limit']:>9.2f}{of['of_limit_lowest']:>8.2f}"
        f"{of['of_limit_highest']:>8.2f}{of['cpu_us']:>8.0f}{of['others_cores']:>8.2f}"
        for name, of in found.items()
    ]
    return "\n".join(lines)


def measure(given: argparse.Namespace, names: list[str], site: Site) -> list[dict[str, Measured]]:
    """Run all rounds. Returns contender -> figures for each."""
    clicks = made_up(given.clicks + WARM_UP)
    now = Runner(site)
    runs = {name: (now, name) for name in names}
    if given.old:
        old = Runner(site._replace(model=site.scratch / "earlier" / "1"))
        earlier.write_earlier_model(given.old.resolve(), site.scratch / "earlier" / "1")
        runs |= {name + earlier.MARK: (old, name) for name in earlier.NAMES if name in names}
    rounds = []
    for number in range(given.rounds):
        this: dict[str, Measured] = {}
        for name in order(list(runs), number):
            runner, contender = runs[name]
            few = given.event_clicks if CONTENDERS[contender].by_event else given.clicks
            which = number if runner is now else f"{number}{earlier.MARK}"
            this[name] = runner.run(contender, which, clicks[: few + WARM_UP])
            say(f"round {number + 1} of {given.rounds}: {name:16}{this[name].clicks_per_s:>7,.0f} clicks/s")
        rounds.append({name: this[name] for name in runs})
    return rounds


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.throughput", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clicks", type=int, default=100_000, help="clicks of a run [100000]")
    parser.add_argument("--event-clicks", type=int, default=5_000, help="clicks of a run, one at a time [5000]")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender [5]")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, with commas; the limit always runs")
    parser.add_argument("--old", type=Path, help="an earlier checkout; see above")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    asked = {word.strip() for word in given.only.split(",")} | {"limit"}
    if asked - CONTENDERS.keys():
        stop(f"--only: {', '.join(sorted(asked - CONTENDERS.keys()))}; there are {', '.join(CONTENDERS)}")
    if min(given.clicks, given.event_clicks, given.rounds) < 1:
        stop("--clicks, --event-clicks and --rounds must be above 0")
    names = [name for name in CONTENDERS if name in asked]
    python = contenders_python()
    versions = contenders_versions(python)
    with shop_site(python) as (_, site):
        rounds = measure(given, names, site)
        say("measuring the stages of a click")
        engine = stages(site.model)
    found = figures(rounds)
    conditions: dict[str, Any] = {
        "clicks": given.clicks,
        "clicks of contenders that process one at a time": given.event_clicks,
        "rounds": given.rounds,
        "click_bytes": 204,
        **SHOP,
        "largest batch": BATCH,
        "threads of ONNX Runtime": 1,
        "time": "from the first click that is sent to the last committed result that is read",
        "states": {name: CONTENDERS[name].keeps for name in names},
    }
    if given.old:
        conditions["earlier files"] = f"of {commit(given.old)}, by the contenders whose names end with {earlier.MARK}"
    stage_us = with_rest(engine, found["eddy"]["cpu_us"]) if "eddy" in found else engine
    to_earlier = earlier.ratios(rounds)
    results = {
        **found,
        "eddy_stages_us": stage_us,
        "eddy_to_earlier": to_earlier,
        "rounds": [{name: run._asdict() for name, run in one.items()} for one in rounds],
    }
    report = write_report(given.out, "bench.throughput", conditions, results, [], kafka=VERSION, **versions)
    print(f"{table(found)}\n\n{stage_table(stage_us)}")
    if to_earlier:
        print(f"\n{earlier.table(to_earlier)}")
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
