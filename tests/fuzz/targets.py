"""What is fuzzed: each target makes an input from a random generator and reads it as Eddy does.

The contract: an input gives a result or the documented error class, and nothing else. `run` returns how it ended; any
other exception, and a broken promise about the result, is a finding. The same seed makes the same input.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from export.log.log import log_clicks, read_log
from stream.detect.behaviour import BehaviourDetector
from stream.errors import ArtifactError, BadClick, ConfigError, Dropped, EddyError
from stream.events import Origin, Partition
from stream.kafka.changelog import Mark
from stream.lists.catalogue import item_ids, read_catalogue
from stream.manifest import FILES, read_manifest, sha256
from stream.mapping.parse import parse_mapping, read_mapping
from stream.mapping.shape import message_shape
from stream.model.probe import batch_invariant
from stream.model.runtime import load_model
from stream.state.arena import Arena
from stream.wire import json as wire
from stream.wire.dead_letter import dead_letter
from stream.wire.json import JsonCodec
from stream.wire.pseudonym import PseudonymousCodec, Pseudonyms
from stream.worker.served import open_engine

NOW_MS = 1_760_000_000_000
ONE = Partition("clicks", 0)
MOST_BYTES = 16_384
DOCUMENTED: dict[str, type[EddyError]] = {"decode": BadClick, "manifest": ArtifactError, "model": ArtifactError}
"""Target -> its error class; ConfigError for the others."""

NASTY: list[Any] = [
    *(None, True, False, 0, -1, 17, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, 0.0, -0.0, 17.0, 8.5, 1e308, 1e-320),
    *("", " ", "u1", "i1", "17.0", "1e400", "NaN", "Infinity", "-1", "null", "x" * 256, "x" * 257, "\x00", "\ud83d"),
    *(
        "2024-12-01",
        "2024-12-01T15:30:00.250+02:00",
        "20241301",
        "0000-00-00",
        "\uff19\uff19",
        "é" * 64,
        "a,b",
        'a"b',
        "a\nb",
    ),
    *([], {}, [1], {"a": 1}, [[[[]]]], NOW_MS, NOW_MS / 1000, NOW_MS * 1000, str(NOW_MS), 20241201, 662_687_999_999),
]
FIELDS = [*wire.Plain.__struct_fields__, "x", "user", "item_id ", ""]


def mutated(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """The bytes with some changes: bits, bytes, pieces removed, repeated, moved or replaced."""
    for _ in range(rng.randrange(most)):
        at, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        end = min(end, at + rng.choice((1, 2, 8, 1000)))
        piece = rng.choice(
            (b"", rng.randbytes(rng.randrange(1, 9)), data[at:end] * 2, b"\xff", b"\x00", b'"', b"9" * 40)
        )
        data = data[:at] + piece + data[end:]
    return data


MAPPING = """
[fields]
user_id = ["who.user_id", "who.user", "x"]
item_id = ["what[0].item_id", "what[1].item_id"]
timestamp = "timestamp"
event_type = "event_type"
price = "what[0].price"
category = "category"
event_id = "who.event_id"
[event_types]
view = "seen"
[events]
drop = ["17"]
drop_without = ["item_id"]
"""


def nested(rng: random.Random, event: dict[str, Any]) -> Any:
    """A click as MAPPING reads it; sometimes with an odd value in the place of an object or a list."""
    who = {name: event.pop(name) for name in ("user_id", "user", "event_id") if name in event}
    what = [{name: event.pop(name) for name in ("item_id", "price") if name in event}]
    found = event | {"who": who, "what": what}
    if rng.random() < 0.2:
        found[rng.choice(("who", "what"))] = rng.choice((*NASTY, [who], [what, who], {"item_id": what}))
    return found


def message(rng: random.Random, mapped: bool = False) -> tuple[bytes | None, bytes | None]:
    """Key and value of a message: a click with odd values in some fields, often damaged."""
    user = rng.choice(("u1", "17", 17, "ü", rng.choice(NASTY)))
    event: dict[str, Any] = {"user_id": user, "item_id": "i1", "timestamp": NOW_MS - rng.randrange(10**10)}
    for _ in range(rng.randrange(4)):
        event[rng.choice(FIELDS)] = rng.choice(NASTY)
    if rng.random() < 0.1:
        event.pop(rng.choice(list(event)))
    whole: Any = nested(rng, event) if mapped else event
    value: bytes | None = json.dumps(whole if rng.random() < 0.95 else rng.choice(NASTY)).encode()
    key: bytes | None = str(user).encode(errors="surrogatepass")
    if rng.random() < 0.5:
        value = mutated(rng, value or b"")
    if rng.random() < 0.1:
        key = mutated(rng, key or b"")
    return rng.choice((key, key, key, None, b"")) if rng.random() < 0.1 else key, value if rng.random() < 0.98 else None


class Fuzz:
    """The targets. They write their files into `directory`.

    model  a small model directory, whose files are damaged
    """

    def __init__(self, directory: Path, model: Path) -> None:
        self._model = model
        self._copy = directory / "damaged" / "1"
        shutil.copytree(model, self._copy)
        self._files = {name: (model / name).read_bytes() for name in [*FILES, "manifest.json"]}
        self._file = directory / "file"
        self._engine = open_engine(load_model(model, "cpu"), model, 5, 1, 0.05)
        self._index = self._engine.model.index
        plain = JsonCodec(65_536, 3_600_000)
        self._mapped = JsonCodec(65_536, 3_600_000, message_shape(parse_mapping(MAPPING, "fuzz").of_topic()))
        self._codecs = [plain, self._mapped, PseudonymousCodec(plain, Pseudonyms(b"0123456789abcdef"))]
        self._mapping = directory / "mapping.toml"
        self.targets: dict[str, Callable[[random.Random], str]] = {
            "decode": self.decode,
            "log": self.log,
            "mapping": self.mapping,
            "manifest": self.manifest,
            "model": self.model,
            "catalogue": self.catalogue,
            "changelog": self.changelog,
        }

    def run(self, target: str, seed: int) -> str:
        """Read the input of a seed. Returns "result" or the name of the documented error class."""
        try:
            return self.targets[target](random.Random(f"{target} {seed}"))
        except DOCUMENTED.get(target, ConfigError) as exc:
            error = exc
        assert target == "decode" or "\n" not in str(error).strip(), "the error has several lines"
        return type(error).__name__

    def decode(self, rng: random.Random) -> str:
        """A message is a click that stays the same if it is written and read again, or a dead letter that fits."""
        codec = rng.choice(self._codecs)
        key, value = message(rng, mapped=codec is self._mapped)
        try:
            click = codec.decode(key, value, NOW_MS)
            codec.check_key(key, click.user_id)
        except Dropped:
            raise
        except BadClick as exc:
            record = codec.keep(SimpleNamespace(offset=1, timestamp=-1, key=key, value=value))
            letter = dead_letter(Origin("clicks", 0, 1), record, exc, MOST_BYTES)
            assert sum(len(part or b"") for part in letter) <= MOST_BYTES
            raise
        plain = self._codecs[0]
        again = plain.decode(click.user_id.encode(), wire.encode(click), NOW_MS)
        assert again == click
        self._engine.encoder.columns([click], [Origin("clicks", 0, 1)])
        return "result"

    def log(self, rng: random.Random) -> str:
        """A log file: JSON lines or CSV."""
        rows = [{"user_id": "u1", "item_id": f"i{n}", "timestamp": NOW_MS + n} for n in range(rng.randrange(1, 6))]
        for row in rows:
            row |= {rng.choice(FIELDS): rng.choice(NASTY) for _ in range(rng.randrange(3))}
        if rng.random() < 0.5:
            path, data = self._file.with_suffix(".jsonl"), "\n".join(map(json.dumps, rows)).encode()
        else:
            names = list(rows[0])
            lines = [rng.choice(",;\t|").join(names), *(",".join(str(row.get(name)) for name in names) for row in rows)]
            path, data = self._file.with_suffix(".csv"), "\n".join(lines).encode(errors="replace")
        path.write_bytes(mutated(rng, data))
        log = read_log(path)
        assert len(list(log_clicks(log))) == len(log) > 0
        return "result"

    def mapping(self, rng: random.Random) -> str:
        """A mapping file, damaged, and a log that it reads: an error is one line."""
        self._mapping.write_bytes(mutated(rng, MAPPING.encode(), most=3))
        file = read_mapping(self._mapping)
        message_shape(file.mapping.of_topic())
        events = [nested(rng, {"user_id": "u1", "item_id": "i1", "timestamp": NOW_MS}) for _ in range(3)]
        path = self._file.with_suffix(".jsonl")
        path.write_text("\n".join(map(json.dumps, events)))
        log = read_log(path, mapping=file)
        assert len(list(log_clicks(log))) == len(log) > 0
        return "result"

    def manifest(self, rng: random.Random) -> str:
        """manifest.json with other values, or damaged."""
        whole: dict[str, Any] = json.loads(self._files["manifest.json"])
        for _ in range(rng.randrange(3)):
            field: Any = whole
            name: Any = rng.choice([*whole])
            while isinstance(field[name], dict | list) and len(field[name]) and rng.random() < 0.6:
                field = field[name]
                name = rng.choice([*field] if isinstance(field, dict) else range(len(field)))
            field[name] = rng.choice(NASTY)
        data = json.dumps(whole).encode()
        (self._copy / "manifest.json").write_bytes(mutated(rng, data) if rng.random() < 0.5 else data)
        try:
            read_manifest(self._copy)
        finally:
            (self._copy / "manifest.json").write_bytes(self._files["manifest.json"])
        return "result"

    def model(self, rng: random.Random) -> str:
        """A file of the model is damaged, and its hash in the manifest is right."""
        name = rng.choice(("items.json", "step.onnx", "surprise.onnx", "score.onnx", "calibration.npz"))
        (self._copy / name).write_bytes(mutated(rng, self._files[name]))
        try:
            manifest = json.loads(self._files["manifest.json"])
            manifest["files"][name] = sha256(self._copy / name)
            (self._copy / "manifest.json").write_text(json.dumps(manifest))
            model = load_model(self._copy, "cpu")
            BehaviourDetector.load(self._copy, model.manifest)
            batch_invariant(model, 5)
        finally:
            for restored in (name, "manifest.json"):
                (self._copy / restored).write_bytes(self._files[restored])
        return "result"

    def catalogue(self, rng: random.Random) -> str:
        """A catalogue file: JSON lines or CSV."""
        lines = []
        for n in range(rng.randrange(5)):
            line: dict[str, Any] = {"item_id": f"i{n}", "category": "shoes", "in_stock": True}
            line |= {rng.choice([*line, "market"]): rng.choice(NASTY) for _ in range(rng.randrange(2))}
            lines.append(line)
        suffix = rng.choice((".jsonl", ".csv"))
        if suffix == ".jsonl":
            text = "\n".join(map(json.dumps, lines))
        else:
            names = ["item_id", "category", "in_stock"]
            rows = (",".join(str(line.get(name)) for name in names) for line in lines)
            text = "\n".join([",".join(names), *rows])
        path = self._file.with_suffix(suffix)
        path.write_bytes(mutated(rng, text.encode(errors="replace")))
        try:
            found = read_catalogue(path, self._index, rng.choice(([], ["category"])))
        finally:
            ids = _outcome(lambda: item_ids(path))
        assert ids is not None
        assert len(found.listed) == len(self._index)
        return "result"

    def changelog(self, rng: random.Random) -> str:
        """Rows and a mark of a partition, damaged: a damaged row is reported as broken, or another layout."""
        engine = self._engine
        if not len(engine.arena):
            clicks = [wire_click(f"u{n % 4}", f"i{n}", event_id=f"e{n}" if n % 3 else None) for n in range(24)]
            columns = engine.encoder.columns(clicks, [Origin("clicks", 0, n) for n in range(len(clicks))])
            engine.commit(engine.process(columns, NOW_MS))
        written = engine.arena.rows(ONE)
        rows: dict[bytes, bytes | None] = {key: mutated(rng, row) for key, row in written.items()}
        if rng.random() < 0.3:
            rows[rng.choice([*rows])] = rng.choice((None, b"", b"\x00" * 8, rng.randbytes(40)))
        arena = Arena(engine.arena.dtype, engine.arena.model)
        broken = arena.load(ONE, rows)
        whole = {key: row for key, row in rows.items() if row == written[key]}
        assert arena.rows(ONE) == whole
        assert set(broken) == {key for key, row in rows.items() if row is not None and key not in whole}
        assert arena.totals(ONE).users == len(whole)
        mark = Mark(7, *arena.totals(ONE)).encode()
        Mark.decode(mutated(rng, mark) if rng.random() < 0.3 else mark, ONE)
        return "result"


def wire_click(user: str, item: str, **more: Any) -> Any:
    event = {"user_id": user, "item_id": item, "timestamp": NOW_MS} | {k: v for k, v in more.items() if v is not None}
    return JsonCodec(65_536, 0).decode(user.encode(), msgspec.json.encode(event), NOW_MS)


def _outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except ConfigError:
        return None
