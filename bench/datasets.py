"""The public logs of the benchmarks, each split into a training part and a test part.

Data sets with their own test part: bolcom, yoochoose64, diginetica, and globo-dayN, which is trained on the days 1 to
N - 1. Data sets whose newest tenth is the test part: rees46, rees46-oct, retailrocket, taobao, taobao-users, trivago,
uci, and the synthetic returns and successors. With the suffix -reset every session is a separate user, in the training
too.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import polars as pl

from bench.command import stop
from bench.report import DATA_DIRECTORY

GLOBO_START_MS, DAY_MS = 1_506_826_800_000, 86_400_000
NEWEST = 0.1
"""In a log without its own test part, the sessions that begin in this newest share of the clicks are the test."""


class Split(NamedTuple):
    """The training part and the test part of a log, with the column names of the log reader.

    what    description of the split
    flags   options for `eddy train` and `eddy evaluate`
    judged  number of lists that must be judged, if the source gives it
    cut_ms  first time of the test, for logs whose users return
    """

    train: pl.DataFrame
    test: pl.DataFrame
    what: str
    flags: tuple[str, ...] = ()
    judged: int | None = None
    cut_ms: int | None = None


def read(name: str) -> pl.DataFrame:
    path = DATA_DIRECTORY / name
    if not path.is_file():
        stop(f"{path} does not exist: set EDDY_DATA to the directory of this file")
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)


def bolcom() -> Split:
    def part(word: str) -> pl.DataFrame:
        columns = {"session": "session_id", "item": "item_id", "ts": "timestamp"}
        return read(f"bolcom_sample_{word}.parquet").rename(columns).sort("timestamp", maintain_order=True)

    train = pl.concat([part("train"), part("valid")]).sort("timestamp", maintain_order=True)
    return Split(train, part("test"), "training and validation sessions together, as the reference's final training")


def pairs(name: str) -> Split:
    """Training sessions in order, no times; test sessions rebuilt from the (prefix, target) pairs of the papers."""
    train = read(f"{name}_train.parquet").rename({"session": "session_id", "item": "item_id"})
    test = read(f"{name}_test_pairs.parquet")
    sessions = whole_sessions(test["prefix"].to_list(), test["target"].to_list())
    frame = pl.DataFrame({"session_id": range(len(sessions)), "item_id": sessions}).explode("item_id")
    what = "rows in order, no times; every (prefix, target) pair is one judged list"
    return Split(train, frame, what, ("--in-order",), judged=len(test))


def whole_sessions(prefixes: list[list[int]], targets: list[int]) -> list[list[int]]:
    """The sessions from which the pairs were made. A pair that is a prefix of the pair before it is no new session.

    prefixes, targets  of the pairs; those of one session are adjacent, longest prefix first
    """
    sessions: list[list[int]] = []
    longer: list[int] = []
    for prefix, target in zip(prefixes, targets, strict=True):
        whole = [*prefix, target]
        if whole != longer:
            sessions.append(whole)
        longer = prefix
    return sessions


def globo(day: int) -> Split:
    columns = {"user_id": "user_id", "session_id": "session_id", "article_id": "item_id", "timestamp": "timestamp"}
    clicks = read("globo_clicks.parquet").select(list(columns)).rename(columns)
    begins = GLOBO_START_MS + (day - 1) * DAY_MS
    at = pl.col("timestamp")
    train, test = clicks.filter(at < begins), clicks.filter((at >= begins) & (at < begins + DAY_MS))
    return Split(train, test, f"trained on days 1 to {day - 1}, tested on day {day}", cut_ms=begins)


def rees46(share: float = NEWEST) -> Split:
    columns = {"u": "user_id", "session": "session_id", "pid": "item_id", "csid": "category", "etime": "timestamp"}
    return newest(read("rees46_sessions.parquet").select(list(columns)).rename(columns), 1000, share)


def retailrocket() -> Split:
    columns = {"visitorid": "user_id", "itemid": "item_id", "event": "event_type", "timestamp": "timestamp"}
    return newest(read("retailrocket_5000_visitors.csv.gz").select(list(columns)).rename(columns))


def taobao(share: float = NEWEST) -> Split:
    columns = {"user": "user_id", "item": "item_id", "category": "category", "action": "event_type", "ts": "timestamp"}
    return newest(read("taobao_2_hours.csv.gz").select(list(columns)).rename(columns), 1000, share)


def trivago() -> Split:
    """The actions whose reference is a hotel. Every session is a separate user, as in the source."""
    columns = {
        "session_id": "session_id",
        "reference": "item_id",
        "action_type": "event_type",
        "timestamp": "timestamp",
    }
    actions = read("trivago_100k.parquet").select(list(columns)).rename(columns)
    return newest(actions.filter(pl.col("item_id").str.contains(r"^[0-9]+$")), 1000)


def rees46_oct() -> Split:
    """The first minutes of a month: many users with few clicks each."""
    columns = {"user_id": "user_id", "user_session": "session_id", "product_id": "item_id", "category_id": "category"}
    kept = {**columns, "event_type": "event_type", "event_time": "timestamp"}
    events = read("rees46_2019_oct_sample.csv.gz").select(list(kept)).rename(kept)
    return newest(events.with_columns(_ms("timestamp", "%Y-%m-%d %H:%M:%S UTC")))


def taobao_users() -> Split:
    """Few users over nine days. All clicks of a user on one day are a session."""
    columns = {"user": "user_id", "item": "item_id", "category": "category", "action": "event_type", "ts": "timestamp"}
    clicks = read("taobao_114_users.csv.gz").select(list(columns)).rename(columns)
    session = pl.col("user_id").cast(pl.String) + "-" + (pl.col("timestamp") // 86_400).cast(pl.String)
    return newest(clicks.with_columns(session.alias("session_id")), 1000)


def uci() -> Split:
    """The invoices of a wholesaler of gifts. An invoice is a session; the order of its lines has no meaning."""
    columns = {"CustomerID": "user_id", "InvoiceNo": "session_id", "StockCode": "item_id", "InvoiceDate": "timestamp"}
    lines = read("uci_online_retail.parquet").filter(pl.col("CustomerID").is_not_null() & (pl.col("Quantity") > 0))
    return newest(lines.select(list(columns)).rename(columns).with_columns(_ms("timestamp", "%Y-%m-%d %H:%M:%S")))


def successors() -> Split:
    """A synthetic log: 300 items with three successors each. A fifth of the clicks follow popularity instead."""
    rng = np.random.default_rng(0)
    following, popular = rng.integers(0, 300, (300, 3)), 1 / np.arange(1, 301)
    popular /= popular.sum()
    rows: list[tuple[int, int, int, int]] = []
    for session in range(1_800):
        item, at = int(rng.choice(300, p=popular)), GLOBO_START_MS + int(rng.integers(14 * DAY_MS))
        for _ in range(1 + int(rng.geometric(0.2))):
            rows.append((session % 600, session, item, at))
            at += int(rng.integers(3_000, 120_000))
            item = int(following[item, rng.integers(3)] if rng.random() < 0.8 else rng.choice(300, p=popular))
    return newest(pl.DataFrame(rows, schema=["user_id", "session_id", "item_id", "timestamp"], orient="row"))


def returns() -> Split:
    """A synthetic log: 45 % of the next clicks return to an item of the session, in proportion to its clicks so far.

    Sessions have 14 to 40 clicks; almost half of the positions come after more than 8 different items. A click on an
    item that is new in the session is on one of the 60 items of the session's subject, of 30 subjects.
    """
    rng = np.random.default_rng(0)
    popular = 1 / np.arange(1, 61)
    popular /= popular.sum()
    rows: list[tuple[int, int, int, int]] = []
    for session in range(1_200):
        at = GLOBO_START_MS + int(rng.integers(14 * DAY_MS))
        subject = iter((60 * rng.integers(30) + rng.choice(60, 60, replace=False, p=popular)).tolist())
        clicked = [next(subject)]
        for _ in range(int(rng.integers(13, 40))):
            again = rng.random() < 0.45
            clicked.append(int(rng.choice(clicked)) if again else next(subject))
        for item in clicked:
            rows.append((session % 600, session, item, at))
            at += int(rng.integers(3_000, 120_000))
    return newest(pl.DataFrame(rows, schema=["user_id", "session_id", "item_id", "timestamp"], orient="row"))


def _ms(column: str, pattern: str) -> pl.Expr:
    return pl.col(column).str.to_datetime(pattern).dt.epoch("ms")


def newest(clicks: pl.DataFrame, unit_ms: int = 1, share: float = NEWEST) -> Split:
    """Split a log: the sessions that begin after the cut are the test. Without sessions the users are split.

    unit_ms  milliseconds per unit of the timestamp column
    share    of the clicks, at the end of the log: sessions that begin in it are the test
    """
    clicks = clicks.with_columns(pl.col("timestamp").cast(pl.Int64) * unit_ms).sort("timestamp", maintain_order=True)
    session = "session_id" if "session_id" in clicks.columns else "user_id"
    cut = int(clicks["timestamp"].quantile(1 - share, "nearest") or 0)
    began, at = pl.col("timestamp").min().over(session), pl.col("timestamp")
    train, test = clicks.filter((began < cut) & (at < cut)), clicks.filter(began >= cut)
    kind = "users" if session == "user_id" else "sessions"
    what = f"the {kind} that begin in the newest {share:.0%} of the clicks are the test"
    returning = cut if session == "session_id" and "user_id" in clicks.columns else None
    return Split(train, test, what, cut_ms=returning)


def reset(split: Split) -> Split:
    """The same log, where every session is a separate user."""
    alone = pl.col("session_id").alias("user_id")
    return split._replace(
        train=split.train.with_columns(alone),
        test=split.test.with_columns(alone),
        what=f"{split.what}; every session is a separate user",
        cut_ms=None,
    )


LOGS: dict[str, Callable[[], Split]] = {
    "bolcom": bolcom,
    "yoochoose64": lambda: pairs("yoochoose_1_64"),
    "diginetica": lambda: pairs("diginetica"),
    "rees46": rees46,
    "rees46-oct": rees46_oct,
    "retailrocket": retailrocket,
    "returns": returns,
    "successors": successors,
    "taobao": taobao,
    "taobao-users": taobao_users,
    "trivago": trivago,
    "uci": uci,
    **{f"globo-day{day}": lambda day=day: globo(day) for day in range(3, 13)},
}


def split_of(dataset: str) -> Split:
    name = dataset.removesuffix("-reset")
    if name not in LOGS:
        stop(f"unknown data set {name!r}; known are {', '.join(LOGS)}, each also with -reset")
    split = LOGS[name]()
    return split if name == dataset else reset(split)
