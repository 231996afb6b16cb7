"""kill -9 of every part of a farm at random moments, and the farms that go on after it.

Rules of this file: moments and victims come from seeded random numbers; a commands'
overlap with another attempt of the same task is noted by the commands themselves.
"""

import os
import random
import signal
import time
from collections import Counter

import pytest

from tests.farm_driver import Part, assert_ends, send_signal
from tests.support import is_running, is_suspended, wait_until

pytestmark = pytest.mark.timeout(240)

KILLS = 10
"""Of each part, alone and under mpirun each: 20 in all."""

TASKS = 120
WORKERS = 3
RANKS = 4

SHORT = (
    "exec 9> lock.$PROC_NUMBER; flock -n 9 || echo $PROC_NUMBER >> overlap; "
    "sleep 0.0{}; echo $PROC_NUMBER >> ran"
)
"""A lock that ends with the last process of the command that holds it."""

LONG = "touch started.$PROC_NUMBER; [ -e go ] || { sleep 1000 & sleep 1000; }"


@pytest.fixture(params=["alone", "mpirun"])
def farm(request, farm):
    """Farms of one process, or of four ranks."""
    farm.move_to(farm.directory.with_name("list-0"))
    farm.options = ("-n", str(WORKERS))
    if request.param == "mpirun":
        farm.under, farm.ranks = request.getfixturevalue("mpirun"), RANKS
    return farm


@pytest.fixture
def rng(request):
    return random.Random(request.node.name)


def write_next_list(farm):
    """A new list in a directory of its own."""
    number = int(farm.directory.name.partition("-")[2]) + 1
    farm.move_to(farm.directory.with_name(f"list-{number}"))
    farm.write_list(SHORT.format(1 + taskid % 3) for taskid in range(TASKS))


def overlaps(farm):
    """Tasks of which two attempts ran at once."""
    return farm.notes("overlap")


def is_done(farm):
    return len(farm.finished()) == TASKS


def resume_until_done(farm):
    for _ in range(3):
        child = farm.launch()
        status = child.wait()
        assert status in (0, 75), child.text()
        if status == 0:
            break
    farm.assert_all_finished()
    farm.wait_until_gone()


def wait_for_victims(farm, child, part):
    """Its processes that are `part`; none, if the farm has ended before it had some."""
    wait_until(lambda: farm.pids(part) or child.has_ended())
    return farm.members(part)


def kill_in_rounds(farm, rng, kill):
    """Farms, killed one after the other until there were `KILLS`; each list to its end.

    ``kill(child)`` says how many it has killed.
    """
    kills = 0
    write_next_list(farm)
    while kills < KILLS:
        child = farm.start()
        time.sleep(rng.uniform(0.05, 0.9))  # the moment of the kill
        kills += kill(child)
        child.wait()
        farm.wait_until_gone()
        farm.assert_sound()
        if is_done(farm):
            # killed after its last record, it may have left its claim to the next start
            resume_until_done(farm)
            write_next_list(farm)
    resume_until_done(farm)


# ---- at random moments --------------------------------------------------------------


def test_farms_whose_workers_are_killed_finish_every_task_once(farm, rng):
    kills = 0
    while kills < KILLS:
        write_next_list(farm)
        hits: Counter[int | None] = Counter()
        child = farm.launch()
        wait_for_victims(farm, child, Part.WORKER)
        while not child.has_ended() and kills < KILLS:
            kills += kill_a_worker(farm, rng, hits)
            time.sleep(rng.uniform(0.0, 0.2))  # the moment of the next kill
        assert_ends(child, 0)
        farm.assert_all_finished()
        assert overlaps(farm) == []
    farm.wait_until_gone()


def kill_a_worker(farm, rng, hits):
    """Kill one, and see its command die; how many were killed.

    `hits` counts for each task how often it lost its worker: a third time fails it.
    """
    workers = sorted(farm.pids(Part.WORKER))
    if not workers:
        return 0
    victim = rng.choice(workers)
    # Suspended, it begins nothing else while this process comes to look.
    send_signal([victim], signal.SIGSTOP)
    wait_until(lambda: is_suspended(victim) or not is_running(victim))
    commands = [each for each in farm.members(Part.COMMAND) if each.parent == victim]
    if any(hits[each.task] == 2 for each in commands):
        send_signal([victim], signal.SIGCONT)
        return 0
    send_signal([victim], signal.SIGKILL)
    for command in commands:
        hits[command.task] += 1
    wait_until(lambda: not any(is_running(each.pid) for each in commands))
    return 1


def test_farms_whose_pools_parents_are_killed_finish_every_task_once(farm, rng):
    def kill(child):
        parents = sorted(p.pid for p in wait_for_victims(farm, child, Part.PARENT))
        # under mpirun the other ranks go on
        victims = rng.sample(parents, min(len(parents), rng.choice([1, 2, 3])))
        for victim in victims if len(parents) > 1 else parents:
            send_signal([victim], signal.SIGKILL)
            time.sleep(rng.uniform(0.0, 0.2))
        # alone it may have been at its end already
        assert child.wait() in ((0, 75) if len(parents) < RANKS else (0,))
        return len(victims)

    kill_in_rounds(farm, rng, kill)
    assert overlaps(farm) == []


def test_farms_of_which_a_rank_is_killed_are_resumed_without_loss(farm, rng):
    def kill(child):
        ranks = wait_for_victims(farm, child, Part.RANK)
        send_signal([rng.choice(sorted(r.pid for r in ranks))] if ranks else [], 9)
        return bool(ranks)

    kill_in_rounds(farm, rng, kill)
    assert overlaps(farm) == []


def test_farms_that_are_killed_whole_are_resumed_without_loss(farm, rng):
    def kill(child):
        wait_for_victims(farm, child, Part.RANK)
        farm.kill_all_but_commands()
        return True

    kill_in_rounds(farm, rng, kill)


# ---- what dies with what ------------------------------------------------------------


def start_with_long_commands(farm, count):
    farm.write_list([LONG] * count)
    child = farm.launch()
    # each is a shell and its two children
    wait_until(lambda: len(farm.pids(Part.COMMAND)) == 3 * count)
    farm.wait_for_marks("started", count)
    return child


def test_commands_die_with_their_worker_and_run_again(farm):
    child = start_with_long_commands(farm, 3)
    members = farm.members()
    by_pid = {member.pid: member for member in members}
    commands = [member for member in members if member.part is Part.COMMAND]
    victim = next(
        by_pid[command.parent].pid
        for command in commands
        if command.parent in by_pid and by_pid[command.parent].part is Part.WORKER
    )
    tree = [member.pid for member in commands if descends(member, victim, by_pid)]
    assert len(tree) == 3
    others = [member.pid for member in commands if member.pid not in tree]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, tree)))
    # it is started again while the others go on
    wait_until(lambda: len(farm.pids(Part.COMMAND)) == len(commands))
    assert all(map(is_running, others))
    farm.signal_rank(0, signal.SIGUSR1)
    assert_ends(child, 75)
    farm.allow()
    farm.finish()
    farm.assert_all_finished()
    attempts = {attempt.taskid: attempt.attempt for attempt in farm.attempts()}
    assert attempts == dict.fromkeys(farm.all_ids(), 1), "each farm counts its own"


def descends(member, ancestor, by_pid):
    while member.parent in by_pid:
        if member.parent == ancestor:
            return True
        member = by_pid[member.parent]
    return False


@pytest.mark.parametrize(
    "parts",
    [
        [Part.PARENT],
        [Part.RANK],
        [Part.PARENT, Part.RANK],
        [Part.RANK, Part.WORKER],
        [Part.PARENT, Part.WORKER],
    ],
    ids=lambda parts: "+".join(part.value for part in parts),
)
def test_no_command_outlives_two_of_the_three_that_could_end_it(farm, parts):
    child = start_with_long_commands(farm, 3)
    members = farm.members()
    for part in parts:
        send_signal([m.pid for m in members if m.part is part], signal.SIGKILL)
    wait_until(lambda: not farm.pids(Part.COMMAND))
    child.wait()
    farm.wait_until_gone()
    farm.assert_sound()
    assert farm.finished() == farm.failed() == []
    farm.allow()
    farm.finish()
    farm.assert_all_finished()


@pytest.mark.parametrize("farm", ["mpirun"], indirect=True)
def test_a_farm_goes_on_after_the_pools_of_three_of_four_ranks_are_lost(farm):
    waits = "until [ -e go ]; do sleep 0.05; done"
    farm.write_list(f"{waits}; {SHORT.format(5)}" for _ in range(100))
    child = farm.launch("-n", "2")
    wait_until(lambda: len(farm.members(Part.WORKER)) == 2 * RANKS)
    parents = farm.members(Part.PARENT)
    assert len(parents) == RANKS
    send_signal([p.pid for p in parents if p.rank != 1], signal.SIGKILL)
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    assert overlaps(farm) == []
    farm.wait_until_gone()


def test_a_start_right_after_a_kill_takes_everything_back(farm):
    start_with_long_commands(farm, 3)
    farm.kill_all_but_commands()
    # the one kill that can leave commands alive: of all who could end them at once
    left = farm.pids(Part.COMMAND)
    farm.allow()
    farm.finish()
    farm.assert_all_finished()
    send_signal(left, signal.SIGKILL)
    farm.wait_until_gone()


def test_a_farm_takes_over_what_a_killed_one_beside_it_held(farm):
    waits = "touch started.$PROC_NUMBER; while [ ! -e go ]; do sleep 0.05; done"
    farm.write_list([waits] * 40)
    killed = farm.launch()
    farm.wait_for_marks("started", WORKERS)
    other = farm.launch()
    farm.wait_for_marks("started", 2 * WORKERS)
    members = farm.members_under(killed.pid)
    commands = [member.pid for member in members if member.part is Part.COMMAND]
    send_signal({member.pid for member in members} - set(commands), signal.SIGKILL)
    send_signal(commands, signal.SIGKILL)
    killed.wait()
    farm.allow()
    assert_ends(other, 0)
    farm.assert_all_finished()
    farm.wait_until_gone()


def test_a_task_that_kills_its_own_worker_fails_in_the_end_and_the_rest_goes_on(farm):
    farm.write_list(["kill -9 $PPID; sleep 1000", *["sleep 0.05"] * 30])
    farm.finish(status=1)
    assert farm.failed() == [0]
    assert farm.finished() == farm.all_ids()[1:]
    farm.assert_sound()
    farm.wait_until_gone()
