"""The commands `eddy train`, `evaluate` and `replay`: what is typed becomes a log, settings and a call.

They are mounted into `eddy` by the entry points in pyproject.toml; an EddyError becomes one line there. Heavy imports
stand inside the commands, so that --help answers at once.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from export.options import CELL_OPTION, DEVICE_OPTION, THREADS_OPTION, log_options
from export.progress import Bar
from stream.ops.options import rule_options, setting_option, take_rules
from stream.settings import Topics, variable

if TYPE_CHECKING:
    from export.log.log import Log


def _read(bar: Bar, log: Path, given: dict[str, Any]) -> "Log":
    from export.log.log import read_log
    from export.log.reader import ColumnNames
    from export.log.times import parse_time
    from stream.errors import ConfigError

    if given["in_order"] and (given["start"] or given["end"]):
        raise ConfigError("--from and --until cut by time, and with --in-order the log has none: leave one out")
    names = ColumnNames(*(given[f"{name}_col"] for name in ColumnNames._fields))
    read = read_log(log, names, given["drop_repeats"], given["in_order"])
    for note in read.notes:
        bar.say(f"{log}: {note}")
    if given["start"] is None and given["end"] is None:
        return read
    return read.between(*(None if text is None else parse_time(text) for text in (given["start"], given["end"])))


@click.command()
@log_options
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Directory to write: its path ends in NAME/VERSION."
)
@click.option("--hidden", type=click.IntRange(4, 1024), help="Units of state.  [default: by the log's size]")
@click.option("--epochs", type=click.IntRange(1, 1000), help="At most; the best counts.  [default: by the log's size]")
@CELL_OPTION
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same model.")
@click.option(
    "--from-model",
    type=click.Path(path_type=Path),
    help="Start from this model's weights: its items stay, new ones are added, units and cell are taken over.",
)
@click.option(
    "--catalogue",
    type=click.Path(path_type=Path),
    help="File of items, as the worker's --catalogue: those without clicks are placed by their category.",
)
@click.option("--resume", is_flag=True, help="Go on after the last epoch of a training to --out that was killed.")
@DEVICE_OPTION
@THREADS_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print what was written and its figures as one JSON object.")
def train(
    log: Path,
    out: Path,
    hidden: int | None,
    epochs: int | None,
    cell: str | None,
    seed: int,
    from_model: Path | None,
    catalogue: Path | None,
    resume: bool,
    device: str,
    threads: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a model on a click LOG and convert it to ONNX.

    LOG is CSV (.csv, .csv.gz), Parquet or JSON lines with user_id (or session_id), item_id, event_type and timestamp:
    a file, a directory of them or a quoted pattern. A log larger than memory is sorted on disk, under TMPDIR.
    The newest tenth, or a day if that is longer, but at most a third, is held out to choose the best epoch and to
    calibrate the anomalies; then the newest clicks are learned too. Ctrl-C goes on with the best model so far. After
    each epoch a checkpoint is left in OUT.training, until the model is written; OUT/report.html then tells how it went.

    \b
    Examples:
      eddy train clicks.parquet --out models/mine/1
      eddy train views.csv.gz --item-col article --until 2017-10-03T03:00:00 --out models/news/1
      eddy train sessions.csv --in-order --out models/paper/1
    """
    from export.model.writable import check_name, check_place
    from export.train.interrupts import ending_at_once
    from stream.errors import ConfigError

    with Bar() as bar, ending_at_once(bar.__exit__):
        check_name(out)
        check_place(out)
        if from_model and given["in_order"]:
            raise ConfigError(
                "--from-model tells what is new in the log by its times, and with --in-order it has none: leave one out"
            )
        clicks = _read(bar, log, given)

        import torch  # takes seconds: a wrong file name is told before

        from export.pipeline import train_model
        from export.train.settings import TrainSettings, choose_device
        from export.train.warm_start import read_older

        torch.set_num_threads(threads)
        place = choose_device(device)
        typed = {name: value for name, value in (("hidden", hidden), ("epochs", epochs), ("cell", cell)) if value}
        older = read_older(from_model) if from_model else None
        taken = {"hidden": older.network.sizes.hidden, "cell": older.network.sizes.cell} if older else {}
        chosen: dict[str, Any] = {**taken, **typed}
        by_size = TrainSettings.for_log(len(clicks), hidden, epochs, seed)
        manifest = train_model(out, clicks, replace(by_size, device=place, **chosen), bar, resume, older, catalogue)
    if as_json:
        found = {"directory": str(out), "report": str(out / "report.json"), "items": manifest.items}
        click.echo(json.dumps({**found, "quality": manifest.quality, "training": manifest.training}))
        return
    click.echo(f"wrote {out} ({manifest.items:,} items), and how it went: {out / 'report.html'}")
    click.echo(f"Next: eddy evaluate {out} LOG, or eddy worker --model {out}")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@log_options
@setting_option("exclude_recent")
@click.option("--judge-from", metavar="TIME", help="Earlier clicks only build the users' states.")
@setting_option("device")
@rule_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def evaluate(
    model: Path, log: Path, exclude_recent: int, judge_from: str | None, device: str, as_json: bool, **given: Any
) -> None:
    """Recall and MRR of MODEL on a LOG, beside baselines.

    The baselines: popularity, session popularity, Markov, co-occurrence and VS-KNN, from the model's training sessions.

    The log runs through the serving engine in time order, users from a zero state. Each list is judged by the user's
    next click in the same session; an item the model does not know is a miss for every method. The whole catalogue is
    ranked, less the user's last --exclude-recent items, for every method. Equal scores rank the item with more training
    clicks first. Intervals are 95% bootstrap over sessions.

    --json adds recall, MRR and NDCG at 1, 5, 10 and 20, figures by position in the session and by the popularity of
    what came next, and what the lists hold: coverage of the catalogue, popularity, cold items, categories.

    --exclude-recent and the rules, from --exclude-events on, have the worker's defaults and variables: with the same
    options the lists are those that the worker writes. The rules hold for eddy's lists only. --exclude-recent 0 ranks
    the whole catalogue, as published comparisons do.

    \b
    Examples:
      eddy evaluate models/mine/1 later.parquet
      eddy evaluate models/news/1 views.csv.gz --item-col article --from 2017-10-03T03:00:00 --json
      eddy evaluate models/mine/1 later.parquet --catalogue items.csv --only-available --max-per-category 4
    """
    rules = take_rules(given)
    from export.evaluate.evaluate import evaluate as measure
    from export.log.times import parse_time
    from stream.errors import ConfigError

    with Bar() as bar:
        if judge_from is not None and given["in_order"]:
            raise ConfigError("--judge-from is a time, and with --in-order the log has none: leave one out")
        judged_from_ms = None if judge_from is None else parse_time(judge_from)
        clicks = _read(bar, log, given)
        figures = {"log": str(log), **measure(model, clicks, exclude_recent, device, bar, judged_from_ms, rules)}
    if as_json:
        click.echo(json.dumps(figures))
    else:
        click.echo(_table(figures))


def _table(figures: dict[str, Any]) -> str:
    """The figures of `eddy evaluate` for people."""
    from export.evaluate.baselines import NAMES

    rows = [f"{figures['model']} on {figures['clicks']:,} clicks, {figures['judged']:,} judged"]
    rows.append(f"{'':20}{'recall@20':>10}{'MRR@20':>9}{'NDCG@20':>9}{'coverage':>10}{'cold':>8}")
    for name in ("eddy", *NAMES):
        one = figures[name]
        quality = f"{one['recall20']:>10.4f}{one['mrr20']:>9.4f}{one['ndcg20']:>9.4f}"
        rows.append(f"{name:20}{quality}{one['coverage20']:>10.1%}{one['cold20']:>8.1%}")
    for measure, title in (("recall20", "recall@20"), ("mrr20", "MRR@20")):
        lead = figures["lead"][measure]
        low, high = lead["95"]
        rows.append(f"eddy - {lead['over']}, {title}: {lead['mean']:+.4f} (95%: {low:+.4f} to {high:+.4f})")
    rows += [f"{rule}: {share:.4%} of the clicks" for rule, share in figures["calibration"].items()]
    rows += figures["remarks"]
    return "\n".join(rows)


@click.command()
@log_options
@setting_option("broker")
@click.option(
    "--topic",
    default=Topics().clicks,
    envvar=variable("clicks_topic"),
    show_default=True,
    help="Topic to publish to: the worker's --clicks-topic.",
)
@click.option("--speed", default="1", show_default=True, help="Times the log's own pace, or max.")
@setting_option("max_future_s")
@setting_option("max_message_bytes")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def replay(
    log: Path,
    broker: str,
    topic: str,
    speed: str,
    max_future_s: float,
    max_message_bytes: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Publish a LOG to Kafka, keyed by user, in time order.

    A click that a worker would refuse, such as one with a time in the future, is left out and counted with the reason.
    EDDY_CLICKS_TOPIC and the worker's other variables hold here too.

    \b
    Examples:
      eddy replay clicks.parquet --speed max
      eddy replay views.csv.gz --item-col article --broker k1:9092 --speed 60
    """
    from export.replay import counted
    from export.replay import replay as publish
    from stream.wire.json import JsonCodec

    pace = _pace(speed)
    with Bar() as bar:
        clicks = _read(bar, log, given)
        bar.begin("publishing", len(clicks))
        codec = JsonCodec(max_message_bytes, int(max_future_s * 1000))
        sent = publish(clicks, broker, topic, pace, codec, bar.seen)
    if as_json:
        click.echo(json.dumps(sent))
        return
    click.echo(f"{sent['clicks']:,} clicks on {topic} in {sent['seconds']:.1f} s, {sent['clicks_per_s']:,} clicks/s")
    left_out = sum(sent["left_out"].values())
    if left_out:
        click.echo(f"{left_out:,} left out that a worker would refuse: {counted(sent['left_out'])}")


def _pace(speed: str) -> float | None:
    """None = as fast as the broker takes it."""
    if speed == "max":
        return None
    try:
        pace = float(speed)
    except ValueError:
        pace = 0.0
    if not pace > 0:
        raise click.BadParameter(f"{speed!r} is neither a number above 0 nor max", param_hint="--speed")
    return pace
