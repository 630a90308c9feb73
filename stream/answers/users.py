"""Answers about users from their committed rows.

A row is put in place only after Kafka has it, so an answer never has a click whose transaction may be rolled back. The
list is made by the code that makes the lists of decisions, from the same state: it is the list in the decision on the
user's last click.

Answers are not made in the engine thread, which a cycle may keep busy for a second. The row is copied under the arena's
lock, so that it does not change meanwhile. Then the model runs on the copy, beside a cycle.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from stream.ahead.again import foresee_again
from stream.ahead.forecast import foreseen, served_columns
from stream.ahead.reasons import intent_without
from stream.answers.asked import Asked
from stream.detect.episodes import ALERTED, OPENED, UNUSUAL_MS
from stream.detect.windows import GAP_MS, ITEM_NATS, LAST, LATE, MOST_GAP_MS, PER_NAT
from stream.engine.columns import NO_CATEGORIES, Columns
from stream.engine.decide import Decider
from stream.engine.engine import Engine
from stream.engine.step import Steps
from stream.errors import Unanswered
from stream.events import Click, Origin, Partition, click_of
from stream.past.because import Because
from stream.past.clicks import Names, past_of, type_hashes, type_indices
from stream.sessions.track import FORECAST
from stream.state.arena import NO_SLOT, Owner
from stream.state.row import NO_ITEM, Rows, new_rows
from stream.wire import output

ZERO, NONE = np.zeros(1, np.int64), np.array([-1], np.intp)
NO_NAMES = Names(np.zeros(1, np.uint64), np.zeros(1, np.uint16))


class Found(NamedTuple):
    """An answer, and what it was looked for in.

    answer      JSON object; None = none of the partitions has a row of the user
    partitions  numbers of the partitions that this worker has, and whose rows it has read
    because     computes what the answer has more: the clicks that each item comes from, and those that the intent comes
                from. It takes many times as long as the answer; any thread may call it. None = not asked for
    """

    answer: dict[str, Any] | None
    partitions: frozenset[int]
    because: Callable[[], dict[str, Any]] | None = None


class Users:
    """Answers about the users of one worker. One thread may call it, while the engine works.

    positions  returns the partitions whose rows are in the arena; all others are of other workers, or are being read
    """

    def __init__(self, engine: Engine, positions: Callable[[], Mapping[Partition, int]]) -> None:
        self._engine = engine
        self._positions = positions
        self._because = Because(engine.model)

    def recommendations(self, user: bytes, asked: Asked, new_if_in: frozenset[int] | None) -> Found:
        """The list of a user now.

        user       the user id, as rows have it
        new_if_in  without a row, the answer is the list of a new user, if this worker has all these partitions; None:
                   there is no answer without a row
        Raises Unanswered if the catalogue does not have the category.
        """
        found, held = self._find(user)
        if found is None and (new_if_in is None or not new_if_in <= held):
            return Found(None, held)
        owner, rows = found or (_nobody(user), self._new())
        return self._list(owner, rows, asked, held)

    def state(self, user: bytes, k: int) -> Found:
        """What is known of a user, with the k items that the model believes most likely to be clicked next."""
        found, held = self._find(user)
        return Found(None if found is None else self._state(*found, k), held)

    def _find(self, user: bytes) -> tuple[tuple[Owner, Rows] | None, frozenset[int]]:
        """A copy of the row of a user, and the partitions that were looked in: all that this worker has.

        Of two rows, as there are if producers use several partitioners, the newer one.
        """
        with self._engine.arena.lock:
            partitions = list(self._positions())
            owners = [(partition, user) for partition in partitions]
            slots = self._engine.arena.find(owners).slots
            owners = [owner for owner, slot in zip(owners, slots.tolist(), strict=True) if slot != NO_SLOT]
            known, rows = self._engine.committed.remembered(owners) if owners else (np.zeros(0, np.bool_), self._new())
        held = frozenset(partition.number for partition in partitions)
        if not known.any():
            return None, held
        newest = int(np.where(known, rows["last_ms"], -1).argmax())
        return (owners[newest], rows[newest : newest + 1]), held

    def _new(self) -> Rows:
        arena = self._engine.arena
        return new_rows(1, arena.dtype, arena.model)

    def _list(self, owner: Owner, rows: Rows, asked: Asked, held: frozenset[int]) -> Found:
        engine, (partition, user) = self._engine, owner
        items, names = len(engine.model.items), engine.model.names
        last = np.where(rows["recent"][:, 0] == NO_ITEM, items, rows["recent"][:, 0]).astype(np.int64)
        decide = engine.decide.asked(asked.k, asked.category is not None)
        category = NO_CATEGORIES if asked.category is None else _code(decide, asked.category)
        times, offsets = rows["last_ms"], rows["source_offset"]
        clicks = Columns([owner], np.zeros(1, np.intp), offsets, times, last, ZERO, _no_hold(), category, NO_NAMES)
        state = [rows[name] for name in engine.model.score_inputs]
        steps = Steps(_nats(), _nats(), ZERO, ZERO, rows["recent"], rows["held"], state, state, NONE)
        left_out = engine.encoder.items(asked.exclude).astype(np.int32)[None, :]
        lists = decide.again(clicks, steps, left_out)
        known, offset = bool(rows["clicks"][0]), int(rows["source_offset"][0])
        [made] = output.recommendations(
            names,
            engine.model.manifest.label,
            [Click(user.decode(), "", int(rows["last_ms"][0]))],
            [Origin(*partition, offset)],
            lists.items,
            lists.log_probs,
            lists.counts,
            lists.propensities,
            lists.explored,
            NONE,
            _nats(),
            np.ones(1),
        )
        answer: dict[str, Any] = {
            "user_id": made.user_id,
            "known": known,
            "last_click": click_of(made.id) if known else None,
            "timestamp": made.timestamp if known else None,
            "items": made.items,
            "log_probs": made.log_probs,
            "model": made.model,
        }
        if made.propensities is not None:
            answer |= {"propensities": made.propensities, "explored": made.explored}
        if not asked.because:
            return Found(answer, held)
        listed = lists.items[0, : int(lists.counts[0])]
        return Found(answer, held, partial(self._reasons, rows[0], listed, asked.because))

    def _reasons(self, row: np.void, listed: npt.NDArray[np.int64], most: int) -> dict[str, Any]:
        """The clicks that each of the listed items comes from, and those that the intent comes from."""
        past, served = past_of(row), self._engine.model.manifest.ahead
        found: dict[str, Any] = {"because": self._because.of(past, listed, most)}
        graph, clicks = self._engine.model.ahead, self._because.known(past)
        if graph is None or served is UNSET or served.intent is None or not len(clicks.item):
            return found
        intent, without = intent_without(graph, row, clicks)
        others = len(clicks.item) - len(without)
        strongest = [at for at in np.argsort(without, kind="stable")[:most].tolist() if without[at] < intent]
        named = [
            self._because.named(clicks, others + at) | {"without": round(float(without[at]), output.DIGITS)}
            for at in strongest
        ]
        return found | {"intent": round(intent, output.DIGITS), "intent_because": named}

    def _state(self, owner: Owner, rows: Rows, k: int) -> dict[str, Any]:
        engine, (partition, user) = self._engine, owner
        model, [row] = engine.model, rows
        episode, depth = self._episode(owner, rows), min(k, len(model.items))
        items, log_probs = model.score([rows[name] for name in model.score_inputs], depth)
        recent = row["recent"][row["recent"] != NO_ITEM].tolist()
        return {
            "user_id": user.decode(),
            "clicks": int(row["clicks"]),
            "last_click": Origin(*partition, int(row["source_offset"])).id,
            "timestamp": int(row["last_ms"]),
            "last_items": [model.items[item] if item < len(model.items) else None for item in recent],
            "item_p_values": _p_values(row),
            "last_clicks": self._last_clicks(row),
            "beliefs": [
                {"item_id": item, "probability": probability}
                for item, probability in zip(
                    model.names.take(items[0]).tolist(),
                    np.exp(log_probs[0].astype(np.float64)).round(5).tolist(),
                    strict=True,
                )
            ],
            "episode": episode and {"id": episode["id"], "timestamp": episode["updated"]},
            "episodes": [episode] if episode else [],
            "partition": partition.number,
            "model": model.manifest.label,
        } | self._predicted(rows)

    def _predicted(self, rows: Rows) -> dict[str, Any]:
        """What was predicted after the user's last click, as in its decision; empty if the model predicts nothing, or
        if no click of the user was decided."""
        model, manifest = self._engine.model, self._engine.model.manifest
        if model.ahead is None or manifest.ahead is UNSET or not rows["clicks"][0]:
            return {}
        told = foresee_again(model.ahead, rows, manifest.event_types)
        [(following, leaves, *_)] = foreseen(told, manifest.event_types, manifest.ahead)
        *_, intent, returns = served_columns(rows[FORECAST.name], manifest.ahead)
        kept = {"intent": intent, "returns_7d": returns}
        more = {name: round(float(value[0]), output.DIGITS) for name, value in kept.items() if value is not None}
        return {"next": following, "leaves": leaves} | more

    def _last_clicks(self, row: np.void) -> list[dict[str, Any]]:
        """The user's last clicks whose p-values the row has, oldest first."""
        model, types, p_values = self._engine.model, self._engine.model.manifest.event_types, _p_values(row)
        kinds = type_indices(past_of(row).names.event_type[::-1], type_hashes(types)).tolist()
        return [
            {
                "timestamp": time_ms,
                "event_type": types[kind] if kind < len(types) else None,
                "item_id": model.items[item] if item < len(model.items) else None,
                "p_value": p_value,
            }
            for time_ms, kind, item, p_value in zip(_times(row), kinds, row["recent"].tolist(), p_values, strict=False)
        ][::-1]

    def _episode(self, owner: Owner, rows: Rows) -> dict[str, Any] | None:
        """The user's last episode as the row has it, as in `with_episodes`; None if there was none."""
        (partition, _), [row] = owner, rows
        unusual_ms = int(row[UNUSUAL_MS])
        if not unusual_ms:
            return None
        id_ = Origin(*partition, 0).at(int(row[OPENED])).id
        return _episode_entry(id_, unusual_ms, float(np.exp(-np.float64(row[ALERTED]))), None)


def with_episodes(state: dict[str, Any], alerts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add to the answer of `Users.state` the episodes of the alerts that the worker keeps, newest first.

    alerts   on this user, newest first, as `Alerts.latest` returns them
    returns  the state whose `episodes` are: id; opened, the time of the first click, ms, None if its alert is not kept;
             updated, the time of the last unusual click that is known; alerts, how many are kept; and p_value and
             reason of the latest alert, None if it is not kept. The row has the p-value of the last episode
    """
    found: dict[str, dict[str, Any]] = {}
    for alert in alerts:
        id_, time_ms = alert["episode"], alert["timestamp"]
        one = found.setdefault(id_, _episode_entry(id_, time_ms, alert["p_value"], alert["reason"]))
        one["alerts"] += 1
        one["updated"] = max(one["updated"], time_ms)
        if alert["id"] == id_:
            one["opened"] = time_ms
    for of_row in state["episodes"]:
        one = found.setdefault(of_row["id"], of_row)
        one["updated"] = max(one["updated"], of_row["updated"])
    return state | {"episodes": sorted(found.values(), key=lambda one: -int(one["updated"]))}


def _episode_entry(id_: str, updated_ms: int, p_value: float, reason: str | None) -> dict[str, Any]:
    return {"id": id_, "opened": None, "updated": updated_ms, "alerts": 0, "p_value": p_value, "reason": reason}


def _times(row: np.void) -> list[int | None]:
    """The time of each of the user's last clicks, newest first, ms. None where it is not known: of a late click, and
    before a pause that is longer than the row can hold."""
    newest, found = int(row["last_ms"]), list[int | None]()
    for gap_ms in row[GAP_MS][: int(row["clicks"])].tolist():
        found.append(None if gap_ms == LATE else newest)
        if gap_ms == MOST_GAP_MS:
            break
        newest -= max(gap_ms, 0)  # a late click does not lower the largest time
    return [*found, *[None] * (min(int(row["clicks"]), LAST) - len(found))]


def _p_values(row: np.void) -> list[float]:
    """The p-value of the item of each of the user's last clicks, newest first: how usual the item was by itself."""
    nats = row[ITEM_NATS][: int(row["clicks"])].astype(np.float64) / PER_NAT
    found: list[float] = np.exp(-nats).round(6).tolist()
    return found


def _code(decide: Decider, category: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The code of a category of the catalogue (1,). Raises Unanswered if there is none."""
    codes = decide.categories()
    if not codes:
        raise Unanswered(
            400, "category needs a catalogue with categories; start the workers with --catalogue, or leave it out"
        )
    if category not in codes:
        raise Unanswered(400, f"the catalogue has no category {category[:64]!r} for an item of the model")
    return np.array([codes[category]], np.int32)


def _nobody(user: bytes) -> Owner:
    """Stands for the partition of a user without a row. Exploration derives its random numbers from it."""
    return Partition(user.decode(), 0), user


def _nats() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.zeros(1, np.float32)


def _no_hold() -> np.ndarray[Any, np.dtype[np.int8]]:
    return np.zeros(1, np.int8)
