"""What a worker's process may do next: the steps of stream/worker/cycles and stream/kafka/delivery.py.

Each protection can be left out, so that the explorer shows what it is for.
"""

from collections.abc import Iterator

from tests.protocol.state import NOTHING, Batch, Found, Process, State, Transaction, ended

Step = tuple[str, State]
"""What happens, in words, and the state after it."""


class Worker:
    """The steps of every process.

    without  the protections that are left out; test_protocol.py has their names
    clicks   number of clicks in the partition
    """

    def __init__(self, without: frozenset[str], clicks: int) -> None:
        self._without = without
        self.clicks = clicks
        order = ("offsets", "end", "rows")
        self._recovery = order if "order" not in without else ("end", "rows", "offsets")

    def steps(self, state: State, index: int) -> Iterator[Step]:
        """Every next step of one process."""
        process = state.processes[index]
        match process.doing:
            case "start" | "replaced":
                yield from self._start(state, index, process)
            case "offsets":
                yield from self._offsets(state, index, process)
            case "end":
                end = len(state.changelog) if "high watermark" not in self._without else state.stable_end()
                found = process.found._replace(end=end)
                yield "5. asks for the end of the changelog", self._go_on(state, index, process._replace(found=found))
            case "rows":
                yield from self._rows(state, index, process)
            case "check":
                yield from self._look_again(state, index, process)
            case "idle":
                yield from self._fetch(state, index, process)
            case "sending":
                yield from self._send(state, index, process)
                yield from self._overlap(state, index, process)
            case "outcome":
                yield from self._outcome(state, index, process)

    # -- recovery -----------------------------------------------------------------------------------------------------

    def begin(self, process: Process) -> Process:
        """Step 1, and which one follows: 2 in a new process, else 3 if the partition is in memory, else 4."""
        doing = self._recovery[0] if process.started else "start"
        return process._replace(doing=doing, current=True, found=Found(), keeping=process.next != NOTHING)

    def _start(self, state: State, index: int, process: Process) -> Iterator[Step]:
        """Step 2: roll back what an earlier process under this id left open, and fence that process."""
        key = self._producer(state, index)
        undecided = [n for n, t in enumerate(state.transactions) if t.to_mark and self.key_of(state, t) == key]
        for number in undecided:
            if state.transactions[number].ended is None:
                yield "2. rolls back the open transaction of its id", self.fence(state, key).end(number, "abort")
        if not undecided:
            doing = self._recovery[0] if process.doing == "start" else "outcome"
            after = process._replace(started=True, doing=doing)
            yield "2. takes the next producer epoch", self.fence(state, key).put(index, after)

    def fence(self, state: State, key: int) -> State:
        """The producers with this key get a fatal error at their next call. They can do nothing else before it."""
        for index, process in enumerate(state.processes):
            if process.started and process.doing != "replaced" and self._producer(state, index) == key:
                state = state.put(index, ended(process))
        return state

    def _producer(self, state: State, index: int) -> int:
        """The transactional id: one per worker id; without the fence one per process."""
        return state.processes[index].worker if "fence" not in self._without else 2 + index

    def key_of(self, state: State, transaction: Transaction) -> int:
        return self._producer(state, transaction.process)

    def _offsets(self, state: State, index: int, process: Process) -> Iterator[Step]:
        """Step 4: the broker answers when no transaction over the offset is pending."""
        if state.pending() and "stable offsets" not in self._without:
            return
        first = state.committed if process.found.first is None else process.found.first
        found = process.found._replace(offset=state.committed, first=first)
        after = self._go_on(state, index, process._replace(found=found))
        yield f"4. reads the committed offset: {_text(state.committed)}", after

    def _rows(self, state: State, index: int, process: Process) -> Iterator[Step]:
        """Step 5: the rows below the end are read when every transaction before it is decided."""
        committed = "committed rows" not in self._without
        if process.found.end > state.stable_end() and committed:
            return
        row, checksum, mark = (), (), NOTHING
        for at, (number, kind) in enumerate(state.changelog[: process.found.end]):
            transaction = state.transactions[number]
            if transaction.ended == "abort" and committed:
                continue
            if kind == "mark":
                mark, checksum = transaction.batch.next, transaction.batch.row
            elif not (state.damaged and at == 0):
                row = transaction.batch.row
        found = process.found._replace(row=row, mark=mark, checksum=checksum)
        after = self._go_on(state, index, process._replace(found=found))
        yield f"5. reads the row {row}, and the mark: {_text(mark)}", after

    def _go_on(self, state: State, index: int, process: Process) -> State:
        """The step of the recovery after this one; after the last one 3 or 6 to 8, for which nobody is asked."""
        following = self._recovery.index(process.doing) + 1
        if following < len(self._recovery):
            return state.put(index, process._replace(doing=self._recovery[following]))
        found = process.found
        if process.keeping:  # 3
            same = (found.offset, found.mark, found.checksum) == (process.next, process.next, process.row)
            if same or "keep" in self._without:
                return state.put(index, process._replace(doing="idle", found=Found()))
            return state.put(index, process._replace(doing=self._recovery[0], keeping=False, found=Found()))
        if found.mark != found.offset and "compare" not in self._without:  # 6
            return self._apart(state, index, process)
        if found.checksum != found.row and "checksum" not in self._without:  # 7
            return state.put(index, process._replace(doing="check"))
        after = process._replace(doing="idle", next=max(found.offset, 0), row=found.row, early=False, found=Found())
        return state.put(index, after)  # 8

    def _apart(self, state: State, index: int, process: Process) -> State:
        """Step 6: offset and mark differ."""
        if process.found.offset != process.found.first:
            return state.put(index, _overtaken(process))
        if state.moved:
            return state.put(index, ended(process, "refused"))
        again = Found(first=process.found.first, again=True)
        return state.put(index, process._replace(doing=self._recovery[0], found=again))

    def _look_again(self, state: State, index: int, process: Process) -> Iterator[Step]:
        """Step 7 with rows that are not those of the mark: were they read in the middle of another's transaction?"""
        if state.pending():
            return
        if state.committed != process.found.offset and "second look" not in self._without:
            yield "7. sees that another worker has the partition", state.put(index, _overtaken(process))
        else:
            yield "7. refuses the rows", state.put(index, ended(process, "refused"))

    # -- a cycle ------------------------------------------------------------------------------------------------------

    def _fetch(self, state: State, index: int, process: Process) -> Iterator[Step]:
        """Step 1 of a cycle: the next chunk. With a fault the fetcher gives a wrong one."""
        at = process.next
        if at < self.clicks:
            yield from self._process(state, index, at, (at,), "")
        faulty = state._replace(faults=state.faults - 1)
        if state.faults and 0 < at < self.clicks:
            yield from self._process(faulty, index, at - 1, (at - 1,), ": its fetcher stands one too early")
            yield from self._process(faulty, index, at, (at - 1, at), ": its chunk has a click before its begin")
        if state.faults and at + 1 < self.clicks:
            yield from self._process(faulty, index, at + 1, (at + 1,), ": its fetcher stands one too late")

    def _process(self, state: State, index: int, begin: int, records: tuple[int, ...], why: str) -> Iterator[Step]:
        """Step 2 of a cycle. The rows are staged."""
        process = state.processes[index]
        if begin != process.next and "contiguity" not in self._without:
            yield f"ends{why}", state.put(index, ended(process))
            return
        last = process.row[-1] if process.row else NOTHING
        clicks = tuple(click for click in records if click > last or "last-applied offset" in self._without)
        batch = Batch(clicks, process.row + clicks, records[-1] + 1)
        row = process.row if "staged rows" not in self._without else batch.row
        after = process._replace(doing="sending", batch=batch, row=row)
        yield f"processes {records}{why}", state.put(index, after)

    def _overlap(self, state: State, index: int, process: Process) -> Iterator[Step]:
        """Steps 1 and 2 of the next cycle, on the row of a batch that is being written."""
        batch = process.batch
        if batch is None or process.ahead is not None or batch.next >= self.clicks:
            return
        ahead = Batch((batch.next,), (*batch.row, batch.next), batch.next + 1)
        yield (
            f"processes {ahead.clicks} meanwhile",
            state.put(index, process._replace(row=batch.row, ahead=ahead, early=True)),
        )

    def _send(self, state: State, index: int, process: Process) -> Iterator[Step]:
        """Step 3 of a cycle, the transaction: its records and its offsets may reach the broker in any order."""
        number = process.transaction
        if number == NOTHING:
            key = self._producer(state, index)
            if process.batch is None or any(t.to_mark and self.key_of(state, t) == key for t in state.transactions):
                return  # the producer waits for the markers of its transaction before
            number = len(state.transactions)
            state = state._replace(transactions=(*state.transactions, Transaction(index, process.batch)))
            process = process._replace(transaction=number)
        transaction = state.transactions[number]
        if transaction.written < 2:
            kind = ("row", "mark")[transaction.written]
            longer = state._replace(changelog=(*state.changelog, (number, kind)))
            written = longer.change(number, transaction._replace(written=transaction.written + 1))
            yield f"writes the {kind}", written.put(index, process)
        if not transaction.sent:
            if process.current or "generation" in self._without:
                sent = state.change(number, transaction._replace(sent=True))
                yield "sends the offsets", sent.put(index, process)
            else:
                stale = process._replace(doing="out", batch=None, ahead=None, transaction=NOTHING)
                yield "is refused by the group, and rolls back", state.end(number, "abort").put(index, stale)
        if transaction.written == 2 and transaction.sent:
            for after in _after(process, transaction.batch):
                yield "commits", state.end(number, "commit").put(index, after)
            if state.faults:
                lost = state._replace(faults=state.faults - 1).end(number, "commit")
                yield "commits, and its producer hangs", lost.put(index, _replaced(process))
                failed = state._replace(faults=state.faults - 1).end(number, "abort")
                again = process._replace(transaction=NOTHING)
                yield "is refused by the broker, and rolls back", failed.put(index, again)

    def _outcome(self, state: State, index: int, process: Process) -> Iterator[Step]:
        """After a producer that was replaced: the committed offset says how its transaction ended."""
        batch = process.batch
        if state.pending() or batch is None:
            return
        if state.committed == batch.next and "outcome" not in self._without:
            for after in _after(process, batch):
                yield "sees that its transaction was committed", state.put(index, after)
        elif max(state.committed, 0) == process.next or "outcome" in self._without:
            yield "sees that its transaction was rolled back", state.put(index, process._replace(doing="sending"))
        else:
            out = process._replace(doing="out", batch=None, ahead=None, current=False)
            yield "sees that another worker has the partition", state.put(index, out)

    def expire(self, state: State, number: int) -> State:
        """The broker rolls back a transaction that is too old. Its producer is fenced, and then replaced."""
        index = state.transactions[number].process
        process = state.processes[index]
        state = state.end(number, "abort")
        return state.put(index, _replaced(process)) if process.doing == "sending" else state


def _replaced(process: Process) -> Process:
    return process._replace(doing="replaced", transaction=NOTHING)


def _after(process: Process, batch: Batch) -> Iterator[Process]:
    """After the commit of a batch: the next one is sent, or dropped because the partition goes to another worker."""
    idle = process._replace(doing="idle", batch=None, ahead=None, early=False, transaction=NOTHING)
    idle = idle._replace(next=batch.next, row=batch.row)
    yield idle
    if process.ahead is not None:
        yield idle._replace(doing="sending", batch=process.ahead)


def _overtaken(process: Process) -> Process:
    return process._replace(doing="out", current=False, next=NOTHING, row=(), found=Found())


def _text(offset: int) -> str:
    return "none" if offset == NOTHING else str(offset)
