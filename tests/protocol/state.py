"""The state of the protocol's model: a broker, the consumer group and the workers' processes, as immutable values.

One partition of clicks, and one user whose row is the tuple of the clicks that it holds. Clicks are offsets 0, 1, ...
A process that is frozen or dead does nothing, for a while or for ever: neither needs a state of its own.
"""

from typing import NamedTuple

NOTHING = -1
"""No offset: nothing was committed, or nothing is in memory."""

Row = tuple[int, ...]


class Found(NamedTuple):
    """What a process has read in recovery.

    offset          the group's committed offset
    first           the offset that the first reading gave; None before it
    end             high watermark of the changelog
    row             the row below this end
    mark, checksum  the offset in the position row below this end, and the row to which its checksum belongs
    again           step 6 has failed, so everything is read a second time
    """

    offset: int = NOTHING
    first: int | None = None
    end: int = NOTHING
    row: Row = ()
    mark: int = NOTHING
    checksum: Row = ()
    again: bool = False


class Batch(NamedTuple):
    """A processed batch: the clicks with a decision, the user's new row, and the offset after it."""

    clicks: Row
    row: Row
    next: int


class Process(NamedTuple):
    """One process of a worker.

    worker       the worker id
    doing        out (no partition), a step of the recovery (start, offsets, end, rows, check), idle, sending, replaced
                 (its producer hangs or is broken), outcome, ended, or refused (ended with exit code 2)
    current      its membership is of the group's generation
    started      step 2 is done
    keeping      the recovery looks whether the rows in memory are still right
    next, row    the memory: the offset of the next click, and the user's row
    batch        processed and not yet committed
    ahead        the batch after it, processed on its row
    early        `row` is that of a batch which is not committed, because of `ahead`
    transaction  of the batch: an index into State.transactions; NOTHING before the first contact with the broker
    """

    worker: int
    doing: str = "out"
    current: bool = False
    started: bool = False
    keeping: bool = False
    found: Found = Found()
    next: int = NOTHING
    row: Row = ()
    batch: Batch | None = None
    ahead: Batch | None = None
    early: bool = False
    transaction: int = NOTHING


class Transaction(NamedTuple):
    """One transaction.

    process  who began it
    batch    what it writes
    written  number of its records in the changelog: the row, then the mark
    sent     the group has accepted its offsets
    ended    None, commit or abort
    to_mark  the logs in which the marker of its end is missing
    """

    process: int
    batch: Batch
    written: int = 0
    sent: bool = False
    ended: str | None = None
    to_mark: tuple[str, ...] = ("offsets", "changelog")


class State(NamedTuple):
    """Everything. Two equal states have the same future.

    changelog  records in their order: (transaction, "row" or "mark")
    committed  the group's committed offset
    members    indices of the processes that the group has as members
    owner      index of the process that has the partition
    damaged    the first row of the changelog is deleted
    moved      somebody has changed offsets or rows, so a worker must refuse to start
    freezes, restarts, faults   how many more may happen
    """

    processes: tuple[Process, ...]
    transactions: tuple[Transaction, ...] = ()
    changelog: tuple[tuple[int, str], ...] = ()
    committed: int = NOTHING
    members: tuple[int, ...] = (0, 1)
    owner: int = 0
    damaged: bool = False
    moved: bool = False
    freezes: int = 0
    restarts: int = 0
    faults: int = 0

    def pending(self) -> list[Transaction]:
        """The transactions whose offsets are not decided: a read of stable offsets waits for them."""
        return [t for t in self.transactions if t.sent and "offsets" in t.to_mark]

    def stable_end(self) -> int:
        """The last stable offset of the changelog: the first record of a transaction without a marker."""
        for at, (transaction, _) in enumerate(self.changelog):
            if "changelog" in self.transactions[transaction].to_mark:
                return at
        return len(self.changelog)

    def put(self, index: int, process: Process) -> "State":
        """Replace a process."""
        return self._replace(processes=(*self.processes[:index], process, *self.processes[index + 1 :]))

    def change(self, number: int, transaction: Transaction) -> "State":
        """Replace a transaction."""
        return self._replace(transactions=(*self.transactions[:number], transaction, *self.transactions[number + 1 :]))

    def end(self, number: int, how: str) -> "State":
        """Decide a transaction. Its marker is then missing in the logs that it has reached."""
        transaction = self.transactions[number]
        reached = (("offsets",) if transaction.sent else ()) + (("changelog",) if transaction.written else ())
        after = self.change(number, transaction._replace(ended=how, to_mark=reached))
        return after if reached else after.forget(number)

    def forget(self, number: int) -> "State":
        """Leave out a transaction that was rolled back and that nobody sees any more: so fewer states differ."""
        gone = [at for at, (of, _) in enumerate(self.changelog) if of == number]
        processes = []
        for process in self.processes:
            end = process.found.end - sum(at < process.found.end for at in gone)
            of = process.transaction
            of = NOTHING if of == number else of - (of > number)
            processes.append(process._replace(found=process.found._replace(end=end), transaction=of))
        return self._replace(
            processes=tuple(processes),
            transactions=(*self.transactions[:number], *self.transactions[number + 1 :]),
            changelog=tuple((of - (of > number), kind) for of, kind in self.changelog if of != number),
        )

    def new_generation(self) -> "State":
        """The group rebalances: no membership that was taken before is current any more."""
        return self._replace(processes=tuple(process._replace(current=False) for process in self.processes))


def ended(process: Process, how: str = "ended") -> Process:
    """Nothing of an ended process matters any more, except which transactions are its own."""
    return Process(process.worker, how)
