"""The figures of `eddy paths` as tables of texts: the terminal and the page show the same ones."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table as RichTable

from export.sequences.tree import RATE
from stream.log_lines import counted, printable

WIDTH = 140
"""Characters of a line, if the output is no terminal."""

FOUND = {"more": "more often", "less": "less often", "": ""}

Figures = dict[str, Any]


class Table(NamedTuple):
    """A table, with a title and the sentences that explain it. name: the part of the figures that it shows"""

    name: str
    title: str
    about: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(found: Figures) -> list[Table]:
    """All tables of the figures, in the order in which they are shown. A table without rows is left out."""
    every = (*_funnel(found), *_paths(found), *_circles(found), *_ends(found), *_comparison(found))
    return [table for table in every if table.rows]


def summary(found: Figures) -> str:
    """One line: what was counted."""
    step = found["by"].replace("_", " ")
    return (
        f"{printable(found['log'])}: {counted(found['clicks'], 'click')}, {counted(found['sessions'], 'session')}, "
        f"{counted(found['users'], 'user')}; a step is the {step} of a click"
    )


def text(found: Figures) -> str:
    """The tables for a terminal, then the remarks."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH
    with console.capture() as captured:
        console.print(summary(found))
        for table in tables(found):
            shown = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
            for number, name in enumerate(table.head):
                shown.add_column(name, justify="right" if number else "left", overflow="fold")
            for row in table.rows:
                shown.add_row(*row)
            console.print(f"\n{table.title}", style="bold")
            console.print(table.about, style="dim")
            console.print(shown)
        for line in found["remarks"]:
            console.print(f"\nnote: {line}", soft_wrap=True)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _funnel(found: Figures) -> Iterator[Table]:
    yield Table(
        "funnel",
        "Funnel",
        "A session or a user reaches a stage after the stages before it; a user does so over all sessions. "
        "Drop-off: share of those at the stage before. 95% intervals.",
        ("stage", "sessions", "of all", "drop-off", "with the event", "users", "of all", "drop-off"),
        [
            (
                printable(stage["stage"]),
                f"{stage['sessions']:,}",
                ranged(stage["share"], stage["share_95"]),
                ranged(stage["drop_off"]["share"], stage["drop_off"]["95"]),
                f"{stage['with_event']:,}",
                f"{stage['users']:,}",
                ranged(stage["users_share"], stage["users_share_95"]),
                ranged(stage["users_drop_off"]["share"], stage["users_drop_off"]["95"]),
            )
            for stage in found["funnel"]
        ],
    )
    yield Table(
        "times",
        "Time to a stage, and from the last stage that a session reaches to its last click",
        "First quarter, median and third quarter of the sessions. The first stage counts from the first click.",
        ("stage", "to the stage", "", "", "then to the last click", "", ""),
        [
            (
                printable(stage["stage"]),
                *_times(stage["seconds_from_stage_before"]),
                *_times(stage["seconds_to_last_click"]),
            )
            for stage in found["funnel"]
            if stage["seconds_from_stage_before"]
        ],
    )


def _paths(found: Figures) -> Iterator[Table]:
    paths = found["paths"]
    head = ("path", "sessions", "of all", "users", "by the chain", "last step", "by the chain", "q", "finding")

    def rows(shown: Sequence[Figures]) -> list[tuple[str, ...]]:
        return [
            (
                arrows(path["steps"]),
                f"{path['sessions']:,}",
                f"{path['share']:.1%}",
                f"{path['users']:,}",
                f"{path['expected']:,.0f}",
                f"{path['last_step']['share']:.1%}",
                f"{path['last_step']['chain']:.1%}",
                _q(path["last_step"]["q"]),
                FOUND[path["found"]],
            )
            for path in shown
        ]

    yield Table(
        "paths",
        "Paths from the start of a session",
        "By the chain: what a first-order Markov chain of the same sessions expects. Last step: share of the sessions "
        "with the path before it.",
        head,
        rows(paths["top"]),
    )
    yield Table(
        "findings",
        f"Findings: {paths['unexplained']:,} of {paths['tested']:,} tested paths",
        f"The last step depends on the steps before. At most {RATE:.0%} of all findings are expected to be false "
        "(q, Benjamini-Hochberg). The largest differences in sessions first.",
        head,
        rows(paths["findings"]),
    )


def _circles(found: Figures) -> Iterator[Table]:
    loops = found["loops"]
    share = ranged(loops["share"], loops["share_95"])
    yield Table(
        "loops",
        f"Loops: {counted(loops['sessions'], f'session ({share}) has one', f'sessions ({share}) have one')}",
        "A step, another one, and the first one again. By the chain: how often it would occur.",
        ("loop", "sessions", "of all", "times", "by the chain"),
        [
            (
                arrows(loop["steps"]),
                f"{loop['sessions']:,}",
                ranged(loop["share"], loop["share_95"]),
                f"{loop['times']:,}",
                f"{loop['expected']:,.0f}",
            )
            for loop in loops["loops"]
        ],
    )
    for name, returns in found["returns"].items():
        share = ranged(returns["share"], returns["share_95"])
        return_ = counted(returns["sessions"], f"session ({share}) returns", f"sessions ({share}) return")
        yield Table(
            f"returns-{name}",
            f"Returns: {return_} to the same {name}",
            f"They have clicks on it, then on another {name}, and then on it again.",
            (name, "sessions", "of all"),
            _shares(returns["most"], "name"),
        )


def _ends(found: Figures) -> Iterator[Table]:
    for name, title in (("entry", "First step of a session"), ("exit", "Last step of a session")):
        yield Table(name, title, "95% intervals.", ("step", "sessions", "of all"), _shares(found[name], "step"))


def _shares(rows: Sequence[Figures], name: str) -> list[tuple[str, ...]]:
    return [(printable(one[name]), f"{one['sessions']:,}", ranged(one["share"], one["share_95"])) for one in rows]


def _comparison(found: Figures) -> Iterator[Table]:
    comparison = found.get("comparison")
    if comparison is None:
        return
    first, second = comparison["groups"]
    sizes = " and ".join(
        f"{counted(size['sessions'], 'session')} of {counted(size['users'], 'user')} ({printable(name)})"
        for name, size in comparison["groups"].items()
    )
    head = (printable(first), printable(second), "difference (95%)", "q")
    rows = [
        *((f"{printable(one['stage'])}, of all sessions", one) for one in comparison["funnel"]),
        *((f"{printable(one['stage'])}, of those at the stage before", one) for one in comparison["from_stage_before"]),
    ]
    yield Table(
        "comparison-funnel",
        "Comparison of the funnel",
        f"{sizes}. Differences in percentage points, with bootstrap intervals over users.",
        ("stage", *head),
        [(name, *_difference(one)) for name, one in rows],
    )
    yield Table(
        "comparison-paths",
        "Comparison of the paths",
        "Shares of all sessions. About one of 20 intervals leaves out 0 by chance; q (Benjamini-Hochberg) takes all "
        "paths and stages together.",
        ("path", *head),
        [(arrows(one["steps"]), *_difference(one)) for one in comparison["paths"]],
    )


def _difference(one: Figures) -> tuple[str, ...]:
    if one["difference"] is None:
        return (share_of(one["first"]), share_of(one["second"]), "", "")
    interval = "" if one["95"] is None else f" ({one['95'][0] * 100:+.1f} to {one['95'][1] * 100:+.1f})"
    return (share_of(one["first"]), share_of(one["second"]), f"{one['difference'] * 100:+.1f}{interval}", _q(one["q"]))


def arrows(steps: Sequence[str]) -> str:
    """A path as text."""
    return " > ".join(map(printable, steps))


def share_of(share: float | None) -> str:
    """A share in percent; empty for None."""
    return "" if share is None else f"{share:.1%}"


def ranged(share: float | None, interval: Sequence[float] | None) -> str:
    """A share with its interval, in percent."""
    if share is None or interval is None:
        return share_of(share)
    return f"{share:.1%} ({interval[0] * 100:.1f} to {interval[1] * 100:.1f})"


def _q(q: float | None) -> str:
    if q is None:
        return ""
    return f"{q:.3f}" if q >= 0.001 else "<0.001"


def _times(seconds: Sequence[float] | None) -> tuple[str, ...]:
    return ("", "", "") if seconds is None else tuple(duration(one) for one in seconds)


def duration(seconds: float) -> str:
    """A time in the largest unit in which it is 1 or more."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
