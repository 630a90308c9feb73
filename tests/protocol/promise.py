"""What is checked in every state of the model."""

from tests.protocol.state import State


class Broken(Exception):
    """A promise is broken in a state. The text says how."""


def exactly_once(state: State) -> None:
    """Each click is decided once and in order, and each row holds exactly the clicks before its offset.

    Raises Broken if not.
    """
    done: list[int] = []
    for transaction in state.transactions:
        if transaction.ended != "commit":
            continue
        batch = transaction.batch
        for click in batch.clicks:
            if click in done:
                raise Broken(f"click {click} is decided twice")
            done.append(click)
        if sorted(done) != list(range(len(done))):
            raise Broken(f"click {min(set(range(max(done))) - set(done))} is left out")
        if batch.row != tuple(range(batch.next)):
            raise Broken(f"the row at offset {batch.next} holds the clicks {batch.row}")


def nobody_waits(state: State) -> None:
    """No worker reads rows, waits or ends without need. Raises Broken if one does."""
    for index, process in enumerate(state.processes):
        if process.found.again and process.current and state.owner == index and not state.moved:
            raise Broken("all rows are read a second time, although nobody else has the partition")
        if process.doing == "refused" and not state.moved:
            raise Broken("a worker ends with exit code 2, although no row is missing")
        wrong = process.row != tuple(range(max(process.next, 0))) and not process.early
        if process.doing in ("idle", "out") and wrong and not state.moved:
            raise Broken(
                f"memory at offset {process.next} holds the clicks {process.row}: the partition cannot be kept"
            )
        if process.doing == "offsets":
            for pending in state.pending():
                if pending.process < index and state.processes[pending.process].worker == process.worker:
                    raise Broken("a restarted worker waits until the transaction of its dead process times out")


def all_decided(state: State, clicks: int) -> None:
    """For a state after which nothing happens. Raises Broken if a click has no decision and no worker has ended."""
    if not state.moved and state.committed != clicks and not any(p.doing == "ended" for p in state.processes):
        raise Broken("nothing more happens, and clicks are left")
