"""What things cost rank 0 on this machine: the constants of `tests.simulation.costs`.

    python -m tests.simulation.measure                 # the disk: /dev/shm
    mpiexec -n 2 python -m tests.simulation.measure    # messages
    python -m tests.simulation.measure --list 1000000 --at /scratch

Rules of this file: processor time of the one process that is measured, the least of
some rounds.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence

from mpifarm.batch.launcher import was_launched
from mpifarm.farm.summary import Tally
from mpifarm.model.messages import Alive, Assign, Report
from mpifarm.model.task import Lease, Outcome, Result
from mpifarm.store.file_store import FileStore
from mpifarm.store.types import Recorded
from mpifarm.system.lock import WorkdirLock
from mpifarm.transport.mpi import Comm, Message, connect

MESSAGES = 100
SIZES = (1, 10, 100)
"""Results in a report, and leases in an assignment."""

ROUNDS = 9


def main() -> None:
    """Print the costs, in microseconds."""
    parser = argparse.ArgumentParser(prog="tests.simulation.measure")
    parser.add_argument("--list", type=int, default=200_000, help="tasks")
    parser.add_argument("--at", default="/dev/shm", help="a directory")
    asked = parser.parse_args()
    if was_launched(os.environ):
        _measure_messages()
    else:
        with tempfile.TemporaryDirectory(dir=asked.at) as place:
            _measure_disk(place, asked.list)


def _show(name: str, seconds: float) -> None:
    print(f"{name:45} {1e6 * seconds:9.3f} us", flush=True)


def result_of(taskid: int) -> Result:
    """Return a result as they all are."""
    return Result(taskid, 1, Outcome.COMPLETED, 0, 4711, 1.7e9, 10.0, 1e5 + taskid)


# ---- messages -----------------------------------------------------------------------


def _measure_messages() -> None:
    comm, _ = connect(os.environ)
    if comm is None or comm.size != 2:
        raise SystemExit("start it with two ranks")
    inbox: list[object] = []
    for size in SIZES:
        leases = tuple(Lease(each, 1, "x" * 80) for each in range(size))
        results = tuple(map(result_of, range(size)))
        _measure(comm, inbox, f"{size} leases", Assign(leases), sender=0)
        _measure(comm, inbox, f"{size} results", Report(1.0, results), sender=1)
    comm.finalize()


def _measure(
    comm: Comm, inbox: list[object], what: str, message: Message, sender: int
) -> None:
    """Show rank 0's time for each such message that it sends or receives."""
    measure = _time_sends if comm.rank == sender else _time_receives
    best = min(measure(comm, message, inbox) for _ in range(ROUNDS))
    if comm.rank == 0:
        verb = "send" if sender == 0 else "receive"
        _show(f"{verb} a message with {what}", best / MESSAGES)


def _time_sends(comm: Comm, message: Message, inbox: list[object]) -> float:
    while not inbox:  # the other is not ready
        time.sleep(0.001)
        inbox += comm.receive()
    del inbox[0]
    begun = time.thread_time()
    for _ in range(MESSAGES):
        comm.send(1 - comm.rank, message)
        inbox += comm.receive()
    taken = time.thread_time() - begun
    comm.flush(10.0)
    return taken


def _time_receives(comm: Comm, _: Message, inbox: list[object]) -> float:
    comm.send(1 - comm.rank, Alive())
    comm.flush(10.0)
    time.sleep(0.05)  # they come
    begun = time.thread_time()
    while len(inbox) < MESSAGES:
        inbox += comm.receive()
    taken = time.thread_time() - begun
    del inbox[:MESSAGES]  # what is left is of the next round
    return taken


# ---- the disk -----------------------------------------------------------------------


def _measure_disk(place: str, count: int) -> None:
    tasks = [f"./simulate --seed {each:060d}" for each in range(count)]
    root = f"{place}/w"
    lock = WorkdirLock((f"{root}/lock",))
    workdir = FileStore.open(root, tasks, lock, "f00d")
    tally = Tally(0.0)

    def transact(results: Sequence[Result], take: int) -> list[int]:
        records = [_record(each) for each in results]
        workdir.prepare(records, (), take)
        while not lock.try_acquire():
            pass
        taken = workdir.transact(records, (), take).taken
        lock.release()
        for each in results:
            tally.add(each)
        return taken

    held = transact((), count // 20)
    few, many = 10, 1000
    costs: dict[int, float] = {}
    for size in (few, many):

        def record(size: int = size) -> None:
            nonlocal held
            results, held = [*map(result_of, held[:size])], held[size:]
            transact(results, 0)

        costs[size] = _least(record)
    each = (costs[many] - costs[few]) / (many - few)
    _show("a result that is recorded", each)
    _show("a transaction", costs[few] - few * each)
    small, large = count // 100, count // 20
    for size in (small, large):
        costs[size] = _least(lambda size=size: transact((), size))  # type: ignore[misc]
    each = (costs[large] - costs[small]) / (large - small)
    _show("a task that is taken", each)
    rest = costs[small] - small * each
    _show(f"a taking out of {count} lines", rest)
    _show("  for each line", rest / count)


def _record(result: Result) -> Recorded:
    return Recorded(
        taskid=result.taskid,
        finished=result.outcome is Outcome.COMPLETED,
        result=result,
        rank=3,
        pid=1,
        host="n1",
    )


def _least(act: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.thread_time()
        act()
        best = min(best, time.thread_time() - begun)
    return best


if __name__ == "__main__":
    main()
