"""What may happen next besides the workers' own steps: in the broker, in the consumer group, and by an operator."""

from collections.abc import Iterator

from tests.protocol.state import NOTHING, Found, Process, State, ended
from tests.protocol.worker import Step, Worker

BUSY = ("sending", "replaced", "outcome")
"""A rebalance waits for a cycle in one of these states."""


class World:
    """All steps of the model, without the protections in `without`."""

    def __init__(self, without: frozenset[str] = frozenset(), clicks: int = 1) -> None:
        self._worker = Worker(without, clicks)
        self._aborts_are_visible = "committed rows" in without
        self.clicks = clicks

    def first(self, freezes: int, restarts: int, faults: int) -> State:
        """Two workers on new topics: process 0 has the partition and recovers."""
        processes = (self._worker.begin(Process(0)), Process(1, current=True))
        return State(processes, freezes=freezes, restarts=restarts, faults=faults)

    def steps(self, state: State) -> Iterator[Step]:
        """Every next step."""
        for index, process in enumerate(state.processes):
            for text, after in self._worker.steps(state, index):
                yield f"process {index} (worker {process.worker}) {text}", after
        yield from self._broker(state)
        yield from self._freezes(state)
        yield from self._joins(state)
        yield from self._operator(state)

    def _broker(self, state: State) -> Iterator[Step]:
        """Timeouts and markers. A transaction's timeout is at most the session timeout."""
        for number, transaction in enumerate(state.transactions):
            if transaction.ended is None:
                if transaction.process not in state.members:
                    after = self._worker.expire(state, number)
                    yield f"the transaction of process {transaction.process} times out", after
                continue
            for log in transaction.to_mark:
                left = tuple(other for other in transaction.to_mark if other != log)
                after = state.change(number, transaction._replace(to_mark=left))
                if log == "offsets" and transaction.ended == "commit":
                    after = after._replace(committed=transaction.batch.next)
                if not left and transaction.ended == "abort" and not self._aborts_are_visible:
                    after = after.forget(number)
                yield f"process {transaction.process}: its {transaction.ended} is written into the {log}", after

    def _freezes(self, state: State) -> Iterator[Step]:
        """A member is frozen for longer than its session: the others go on when their running cycles have ended."""
        if not state.freezes:
            return
        for index in state.members:
            others = tuple(other for other in state.members if other != index)
            if any(state.processes[other].doing in BUSY for other in others):
                continue
            fewer = state._replace(freezes=state.freezes - 1, members=others)
            if others:
                text = f"process {index} is frozen, and process {others[0]} has the partition"
                yield text, self._rebalance(fewer, others[0])
            else:
                yield f"process {index} is frozen", fewer._replace(owner=NOTHING).new_generation()

    def _joins(self, state: State) -> Iterator[Step]:
        """A process that has noticed that it is no member joins again; a worker is started a second time."""
        newest = {process.worker: index for index, process in enumerate(state.processes)}
        for index in newest.values():
            process = state.processes[index]
            outside = index not in state.members or (process.doing == "out" and not process.current)
            busy = any(state.processes[n].doing in BUSY for n in {*state.members, index})
            if outside and process.doing not in ("ended", "refused") and not busy:
                joined = state._replace(members=tuple(sorted({*state.members, index})))
                for owner in joined.members:
                    text = f"process {index} joins, and process {owner} has the partition"
                    yield text, self._rebalance(joined, owner)
        if state.restarts:
            for worker, old in newest.items():
                yield f"worker {worker} is started again: process {len(state.processes)}", self._restart(state, old)

    def _rebalance(self, state: State, owner: int) -> State:
        """A new generation: its owner begins to recover, the other members wait."""
        state = state._replace(owner=owner).new_generation()
        for index in state.members:
            process = state.processes[index]
            if process.doing not in ("ended", "refused"):
                out = process._replace(doing="out", current=True, found=Found(), keeping=False)
                state = state.put(index, self._worker.begin(process) if index == owner else out)
        return state

    def _restart(self, state: State, old: int) -> State:
        """A new process of a worker. The group takes it for the old one, which may still run, without a rebalance."""
        new, before = len(state.processes), state.processes[old]
        process = Process(before.worker)
        if old in state.members:
            process = process._replace(current=True)
            if state.owner == old:
                state, process = state._replace(owner=new), self._worker.begin(process)
            state = state._replace(members=tuple(new if n == old else n for n in state.members))
        still_there = before.doing in ("idle", *BUSY)  # else it cannot do anything any more
        state = state.put(old, before._replace(current=False) if still_there else ended(before))
        return state._replace(processes=(*state.processes, process), restarts=state.restarts - 1)

    def _operator(self, state: State) -> Iterator[Step]:
        """Somebody sets the offsets of the group without members, or rows of the changelog are deleted."""
        if not state.faults or state.committed == NOTHING or state.moved:
            return
        moved = state._replace(faults=state.faults - 1, moved=True)
        if all(process.doing not in BUSY for process in state.processes):
            empty = moved._replace(members=(), owner=NOTHING).new_generation()
            for offset in range(self.clicks + 1):
                if offset != state.committed:
                    text = f"all workers are frozen, and an operator sets the group's offset to {offset}"
                    yield text, empty._replace(committed=offset)
        if not state.pending():
            yield "the first row of the changelog is deleted", moved._replace(damaged=True)
