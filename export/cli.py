"""The commands `eddy train`, `evaluate` and `replay`: command line -> log, settings and a function call.

The entry points in pyproject.toml add these commands to `eddy`, which prints an EddyError as one line. Slow imports are
inside the commands, so that --help is fast.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from export.options import DEVICE_OPTION, NETWORK_OPTION, THREADS_OPTION, log_options, take_log
from export.progress import Bar
from stream.errors import ConfigError
from stream.kafka_config import read_kafka_config
from stream.ops.options import (
    clicks_topic_option,
    connection_options,
    rule_options,
    setting_option,
    settings_file_option,
    take_rules,
)


@click.command()
@log_options
@settings_file_option
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Directory to write: its path ends in NAME/VERSION."
)
@click.option("--hidden", type=click.IntRange(4, 1024), help="Units of state.  [default: by log size]")
@click.option(
    "--epochs", type=click.IntRange(1, 1000), help="Maximum epochs; the best is kept.  [default: by log size]"
)
@NETWORK_OPTION
@click.option(
    "--intent-event",
    default="purchase",
    show_default=True,
    help="Event type whose probability in the rest of the session is predicted as `intent`.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same model.")
@click.option(
    "--from-model",
    type=click.Path(path_type=Path),
    help="Start from the weights of this model. Its items, units and network are kept, and new items are added.",
)
@click.option(
    "--catalogue",
    type=click.Path(path_type=Path),
    help="Item file, as for the worker's --catalogue. Items without clicks get an embedding from their category.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted training to --out after its last epoch.")
@DEVICE_OPTION
@THREADS_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print the model directory and its figures as one JSON object.")
def train(
    log: Path,
    out: Path,
    hidden: int | None,
    epochs: int | None,
    cell: str | None,
    intent_event: str,
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

    LOG is CSV (.csv, .csv.gz), Parquet, JSON lines or Avro with user_id (or session_id), item_id, event_type and
    timestamp: a file, a directory of them or a quoted pattern. A log larger than memory is sorted on disk (TMPDIR).
    The newest tenth of the clicks is held out, or a day if that is longer, but at most a third. This held-out slice
    decides the best epoch and calibrates the anomalies; a second training then includes it. Ctrl-C ends the training
    and continues with the best network so far. Each epoch writes a checkpoint to OUT.training, which is deleted when
    the model is written. OUT/report.html is the training report.

    \b
    Examples:
      eddy train clicks.parquet --out models/mine/1
      eddy train views.csv.gz --item-col article --until 2017-10-03T03:00:00 --out models/news/1
      eddy train sessions.csv --in-order --out models/paper/1
    """
    from export.train.interrupts import ending_at_once
    from export.writable import check_name, check_writable
    from stream.lists.catalogue import CATEGORY, read_catalogue
    from stream.manifest import read_manifest

    with Bar() as bar, ending_at_once(bar.__exit__):
        check_name(out)
        check_writable(out)
        if from_model and given["in_order"]:
            raise ConfigError(
                "--from-model needs times to find new clicks, and --in-order ignores them; omit one of the two"
            )
        if from_model:  # a large log takes minutes: report a wrong model or catalogue first
            read_manifest(from_model)
        if catalogue:
            read_catalogue(catalogue, {}, [CATEGORY])
        clicks = take_log(bar, log, given)

        bar.say("loading PyTorch")
        import torch  # slow import: report a wrong file name first

        from export.pipeline import train_model
        from export.train.settings import TrainSettings, choose_device
        from export.train.warm_start import read_older

        torch.set_num_threads(threads)
        chosen_device = choose_device(device)
        typed = {name: value for name, value in (("hidden", hidden), ("epochs", epochs), ("cell", cell)) if value}
        older = read_older(from_model) if from_model else None
        taken = {"hidden": older.network.sizes.hidden, "cell": older.network.sizes.cell} if older else {}
        chosen: dict[str, Any] = {**taken, **typed, "intent_event": intent_event}
        by_size = TrainSettings.for_log(len(clicks), hidden, epochs, seed)
        manifest = train_model(
            out, clicks, replace(by_size, device=chosen_device, **chosen), bar, resume, older, catalogue
        )
    if as_json:
        found = {"directory": str(out), "report": str(out / "report.json"), "items": manifest.items}
        click.echo(json.dumps({**found, "quality": manifest.quality, "training": manifest.training}))
        return
    click.echo(f"wrote {out} ({manifest.items:,} items); training report: {out / 'report.html'}")
    click.echo(f"Next: eddy evaluate {out} LOG, or eddy worker --model {out}")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@log_options
@settings_file_option
@setting_option("exclude_recent")
@click.option("--judge-from", metavar="TIME", help="Earlier clicks only update the states.")
@setting_option("device")
@rule_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def evaluate(
    model: Path, log: Path, exclude_recent: int, judge_from: str | None, device: str, as_json: bool, **given: Any
) -> None:
    """Measure recall and MRR of MODEL on a LOG, and compare with baselines.

    The baselines are popularity, session popularity, Markov, co-occurrence and VS-KNN, built from the model's training
    sessions.

    The serving engine processes the log in time order; users start from a zero state. The correct answer of each list
    is the user's next click in the same session. An item that the model does not know is a miss for every method. Every
    method ranks the whole catalogue without the user's last --exclude-recent items. Of items with equal scores, the one
    with more training clicks ranks first. Intervals are 95% bootstrap over sessions.

    --json adds recall, MRR and NDCG at 1, 5, 10 and 20; the figures by position in the session and by the popularity of
    the next item; and properties of the lists: coverage of the catalogue, popularity, cold items, categories.

    --exclude-recent and the rules, from --exclude-events on, have the worker's defaults and environment variables. With
    the same options the lists are those that the worker writes. The rules apply to the lists of eddy only.
    --exclude-recent 0 ranks the whole catalogue, as published comparisons do.

    \b
    Examples:
      eddy evaluate models/mine/1 later.parquet
      eddy evaluate models/news/1 views.csv.gz --item-col article --from 2017-10-03T03:00:00 --json
      eddy evaluate models/mine/1 later.parquet --catalogue items.csv --only-available --max-per-category 4
    """
    rules = take_rules(given)
    from export.evaluate.evaluate import evaluate as measure
    from export.log.times import parse_time
    from export.report.table import table

    with Bar() as bar:
        if judge_from is not None and given["in_order"]:
            raise ConfigError("--judge-from needs times, and --in-order ignores them; omit one of the two")
        judged_from_ms = None if judge_from is None else parse_time(judge_from)
        clicks = take_log(bar, log, given, model)
        figures = {"log": str(log), **measure(model, clicks, exclude_recent, device, bar, judged_from_ms, rules)}
    if as_json:
        click.echo(json.dumps(figures))
    else:
        click.echo(table(figures))


@click.command()
@log_options
@connection_options
@clicks_topic_option("publish to")
@click.option("--speed", default="1", show_default=True, help="Multiple of the log's own pace, or max.")
@setting_option("max_future_s")
@setting_option("max_message_bytes")
@setting_option("schema_registry")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def replay(
    log: Path,
    broker: str,
    kafka_config: str,
    clicks_topic: str,
    speed: str,
    max_future_s: float,
    max_message_bytes: int,
    schema_registry: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Publish a LOG to Kafka, keyed by user, in time order.

    With --mapping, the messages have the shape of the mapping's topic, with the mapped fields only, so that a worker
    with the same mapping can read them. Without it, they have Eddy's fields. Those of a mapping in Avro or Protobuf
    are written by the newest schema that the Schema Registry has for the topic (subject TOPIC-value).

    A click that a worker would reject, such as one with a time in the future, is left out and counted by its reason.
    EDDY_CLICKS_TOPIC and the worker's other environment variables apply.

    \b
    Examples:
      eddy replay clicks.parquet --speed max
      eddy replay views.csv.gz --item-col article --broker k1:9092 --speed 60
    """
    from export.replay import counted, form_of
    from export.replay import replay as publish

    pace = _pace(speed)
    config = read_kafka_config(kafka_config, os.environ)
    with Bar() as bar:
        clicks = take_log(bar, log, given)
        limits = max_message_bytes, int(max_future_s * 1000)
        form = form_of(clicks.mapping, clicks_topic, schema_registry, limits, config)
        bar.begin("publishing", len(clicks))
        sent = publish(clicks, broker, clicks_topic, pace, form, bar.seen, config)
    if as_json:
        click.echo(json.dumps(sent))
        return
    click.echo(
        f"published {sent['clicks']:,} clicks to {clicks_topic} in {sent['seconds']:.1f} s ({sent['clicks_per_s']:,}/s)"
    )
    left_out = sum(sent["left_out"].values())
    if left_out:
        click.echo(f"clicks left out because a worker would reject them: {left_out:,} ({counted(sent['left_out'])})")


def _pace(speed: str) -> float | None:
    """--speed as a multiple of the log's own pace; None = as fast as the broker accepts clicks."""
    if speed == "max":
        return None
    try:
        pace = float(speed)
    except ValueError:
        pace = 0.0
    if not pace > 0:
        raise click.BadParameter(f"{speed!r} is neither a number above 0 nor max", param_hint="--speed")
    return pace
