"""A worker in this process: its runner, its lifeline and its rank are the test's."""

import errno
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from mpifarm.errors import InputError
from mpifarm.model.settings import RunnerDefinition, TaskLimits
from mpifarm.model.task import LEFT_RUNNING, NOT_RUN, Outcome
from mpifarm.output.task_log import CANCELLED_LINE, LogKeeper
from mpifarm.pool import worker as worker_module
from mpifarm.pool.definition import PoolDefinition
from mpifarm.pool.framing import FrameReader, encode_frame
from mpifarm.pool.out_of_memory import OomDetector
from mpifarm.pool.shared_state import BY_KERNEL, SharedState, TimeVerdict
from mpifarm.pool.worker import (
    LOG_TRIES,
    REMIND,
    TERMINATE,
    Stop,
    Worker,
    WorkerContext,
)
from mpifarm.system import processes, task_command

TERM, KILL = signal.SIGTERM, signal.SIGKILL
LIMIT_LINE = "=== mpifarm: ended after 5 s, the limit of --task-timeout ==="


class ScriptedRunner:
    """Its command is the name of what the test does while it runs."""

    __module__ = "mpifarm.tests"  # one of mpifarm's own: it prints nothing
    attempt = 0

    def __init__(self, site: "Site") -> None:
        self._site = site

    def run(self, taskid: int, command: str, logfh: Any) -> int:
        self._site.ran.append((taskid, self.attempt))
        return self._site.scripts[command]() or 0

    def terminate(self) -> None:
        self._site.calls.append(("terminate",))
        self._site.on_terminate()


class Site:
    """A worker with its ends."""

    def __init__(self, logs: Path, limits: TaskLimits) -> None:
        self.logs = logs
        self.row = SharedState().row(0)
        self.rank, leases = socket.socketpair()
        lifeline, self.lifeline = os.pipe()
        os.set_blocking(lifeline, False)
        self.ends = (self.rank, leases, lifeline, self.lifeline)
        definition = PoolDefinition(1, 3, "f0", "/w", str(logs), limits=limits)
        context = WorkerContext(0, self.row, leases, lifeline)
        self.worker = Worker(definition, context)
        self.worker.take_runner(cast(Any, ScriptedRunner(self)))
        self.worker.memory = OomDetector(TaskLimits())
        self.calls: list[tuple[Any, ...]] = []
        self.ran: list[tuple[int, int]] = []
        """Task and attempt of each run."""
        self.scripts: dict[str, Callable[[], int | None]] = {
            "true": lambda: 0,
            "exit 3": lambda: 3,
        }
        self.on_terminate: Callable[[], object] = lambda: None
        self.left: list[set[int]] = []
        """What bears the task's name, look for look; then nothing."""
        self.tree: list[set[int]] = []
        """What is below the command or the worker, look for look; then nothing."""
        self._serial = 0

    def script(self, step: Callable[[], int | None]) -> str:
        """A command that does this."""
        name = f"script {len(self.scripts)}"
        self.scripts[name] = step
        return name

    def serve(self, *commands: str, first: int = 0) -> list[tuple[Any, ...]]:
        """Run these to the end of the leases; what the worker has sent."""
        for taskid, command in enumerate(commands, first):
            self._serial += 1
            frame = encode_frame(((taskid, 1, command, self._serial),))
            self.rank.sendall(frame)
        self.rank.shutdown(socket.SHUT_WR)
        self.worker.serve()
        return self.sent()

    def sent(self) -> list[tuple[Any, ...]]:
        with suppress(BlockingIOError):
            return FrameReader().feed(self.rank.recv(2**20, socket.MSG_DONTWAIT))
        return []

    def tell(self, word: bytes) -> None:
        """The fork server writes into the lifeline, and SIGIO comes."""
        os.write(self.lifeline, word)
        self.worker._on_lifeline(signal.SIGIO, None)

    def pass_verdict(self, verdict: TimeVerdict) -> None:
        self.row.pass_verdict(verdict, self.row.since)
        self.tell(REMIND)

    def cancel(self, verdict: TimeVerdict) -> None:
        self.row.pass_cancel_verdict(verdict, self.row.serial)
        self.tell(REMIND)

    def note_excess(self, size: int) -> None:
        self.row.note_excess(size, self.row.serial)
        self.tell(REMIND)

    def log(self, taskid: int) -> str:
        return (self.logs / f"log_{taskid}").read_text()


def outcomes(sent: list[tuple[Any, ...]]) -> list[tuple[int, int, str, str]]:
    """Task, status, outcome and note of each result."""
    return [(each[0], each[2], each[6], each[7]) for each in sent]


COMPLETED, FAILED = Outcome.COMPLETED.value, Outcome.FAILED.value
TIMED_OUT = Outcome.TIMED_OUT.value


@pytest.fixture
def start(tmp_path, monkeypatch) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def start_site(**limits: Any) -> Site:
        site = Site(tmp_path, TaskLimits(**limits))
        sites.append(site)

        def find_named(words: object) -> list[int]:
            site.calls.append(("find", words))
            return [*site.left.pop(0)] if site.left else []

        def tree_of(pid: int) -> list[int]:
            return [pid, *(site.tree.pop(0) if site.tree else [])]

        def record(name: str) -> Callable[..., None]:
            return lambda *args: site.calls.append((name, *args))

        monkeypatch.setattr(processes, "find_named", find_named)
        monkeypatch.setattr(processes, "tree_of", tree_of)
        monkeypatch.setattr(processes, "kill_process", record("kill"))
        monkeypatch.setattr(processes, "kill_group", record("kill group"))
        monkeypatch.setattr(processes, "kill_together", record("kill together"))
        monkeypatch.setattr(processes, "living_in_group", lambda pid: [])
        monkeypatch.setattr(task_command, "terminate_command", record("end command"))
        monkeypatch.setattr(task_command, "choose_ending_signal", record("signal"))
        monkeypatch.setattr(task_command, "exit_with_command", record("leave"))
        monkeypatch.setattr(task_command, "has_left_processes", lambda: False)
        monkeypatch.setattr(time, "sleep", record("sleep"))
        return site

    yield start_site
    for site in sites:
        for end in site.ends:
            os.close(end) if isinstance(end, int) else end.close()


# ---- leases and results -------------------------------------------------------------


def test_tasks_run_in_the_order_of_their_leases_and_are_told_one_by_one(start):
    site = start()
    told_before = site.script(lambda: len(site.sent()))
    sent = site.serve("true", told_before, "exit 3", first=5)
    assert site.ran == [(5, 1), (6, 1), (7, 1)]
    assert outcomes(sent) == [(6, 1, FAILED, ""), (7, 3, FAILED, "")]


def test_a_result_has_the_times_of_its_run(start, monkeypatch):
    site = start()
    clock = iter([100.0, 102.5])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "time", lambda: 1.7e9)
    (result,) = site.serve("exit 3")
    assert result[:8] == (0, 1, 3, 1.7e9, 2.5, 102.5, FAILED, "")


def test_the_row_names_the_task_while_it_runs(start):
    site = start()
    seen = site.script(lambda: site.row.task)
    assert outcomes(site.serve(seen, first=9)) == [(9, 9, FAILED, "")]
    assert (site.row.task, site.row.begun) == (None, 1)


def test_a_command_that_a_signal_killed_has_a_line_in_its_log(start):
    site = start()
    killed = site.script(lambda: -9)
    assert outcomes(site.serve(killed)) == [(0, -9, FAILED, "")]
    assert site.log(0) == "=== mpifarm: killed by signal 9 (SIGKILL) ===\n"


def test_a_lease_that_was_recalled_is_passed_over(start):
    site = start()
    site.row.recall(1)
    assert [each[0] for each in site.serve("true", "true")] == [1]
    assert site.ran == [(1, 1)]


def test_a_lease_that_is_recalled_just_now_is_returned(start, monkeypatch):
    site = start()
    monkeypatch.setattr(type(site.row), "has_recalled", lambda *_: False)
    site.row.recall(1)
    first, second = site.serve("true", "true")
    assert first == (1,)
    assert second[0] == 1
    assert site.ran == [(1, 1)]


def test_a_runner_that_raises_fails_its_task_with_a_traceback(start):
    site = start()
    raises = site.script(lambda: 1 // 0)
    assert outcomes(site.serve(raises, "true")) == [
        (0, 1, FAILED, ""),
        (1, 0, COMPLETED, ""),
    ]
    assert "ZeroDivisionError" in site.log(0)


@pytest.mark.parametrize("status", [0, 3])
def test_processes_that_a_task_has_left_are_noted(start, monkeypatch, status):
    site = start()
    monkeypatch.setattr(task_command, "has_left_processes", lambda: True)
    ((_, _, _, note),) = outcomes(site.serve("exit 3" if status else "true"))
    assert note == LEFT_RUNNING


def test_memory_that_ran_out_is_an_outcome_of_its_own(start, monkeypatch):
    site = start()
    monkeypatch.setattr(site.worker.memory, "find_reason", lambda *_: "it ran out")
    expected = [(0, 3, Outcome.OUT_OF_MEMORY.value, ""), (1, 0, COMPLETED, "")]
    assert outcomes(site.serve("exit 3", "true")) == expected
    assert site.log(0) == "=== mpifarm: it ran out ===\n"


# ---- logs that can't be had ---------------------------------------------------------


def test_without_a_log_for_any_task_leases_are_refused(start):
    site = start()
    site.logs.rmdir()
    try:
        sent = site.serve("true", "true")
    finally:
        site.logs.mkdir()
    assert [each[:2] for each in sent] == [(0, 1), (1, 1)]
    assert all("No such file or directory" in each[2] for each in sent)
    assert (site.ran, site.row.task) == ([], None)


def break_logs(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Have each log that is begun fail so; the tries."""
    tries: list[int] = []

    def begin(self: LogKeeper, taskid: int, attempt: int) -> object:
        tries.append(taskid)
        raise OSError(number, os.strerror(number), self.path_of(taskid))

    monkeypatch.setattr(LogKeeper, "begin", begin)
    return tries


def test_a_log_that_only_one_task_can_not_have_fails_that_task(start, monkeypatch):
    site = start()
    break_logs(monkeypatch, errno.EISDIR)
    monkeypatch.setattr(worker_module, "blames_one_task", lambda path: True)
    ((_, status, outcome, note),) = outcomes(site.serve("true"))
    assert (status, outcome) == (1, FAILED)
    assert note == f"{NOT_RUN}can't write {site.logs}/log_0: Is a directory"
    assert site.ran == []


def test_a_file_that_tasks_share_blames_none_of_them(start, monkeypatch):
    site = start()
    break_logs(monkeypatch, errno.EISDIR)
    monkeypatch.setattr(worker_module, "blames_one_task", lambda path: True)
    monkeypatch.setattr(LogKeeper, "is_shared", True)
    assert site.serve("true") == [
        (0, 1, f"can't write {site.logs}/log_0: Is a directory")
    ]


@pytest.mark.parametrize(
    ("number", "tries"), [(errno.EIO, LOG_TRIES), (errno.EISDIR, 1)]
)
def test_a_log_is_tried_again_where_the_disk_fails(start, monkeypatch, number, tries):
    site = start()
    tried = break_logs(monkeypatch, number)
    site.serve("true")
    assert len(tried) == tries
    assert len([call for call in site.calls if call[0] == "sleep"]) == tries - 1


def test_trouble_at_the_end_of_a_log_is_a_note_and_no_failure(start, monkeypatch):
    site = start()

    def end(self: LogKeeper, log: Any, *, failed: bool) -> None:
        log.end()
        log.trouble = "can't write"

    monkeypatch.setattr(LogKeeper, "end", end)
    assert outcomes(site.serve("true")) == [(0, 0, COMPLETED, "can't write")]


@pytest.mark.parametrize(("command", "failed"), [("true", False), ("exit 3", True)])
def test_the_keeper_of_the_logs_is_told_how_a_task_ended(
    start, monkeypatch, command, failed
):
    site = start()
    told: list[bool] = []
    real_end = LogKeeper.end

    def end(self: LogKeeper, log: Any, *, failed: bool) -> None:
        told.append(failed)
        real_end(self, log, failed=failed)

    monkeypatch.setattr(LogKeeper, "end", end)
    site.serve(command)
    assert told == [failed]


def test_where_no_task_can_run_each_lease_is_refused_with_the_reason(start):
    site = start()
    site.rank.sendall(encode_frame(((0, 1, "true", 1), (1, 2, "true", 2))))
    site.rank.shutdown(socket.SHUT_WR)
    site.worker.refuse_all("no runner")
    assert site.sent() == [(0, 1, "no runner"), (1, 2, "no runner")]


# ---- time limits --------------------------------------------------------------------


def test_a_command_that_exits_0_after_its_time_limit_has_not_completed(start):
    """It traps TERM, say, to clean up: as a success it would be half done."""
    site = start(timeout=5.0)
    trapped = site.script(lambda: site.pass_verdict(TimeVerdict.TERMINATE))
    assert outcomes(site.serve(trapped)) == [(0, 0, TIMED_OUT, "")]
    assert site.log(0) == LIMIT_LINE + "\n"
    assert site.calls[:2] == [("signal", TERM), ("terminate",)]


def test_a_command_killed_at_its_time_limit_is_not_one_that_a_signal_killed(start):
    site = start(timeout=5.0)

    def run() -> int:
        site.pass_verdict(TimeVerdict.TERMINATE)
        site.pass_verdict(TimeVerdict.KILL)
        return -9

    assert outcomes(site.serve(site.script(run))) == [(0, -9, TIMED_OUT, "")]
    assert site.log(0) == LIMIT_LINE + "\n"
    names = [call[0] for call in site.calls]
    assert names[:5] == ["signal", "terminate", "end command", "find", "kill together"]
    assert ("end command", KILL) in site.calls


def test_each_verdict_is_enforced_once(start):
    site = start(timeout=5.0)

    def run() -> None:
        for _ in range(3):
            site.pass_verdict(TimeVerdict.TERMINATE)
        for _ in range(3):
            site.pass_verdict(TimeVerdict.KILL)

    site.serve(site.script(run))
    names = [call[0] for call in site.calls]
    assert (names.count("terminate"), names.count("end command")) == (1, 1)


def test_the_task_after_one_that_took_too_long_has_all_its_time(start):
    site = start(timeout=5.0)
    slow = site.script(lambda: site.pass_verdict(TimeVerdict.KILL))
    old: list[int] = []

    def run() -> None:
        site.row.pass_verdict(TimeVerdict.KILL, old[0])
        site.tell(REMIND)

    first = site.script(lambda: old.append(site.row.since))
    sent = site.serve(first, slow, site.script(run))
    assert [outcome for _, _, outcome, _ in outcomes(sent)] == [
        *(COMPLETED, TIMED_OUT, COMPLETED)
    ]
    assert site.row.since == 0


def test_a_reminder_in_time_changes_nothing(start):
    site = start(timeout=5.0)
    reminded = site.script(lambda: site.tell(REMIND))
    assert outcomes(site.serve(reminded)) == [(0, 0, COMPLETED, "")]
    assert site.calls == []


def test_a_verdict_that_comes_when_the_run_has_ended_is_void(start, monkeypatch):
    site = start(timeout=5.0)
    stop_clock = site.row.stop_clock

    def stop_late() -> None:
        site.pass_verdict(TimeVerdict.TERMINATE)
        stop_clock()

    monkeypatch.setattr(site.row, "stop_clock", stop_late)
    assert outcomes(site.serve("true")) == [(0, 0, COMPLETED, "")]
    assert ("terminate",) not in site.calls


# ---- runs that a user has cancelled --------------------------------------------------


CANCELLED_LOG = f"=== mpifarm: {CANCELLED_LINE} ===\n"


@pytest.mark.parametrize("status", [0, -15])
@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_run_that_was_cancelled_is_terminated_and_says_so(start, status, timeout):
    site = start(timeout=timeout)

    def run() -> Any:
        site.cancel(TimeVerdict.TERMINATE)
        return status

    sent = site.serve(site.script(run))
    assert outcomes(sent) == [(0, status, Outcome.CANCELLED.value, "")]
    assert site.log(0) == CANCELLED_LOG
    assert site.calls[:2] == [("signal", TERM), ("terminate",)]


def test_a_cancelled_run_that_goes_on_is_killed_and_each_verdict_acts_once(start):
    site = start()

    def run() -> int:
        for verdict in (TimeVerdict.TERMINATE, TimeVerdict.KILL):
            for _ in range(3):
                site.cancel(verdict)
        return -9

    sent = site.serve(site.script(run))
    assert outcomes(sent) == [(0, -9, Outcome.CANCELLED.value, "")]
    names = [call[0] for call in site.calls]
    assert (names.count("terminate"), names.count("end command")) == (1, 1)


def test_what_a_cancelled_run_has_left_is_ended(start):
    site = start()
    cancelled = site.script(lambda: site.cancel(TimeVerdict.TERMINATE))
    site.serve(cancelled)
    assert "find" in [call[0] for call in site.calls]


def test_the_task_after_one_that_was_cancelled_runs_as_any_other(start):
    site = start()
    cancelled = site.script(lambda: site.cancel(TimeVerdict.TERMINATE))
    sent = site.serve(cancelled, "exit 3", site.script(lambda: site.tell(REMIND)))
    assert [outcome for _, _, outcome, _ in outcomes(sent)] == [
        *(Outcome.CANCELLED.value, Outcome.FAILED.value, COMPLETED)
    ]


def test_a_run_whose_time_was_over_before_it_was_cancelled_has_timed_out(start):
    site = start(timeout=5.0)

    def run() -> int:
        site.pass_verdict(TimeVerdict.TERMINATE)
        site.cancel(TimeVerdict.TERMINATE)
        return -15

    assert outcomes(site.serve(site.script(run))) == [(0, -15, TIMED_OUT, "")]


def test_a_run_that_was_cancelled_before_its_time_was_over_stays_cancelled(start):
    site = start(timeout=5.0)

    def run() -> int:
        site.cancel(TimeVerdict.TERMINATE)
        site.pass_verdict(TimeVerdict.TERMINATE)
        site.cancel(TimeVerdict.TERMINATE)
        site.pass_verdict(TimeVerdict.KILL)
        return -9

    sent = site.serve(site.script(run))
    assert outcomes(sent) == [(0, -9, Outcome.CANCELLED.value, "")]


def test_after_a_stop_nothing_is_cancelled(start):
    site = start()

    def run() -> int:
        site.tell(TERMINATE)
        site.cancel(TimeVerdict.KILL)
        return -15

    site.serve(site.script(run))
    assert [call[0] for call in site.calls].count("terminate") == 1
    assert "end command" not in [call[0] for call in site.calls]


# ---- runs that have too much memory --------------------------------------------------

OUT_OF_MEMORY = Outcome.OUT_OF_MEMORY.value


@pytest.mark.parametrize("status", [0, -9])
@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_run_that_has_too_much_memory_is_killed_at_once_and_says_so(
    start, status, timeout
):
    site = start(timeout=timeout, memory=500 << 20)

    def run() -> Any:
        for _ in range(3):
            site.note_excess(700 << 20)
        return status

    sent = site.serve(site.script(run))
    assert outcomes(sent) == [(0, status, OUT_OF_MEMORY, "")]
    assert site.log(0) == (
        "=== mpifarm: it was ended, because memory ran out: its processes had 700 MB"
        " together, and the limit is 500 MB (--task-memory) ===\n"
    )
    names = [call[0] for call in site.calls]
    assert names.count("end command") == 1
    assert "terminate" not in names
    assert "find" in names, "what it has left"


@pytest.mark.parametrize("command", [555, 0])
def test_all_that_counts_is_killed_and_stopped_before_any_of_it_dies(start, command):
    site = start(memory=500 << 20)
    found: list[set[int]] = [{556, 557}, {556, 557, 558}, {556, 557, 558}]

    def run() -> int:
        site.row.command_slot[0] = command
        site.tree, site.left = found, [{90}]
        site.note_excess(700 << 20)
        return -9

    site.serve(site.script(run))
    end = site.calls.index(("end command", KILL))
    root = [command] * bool(command)
    stopped = [call for call in site.calls[:end] if call[0] == "kill"]
    assert sorted(stopped) == [
        ("kill", pid, signal.SIGSTOP) for pid in [*root, 556, 557, 558]
    ]
    killed = next(call for call in site.calls[end:] if call[0] == "kill together")
    assert killed == ("kill together", {*root, 556, 557, 558, 90})


def test_too_much_memory_in_the_grace_time_of_another_limit_ends_that_at_once(start):
    site = start(timeout=5.0, memory=500 << 20)
    ended: list[int] = []

    def run(begin: Callable[[TimeVerdict], None]) -> int:
        begin(TimeVerdict.TERMINATE)
        assert "end command" not in [call[0] for call in site.calls]
        site.note_excess(700 << 20)
        site.note_excess(700 << 20)
        ended.append([call[0] for call in site.calls].count("end command"))
        site.calls.clear()
        return -9

    timed, cancelled = lambda: run(site.pass_verdict), lambda: run(site.cancel)
    sent = site.serve(site.script(timed), site.script(cancelled))
    assert ended == [1, 1]
    assert [each[6] for each in sent] == [TIMED_OUT, Outcome.CANCELLED.value]
    assert site.log(0) == LIMIT_LINE + "\n"


def test_a_run_of_which_the_kernel_has_killed_a_process_is_told_without_a_size(start):
    site = start(memory=500 << 20)
    sent = site.serve(site.script(lambda: site.note_excess(BY_KERNEL)))
    assert outcomes(sent) == [(0, 0, OUT_OF_MEMORY, "")]
    assert "ended by the kernel" in site.log(0)
    assert "had" not in site.log(0)


class FakeCgroup:
    """The cgroup of a task, and what the kernel has killed in it."""

    def __init__(self, kills: int = 0, met: bool = True) -> None:
        self.kills, self.met = kills, met
        self.calls: list[str] = []

    def begin(self, name: str) -> None:
        self.calls.append(f"begin {name}")

    def count_kills(self) -> int:
        return self.kills

    def has_met_limit(self) -> bool:
        return self.met

    def processes(self) -> list[int]:
        return [70, 71]

    def end(self, tries: int = 1) -> None:
        self.calls.append("end" if tries == 1 else "end all")


@pytest.fixture
def start_in_cgroup(start, monkeypatch):
    monkeypatch.setattr(task_command, "start_commands_in", lambda _: None)

    def start_it(cgroup: FakeCgroup) -> Any:
        site = start(memory=500 << 20)
        monkeypatch.setattr(processes, "kill_together", site.calls.append)
        site.worker._execute_in_cgroup(cast(Any, cgroup), 0)
        return site

    return start_it


@pytest.mark.parametrize(
    ("met", "told"),
    [
        (
            True,
            "the limit is 500 MB for all its processes together (--task-memory) ===",
        ),
        (False, "by the kernel, because the memory of the job ran out ==="),
    ],
)
def test_what_the_kernel_killed_in_the_cgroup_of_a_task_makes_it_fail(
    start_in_cgroup, met, told
):
    cgroup = FakeCgroup(kills=1, met=met)
    site = start_in_cgroup(cgroup)
    assert outcomes(site.serve("true")) == [(0, 0, OUT_OF_MEMORY, "")]
    assert site.log(0).endswith(told + "\n")
    assert [70, 71] in site.calls, "what the kernel has left of it"
    assert cgroup.calls == ["begin 0-1", "end all"]


def test_each_task_has_its_own_cgroup_in_which_nothing_may_happen(start_in_cgroup):
    cgroup = FakeCgroup()
    site = start_in_cgroup(cgroup)
    sent = outcomes(site.serve("true", "exit 3"))
    assert [outcome for _, _, outcome, _ in sent] == [COMPLETED, FAILED]
    assert [70, 71] not in site.calls
    assert cgroup.calls == ["begin 0-1", "end", "begin 0-2", "end"]


def test_the_task_after_one_that_had_too_much_memory_runs_as_any_other(start):
    site = start(memory=500 << 20)
    large = site.script(lambda: site.note_excess(700 << 20))
    sent = site.serve(large, "exit 3", site.script(lambda: site.tell(REMIND)))
    assert [outcome for _, _, outcome, _ in outcomes(sent)] == [
        *(OUT_OF_MEMORY, Outcome.FAILED.value, COMPLETED)
    ]


def test_a_look_at_memory_that_comes_after_a_stop_changes_nothing(start):
    def stop() -> int:
        site.tell(TERMINATE)
        site.note_excess(700 << 20)
        return -15

    site = start(memory=500 << 20)
    site.serve(site.script(stop))
    assert "end command" not in [call[0] for call in site.calls]


def test_what_a_run_has_left_at_its_limit_is_terminated_and_then_killed(
    start, monkeypatch
):
    site = start(timeout=5.0)
    site.left = [{9, 7, 8}, {7, 8}, set(), {8}]

    def sleep(_: float) -> None:
        if len(site.left) == 2:
            site.pass_verdict(TimeVerdict.KILL)

    monkeypatch.setattr(time, "sleep", sleep)
    slow = site.script(lambda: site.pass_verdict(TimeVerdict.TERMINATE))
    assert outcomes(site.serve(slow)) == [(0, 0, TIMED_OUT, "")]
    # shells before what they have started
    assert [call for call in site.calls if call[0] == "kill"] == [
        *(("kill", 7, TERM), ("kill", 8, TERM), ("kill", 9, TERM))
    ]
    assert site.left == [], "looked at until nothing is left"
    assert ("kill together", {8}) in site.calls, "when its grace time is over"
    assert ("find", [b"MPIFARM_FARM=f0", b"MPIFARM_TASK_ID=0"]) in site.calls


def test_what_is_left_is_looked_for_twice(start):
    site = start(timeout=5.0)
    site.left = [set(), set(), {7}]  # in the middle of its exec it has no name
    slow = site.script(lambda: site.pass_verdict(TimeVerdict.TERMINATE))
    site.serve(slow)
    assert site.left == []


def test_processes_left_at_the_limit_are_not_noted_as_left_running(start, monkeypatch):
    site = start(timeout=5.0)
    monkeypatch.setattr(task_command, "has_left_processes", lambda: True)
    slow = site.script(lambda: site.pass_verdict(TimeVerdict.TERMINATE))
    assert outcomes(site.serve(slow)) == [(0, 0, TIMED_OUT, "")]


# ---- the stop of the farm -----------------------------------------------------------


def test_a_stop_between_two_runs_starts_nothing_more(start):
    site = start()
    site.tell(TERMINATE)
    assert site.serve("true", "true") == []
    assert (site.ran, site.worker._stop) == ([], Stop.BETWEEN_RUNS)
    assert ("terminate",) not in site.calls


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_stop_right_before_a_run_is_seen_by_it(start, monkeypatch, timeout):
    site = start(timeout=timeout)
    monkeypatch.setattr(
        *(task_command, "forget_termination"), lambda: site.tell(TERMINATE)
    )
    ended: list[bool] = []

    def end(self: LogKeeper, log: Any, *, failed: bool) -> None:
        log.end()
        ended.append(failed)

    monkeypatch.setattr(LogKeeper, "end", end)
    assert site.serve("true", "true") == []
    assert (site.ran, site.row.task) == ([], None)
    assert ended == [True], "its log is given back"


@pytest.mark.parametrize(
    ("limits", "signum"),
    [({}, TERM), ({"checkpoint_signal": signal.SIGUSR1}, signal.SIGUSR1)],
)
@pytest.mark.parametrize("status", [0, -15])
def test_a_stop_during_a_run_ends_it_and_the_worker(start, limits, signum, status):
    site = start(**limits)

    def run() -> Any:
        site.tell(TERMINATE)
        return status

    outcome = FAILED if status else COMPLETED
    sent = site.serve(site.script(run), "true", first=4)
    assert outcomes(sent) == [(4, status, outcome, "")]
    assert site.calls == [("signal", signum), ("terminate",)]
    assert site.row.task == 4, "the fork server KILLs what is left of it"
    assert site.log(4) == "", "mpifarm's own stop is no news"


def test_a_stop_that_is_repeated_terminates_again(start):
    site = start()

    def run() -> None:
        site.tell(TERMINATE)
        site.tell(REMIND)
        site.tell(TERMINATE)

    site.serve(site.script(run))
    assert site.calls.count(("terminate",)) == 2
    site.tell(TERMINATE)
    assert site.calls.count(("terminate",)) == 2, "nothing runs any more"


def test_after_a_stop_no_time_limit_ends_a_run(start):
    site = start(timeout=5.0)

    def run() -> None:
        site.tell(TERMINATE)
        site.pass_verdict(TimeVerdict.KILL)

    assert outcomes(site.serve(site.script(run))) == [(0, 0, COMPLETED, "")]
    assert site.calls == [("signal", TERM), ("terminate",)]


def test_a_stop_outweighs_a_time_limit_that_came_before(start):
    site = start(timeout=5.0)
    site.left = [{7}]  # the fork server KILLs it after the grace time of the stop

    def run() -> None:
        site.pass_verdict(TimeVerdict.TERMINATE)
        site.tell(TERMINATE)

    assert outcomes(site.serve(site.script(run))) == [(0, 0, COMPLETED, "")]
    assert [call for call in site.calls if call[0] == "kill"] == []


def test_processes_left_at_a_stop_are_terminated_and_awaited(start, monkeypatch):
    site = start()
    monkeypatch.setattr(task_command, "has_left_processes", lambda: True)
    groups = [[7], [7], [7]]
    monkeypatch.setattr(
        *(processes, "living_in_group"), lambda _: groups.pop() if groups else []
    )
    stopped = site.script(lambda: site.tell(TERMINATE))
    assert outcomes(site.serve(stopped)) == [(0, 0, COMPLETED, "")]
    assert site.calls[2] == ("kill group", os.getpid(), TERM)
    assert [call[0] for call in site.calls[3:]] == ["sleep", "sleep"]


def test_a_runner_whose_terminate_raises_does_not_end_the_worker(start):
    site = start()

    def fail() -> None:
        raise SystemExit("no")

    site.on_terminate = fail
    stopped = site.script(lambda: site.tell(TERMINATE))
    assert outcomes(site.serve(stopped)) == [(0, 0, COMPLETED, "")]


@pytest.mark.parametrize("reason", ["stop", "time limit"])
def test_a_runner_that_cannot_terminate_yet_is_reminded_until_it_can(start, reason):
    """It has no command yet where the signal comes between two of its lines."""
    site = start(timeout=5.0)
    trouble = [AttributeError("process"), AttributeError("process")]

    def terminate() -> None:
        if trouble:
            raise trouble.pop()

    def run() -> None:
        site.on_terminate = terminate
        if reason == "stop":
            site.tell(TERMINATE)
        else:
            site.pass_verdict(TimeVerdict.TERMINATE)
        for _ in range(4):
            site.tell(REMIND)

    site.serve(site.script(run))
    assert site.calls.count(("terminate",)) == 3
    site.tell(REMIND)
    assert site.calls.count(("terminate",)) == 3, "nothing runs any more"


def test_the_end_of_the_fork_server_ends_the_worker_with_its_command(start):
    site = start()
    read_end, write_end = os.pipe()
    os.dup2(read_end, site.worker._lifeline)
    os.close(write_end)
    os.close(read_end)
    site.worker._on_lifeline(signal.SIGIO, None)
    assert site.calls == [("leave",)]


def test_a_signal_without_a_word_changes_nothing(start):
    site = start()
    site.worker._on_lifeline(signal.SIGIO, None)
    assert (site.calls, site.worker._stop) == ([], Stop.NOT_ASKED)


def test_each_stop_has_its_transitions():
    assert set(worker_module._TRANSITIONS) == {*Stop}


# ---- a fresh fork -------------------------------------------------------------------


@pytest.fixture
def fork(tmp_path, monkeypatch) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Be a worker to which two leases come: ``fork(create_runner, **definition)``.

    What it has sent; what it does to its process is left out.
    """
    environment = dict(os.environb)
    ends: list[Any] = []

    def be_worker(create_runner: Any, **others: Any) -> list[tuple[Any, ...]]:
        rank, leases = socket.socketpair()
        lifeline, held_end = os.pipe()
        ends.extend((rank, leases, lifeline, held_end))
        definition = PoolDefinition(
            *(2, 3, "f0", "/w", str(tmp_path)), node_worker=8, **others
        )
        row = SharedState().row(1)
        context = WorkerContext(1, row, leases, lifeline)
        rank.sendall(encode_frame(((0, 1, "", 1), (1, 1, "", 2))))
        rank.shutdown(socket.SHUT_WR)
        worker_module.run_worker(definition, context, create_runner)
        assert row.worker == os.getpid()
        with suppress(BlockingIOError):
            return FrameReader().feed(rank.recv(2**20, socket.MSG_DONTWAIT))
        return []

    monkeypatch.setattr(os, "setsid", lambda: None)
    for name in ("close_descriptors_except", "ignore_signals"):
        monkeypatch.setattr(processes, name, lambda *_: None)
    for name in ("publish_command_in", "wake_regularly"):
        monkeypatch.setattr(task_command, name, lambda *_: None)
    monkeypatch.setattr(task_command, "has_left_processes", lambda: False)
    monkeypatch.setattr(Worker, "watch_lifeline", lambda _: None)
    yield be_worker
    os.environ.clear()
    os.environb.update(environment)
    for end in ends:
        os.close(end) if isinstance(end, int) else end.close()


class EnvironmentRunner:
    """Keeps what it finds at its first task."""

    __module__ = "mpifarm.tests"
    found: dict[str, str]

    def __init__(self, definition: object) -> None:
        pass

    def run(self, taskid: int, command: str, logfh: object) -> int:
        type(self).found = dict(os.environ)
        return 0

    def terminate(self) -> None:
        pass


def test_a_worker_has_the_environment_of_the_definition_and_its_numbers(fork):
    sent = fork(EnvironmentRunner, environment={b"A\xff": b"\xfe", b"HOME": b"/h"})
    assert [each[6] for each in sent] == [COMPLETED, COMPLETED]
    found = EnvironmentRunner.found
    assert found.pop("A\udcff") == "\udcfe"
    found.pop("LC_CTYPE", None)  # Python's own
    assert found == {
        "HOME": "/h",
        "MPIFARM_RANK": "3",
        "MPIFARM_WORKER": "1",
        "MPIFARM_NODE_WORKER": "9",
        "MPIFARM_WORKDIR": "/w",
        "MPIFARM_FARM": "f0",
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("no image x.sif"), "(no image x.sif)"),
        (RuntimeError("two\nlines"), "(RuntimeError: two"),
        (SystemExit(3), "(SystemExit: 3, raised in "),
    ],
)
def test_where_no_runner_can_be_made_leases_are_refused_with_the_reason(
    fork, error, words
):
    def fail(definition: object) -> None:
        raise error

    runner = RunnerDefinition("own", "own.Runner")
    first, second = fork(fail, runner=runner)
    assert (first[:2], second[:2]) == ((0, 1), (1, 1))
    start = f"the runner 'own' can't be made on host {os.uname().nodename} "
    assert first[2].startswith(start + words)


def test_memory_is_limited_once_the_runner_holds_what_it_has_loaded(fork, monkeypatch):
    order: list[str] = []

    class Detector:
        def __init__(self, limits: TaskLimits) -> None:
            order.append(f"limit {limits.memory}")

    class LoadingRunner(EnvironmentRunner):
        __module__ = "mpifarm.tests"

        def __init__(self, definition: object) -> None:
            order.append("load")

    monkeypatch.setattr(worker_module, "OomDetector", Detector)
    fork(LoadingRunner, limits=TaskLimits(memory=2**30))
    assert order == ["load", f"limit {2**30}"]


# ---- users' runners -----------------------------------------------------------------


class UsersRunner(ScriptedRunner):
    """Not one of mpifarm's: its run gives what its script gives."""

    __module__ = "users.own"

    def run(self, taskid: int, command: str, logfh: Any) -> Any:
        return self._site.scripts[command]()


@pytest.fixture
def users(start) -> Iterator[Site]:
    """A worker with a user's runner; the streams of the tests come back."""
    thresholds, streams = gc.get_threshold(), (os.dup(1), os.dup(2))
    gc.set_threshold(20_000)
    site: Site = start()
    site.worker.take_runner(cast(Any, UsersRunner(site)))
    yield site
    os.close(site.worker._null)
    for fd, stream in enumerate(streams, 1):
        os.dup2(stream, fd)
        os.close(stream)
    gc.set_threshold(*thresholds)


def test_what_a_users_runner_prints_is_in_its_tasks_log(users):
    def prints() -> int:
        sys.stdout.write("by print\n")
        os.write(1, b"by 1\n")
        os.write(2, b"by 2\n")
        sys.stderr.write("by stderr\n")
        return 0

    null = os.stat(os.devnull).st_rdev
    between: list[bool] = []
    end = users.worker._keeper.end

    def look(log: Any, *, failed: bool) -> None:
        between.append({os.fstat(fd).st_rdev for fd in (1, 2)} == {null})
        end(log, failed=failed)

    users.worker._keeper.end = look
    streams = sys.stdout, sys.stderr
    sent = users.serve(users.script(prints))
    assert outcomes(sent) == [(0, 0, COMPLETED, "")]
    lines = users.log(0).splitlines()
    assert sorted(lines) == ["by 1", "by 2", "by print", "by stderr"]
    assert lines.index("by print") < lines.index("by stderr")
    assert between == [True], "what it prints between two tasks is in no log"
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize("value", [None, "0", 1.5])
def test_a_users_runner_that_returns_no_number_fails_its_task(users, value):
    assert outcomes(users.serve(users.script(lambda: value))) == [(0, 1, FAILED, "")]
    assert f"the runner returned {value!r}, not a number" in users.log(0)


def test_a_users_runner_finds_its_task_in_the_environment(users, monkeypatch):
    for name in ("PROC_NUMBER", "MPIFARM_TASK_ID", "MPIFARM_ATTEMPT", "OWN"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(users.worker, "_numbers", [(b"OWN", 100)])
    found: list[str] = []

    def look() -> int:
        names = ("PROC_NUMBER", "MPIFARM_TASK_ID", "MPIFARM_ATTEMPT", "OWN")
        found.extend(os.environ[name] for name in names)
        return 0

    users.serve(users.script(look), first=7)
    assert found == ["7", "7", "1", "107"]


def test_garbage_is_collected_as_in_any_python_under_a_users_runner(users):
    assert gc.get_threshold() == worker_module.PYTHONS_THRESHOLDS


def test_of_what_a_users_runner_has_here_other_tasks_processes_are_left_alone(
    users, monkeypatch
):
    named = {8: b"MPIFARM_TASK_ID=5\0", 7: b"HOME=/\0", 9: b"", 10: b""}
    monkeypatch.setattr(processes, "living_in_group", lambda _: [8, 9, 10])
    monkeypatch.setattr(processes, "children_of", lambda _: [7, 8])
    monkeypatch.setattr(processes, "is_alive", lambda pid: pid != 10)
    monkeypatch.setattr(processes, "environment_of", lambda pid: named[pid])
    users.left = [{5}]
    assert users.worker._rest_of(0) == {5, 7, 9}
    users.worker._is_own_runner = True
    users.left = [{5}]
    assert users.worker._rest_of(0) == {5}
