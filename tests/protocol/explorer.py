"""Explores every interleaving of the model's steps, breadth first: the schedule that it finds is the shortest one."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from tests.protocol.promise import Broken, all_decided
from tests.protocol.state import State
from tests.protocol.world import World


class Result(NamedTuple):
    """What an exploration has found.

    states    number of different states
    broken    how the promise is broken; None if it never is
    schedule  the steps to there
    """

    states: int
    broken: str | None
    schedule: list[str]

    def __str__(self) -> str:
        steps = "\n".join(f"  {number}. {step}" for number, step in enumerate(self.schedule, 1))
        return f"{self.broken or 'kept'}, after {len(self.schedule)} steps ({self.states} states):\n{steps}"


def explore(world: World, promise: Callable[[State], None], freezes: int, restarts: int, faults: int) -> Result:
    """Visit every state that two workers reach with the given freezes, restarts and faults, and check the promise."""
    first = world.first(freezes, restarts, faults)
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        try:
            promise(state)
            last = True
            for text, after in world.steps(state):
                last = False
                if after not in came_from:
                    came_from[after] = (state, text)
                    waiting.append(after)
            if last:
                all_decided(state, world.clicks)
        except Broken as broken:
            return Result(len(came_from), str(broken), _schedule(came_from, state))
    return Result(len(came_from), None, [])


def _schedule(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    steps: list[str] = []
    before = came_from[state]
    while before is not None:
        steps.append(before[1])
        before = came_from[before[0]]
    return steps[::-1]
