"""What is going on, and looking into a workdir: farms, and what is said of them.

Rules of this file: what is typed, and what it prints, is read from the page; the farms
are real ones.  Where a page leaves out rows, others may stand between those it has.
"""

import json
import os
import re
import shutil
import signal
import sys
import time
from datetime import UTC, datetime

import pytest

from tests.farm_driver import Part, assert_ends, send_signal
from tests.pages import read_page, take_block, take_blocks
from tests.process.page_desk import Desk, assert_has, assert_prints
from tests.required import find_tool, need_launcher
from tests.support import is_suspended, wait_until

GOING_ON = "what-is-going-on.md"

SIMULATE = """\
seed=$2
after=0 number=7
for last in 150 155 179 208 216; do
    [ $seed != $last ] || after=$number
    number=$((number + 1))
done
until [ $after = 0 ] || [ $(wc -l < tasks.txt_workdir/failed) -ge $after ]; do
    sleep 0.02
done
[ $seed -lt 227 ] || until [ -e go ]; do sleep 0.05; done
echo "seed $seed on n$((MPIFARM_RANK + 1))"
case $seed in
    17) echo "reading input/17.dat"; echo $$ > process; exec sleep 1000 ;;
    31|99|155|216|281|337|399) kill -SEGV $$ ;;
    5|62|80|118|137|150|179|208|243|266|300|318|353|371)
        echo "ValueError: negative mass in cell $((seed * 13))"; exit 1 ;;
esac
"""
"""A program of which some runs fail, the last ones in their order, and one hangs."""

SRUN = """\
while [[ $1 == -* ]]; do [[ $1 == --overlap ]] || shift; shift; done
exec "$@"
"""
"""srun into a job whose nodes are this machine."""


@pytest.fixture
def desk(create_place):
    return Desk(create_place())


def write_seeds(place, seeds):
    place.write_list([f"./simulate --seed {seed}" for seed in seeds])


def only_typed(block):
    """What a block types, which has a "$ ", and what it prints."""
    (each,) = block.typed
    return each


def told(place):
    """What the farm says of itself, {} while there is none."""
    paths = [*place.workdir.glob("farms/*.json")]
    return json.loads(paths[0].read_text()) if paths else {}


BUSY = 90.0
"""Seconds; a farm tells of itself less often while that takes its rank 0 long."""


def wait_for_counts(place, **counts):
    def have_come():
        known = told(place).get("counts", {})
        return all(known.get(name) == count for name, count in counts.items())

    wait_until(have_come, BUSY)


RATE = [(r"^([\d.]+ tasks/s|no task ended lately)(?=, time left unknown)", "RATE")]
EARLY = [(r"^no rate yet", "no task ended lately")]
"""The farms of the page have run for minutes, those of the tests for seconds."""

NOT_BEGUN = ((r"\d+ taken, not begun, (\d+ waiting)", "N taken, not begun, N waiting"),)
"""How many tasks a farm has ahead is a question of its speed."""


@pytest.mark.timeout(300)
def test_a_job_of_six_nodes_in_which_one_task_never_ends(desk):
    need_launcher()
    place = desk.place
    place.script("simulate", SIMULATE)
    desk.install("srun", SRUN)
    write_seeds(place, range(227))
    command = "mpirun -n 6 python -m mpifarm -n 4 tasks.txt"
    farm = desk.start(command, "n1 n2 n3 n4 n5 n6", job="6")
    wait_until(lambda: len(place.finished() + place.failed()) == 226)
    write_seeds(place, range(400))
    wait_for_counts(place, failed=12, running=24, total=400)
    wait_until(lambda: told(place)["rate"] and told(place)["time_left"], BUSY)
    status, _ = take_blocks("what-is-going-on.md", "mpifarm status tasks.txt\n")
    printed = desk.type(status.text())
    shown = take_block("what-is-going-on.md", "tasks.txt_workdir: 400 tasks\n214")
    assert_prints(printed, shown.lines, NOT_BEGUN)
    assert_has(printed, take_block("what-is-going-on.md", "9.74 tasks/s, about").lines)
    place.allow()
    wait_for_counts(place, finished=378, failed=21, running=1)
    shown = take_block(
        "what-is-going-on.md", "tasks.txt_workdir: 400 tasks\n378 finished, 21"
    )
    wait_until(lambda: told(place).get("outruns"), BUSY)
    assert_prints(desk.type(status.text()), shown.lines, RATE)
    log = only_typed(take_block("what-is-going-on.md", "mpifarm log tasks.txt 17"))
    assert_prints(desk.type(log.command), log.printed)
    find = only_typed(take_block("what-is-going-on.md", "srun --overlap --jobid 6"))
    (process,) = place.notes("process")
    found = desk.start(find.command)
    assert found.wait() in (0, 2)  # 2: one of all processes has ended meanwhile
    (shown_process,) = re.findall(r"\d+", find.printed[0])
    shown = find.printed[0].replace(shown_process, process)
    assert shown in found.text().splitlines()
    (end,) = re.findall(rf"`(srun .* kill {shown_process})`", read_page(GOING_ON))
    desk.type(end.replace(shown_process, process))
    assert_ends(farm, 1)
    printed = desk.type(status.text())
    shown = take_block(
        "what-is-going-on.md", "tasks.txt_workdir: 400 tasks\n378 finished, 22"
    )
    assert_prints(printed, shown.lines)
    desk.type(take_block("what-is-going-on.md", "mpifarm why tasks.txt").text())
    again = take_block("what-is-going-on.md", "mpifarm retry tasks.txt --why 2").text()
    cause, said, *_ = desk.type(again)
    assert cause.startswith("mpifarm: group 2: ")
    assert "put back to be run" in said


def sort_by_status(rows):
    """Sort rows of ``mpifarm ls``: which task has run on which worker, nobody knows."""
    return sorted(rows, key=lambda row: "139" in row)


def test_a_node_on_which_tasks_fail(desk):
    need_launcher()
    place = desk.place
    place.script(
        "simulate",
        "touch started.$2; until [ $(ls started.* | wc -l) = 12 ]; do sleep 0.02; done",
        "[ $MPIFARM_RANK = 2 ] || exit 0",
        "[ $((MPIFARM_WORKER % 4)) = 3 ] && kill -SEGV $$; exit 1",
    )
    write_seeds(place, range(12))
    command = "mpirun -n 3 python -m mpifarm -n 4 tasks.txt"
    assert_ends(desk.start(command, "n1 n2 n3"), 1)
    listed = only_typed(
        take_block("what-is-going-on.md", "mpifarm ls tasks.txt --failed --host n3")
    )
    printed = desk.type(listed.command)
    assert len(printed) == len(listed.printed)
    numbers = ((r"^ *\d+ | \d+\.\d+ |(?<=seed )\d+", " N "),)
    assert_has(sort_by_status(printed), sort_by_status(listed.printed), numbers)
    count = take_block("what-is-going-on.md", "mlr --tsv filter")
    with_miller, with_sort = count.lines
    assert desk.type(with_sort) == ["      4 n3"]
    if shutil.which("mlr"):
        assert desk.type(with_miller) == ["host\tcount", "n3\t4"]
    desk.install("sbatch", 'echo "$@" >submitted')
    retry, submit = take_block(
        "what-is-going-on.md", "mpifarm retry tasks.txt --ids"
    ).lines
    said, *_ = desk.type(retry)
    assert "4 tasks put back" in said
    desk.type(submit)
    assert place.notes("submitted") == ["--exclude n3 ..."]


def test_a_list_whose_program_is_not_found(desk):
    desk.place.write_list([f"simulate --seed {seed}" for seed in range(40)])
    assert_ends(desk.start("mpifarm -n 1 tasks.txt", "n7"), 1)
    shown = take_block("what-is-going-on.md", "tasks.txt_workdir: 40 tasks")
    assert_prints(desk.type("mpifarm status tasks.txt"), shown.lines)
    said, *_ = desk.type(
        take_block("what-is-going-on.md", "mpifarm retry tasks.txt\n").text()
    )
    assert "40 tasks put back" in said


HANGS = "echo $2 >> begun; until [ $2 != 17 ] || [ -e go ]; do sleep 0.05; done"


def start_that_hangs(desk, host, job):
    """Start a farm whose first task, seed 17, runs until there is a file `go`."""
    desk.place.script("simulate", HANGS)
    write_seeds(desk.place, range(17, 22))
    farm = desk.start("mpifarm -n 1 tasks.txt", host, job=job)
    wait_until(lambda: told(desk.place).get("running"))
    return farm


def test_a_farm_that_was_killed(desk):
    place = desk.place
    farm = start_that_hangs(desk, "n7", job="5")
    place.kill(farm)
    shown = take_block("what-is-going-on.md", "tasks.txt_workdir: 5 tasks\n0 finished")
    assert_prints(desk.type("mpifarm status tasks.txt"), shown.lines)


def make_silent_for(place, seconds):
    """Set back what a farm that is suspended has said last."""
    then = time.time() - seconds
    (claim,) = place.workdir.glob("claims/*")
    os.utime(claim, (then, then))
    path = place.workdir / "farms" / f"{claim.name}.json"
    written = datetime.fromtimestamp(then, UTC).isoformat(timespec="milliseconds")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"written": written}))


def test_a_farm_that_gives_no_sign_of_life_and_goes_on(desk):
    place = desk.place
    farm = start_that_hangs(desk, "n8", job="3")
    assert_ends(desk.start("mpifarm -n 1 tasks.txt", "n1"), 3)
    printed = desk.type("mpifarm status tasks.txt")
    shown = take_block("what-is-going-on.md", "tasks.txt_workdir: 5 tasks\n4 finished")
    assert_prints(printed, shown.lines, EARLY)
    (rank,) = place.pids(Part.RANK)
    send_signal([rank], signal.SIGSTOP)
    wait_until(lambda: is_suspended(rank))
    make_silent_for(place, 75)
    (place.workdir / "drain").touch()
    printed = desk.type("mpifarm status tasks.txt")
    send_signal([rank], signal.SIGCONT)
    assert_has(
        printed, take_block("what-is-going-on.md", "farm 994a52d5 (slurm job 3)").lines
    )
    (line,) = take_block("what-is-going-on.md", "nothing new starts").lines
    assert line.replace("/data", str(place.directory)) in printed
    place.allow()
    assert_ends(farm, 0)


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_tasks_that_a_pytaskfarmer_has_in_no_file(desk, plain_farmer):
    place = desk.place
    place.script("simulate", HANGS)
    write_seeds(place, [1, 2, 3, 17, 17, 4, 5, 6])
    farmer = place.start_plain(plain_farmer, "--proc", "3")
    wait_until(lambda: len(place.finished()) == 6)
    shown = take_block("what-is-going-on.md", "tasks.txt_workdir: 8 tasks")
    assert_prints(desk.type("mpifarm status tasks.txt"), shown.lines)
    place.allow()
    assert_ends(farmer, 0)


def test_the_state_is_written_down_each_minute_until_the_farm_has_ended(desk):
    desk.place.write_list(["true"])
    desk.place.finish()
    (command,) = re.findall(r"`(mpifarm status .* > \S+)`", read_page(GOING_ON))
    desk.type(command)
    assert any("are finished" in line for line in desk.place.notes("progress.log"))


# ---- looking-in.md -------------------------------------------------------------------


def test_a_list_of_tasks_and_a_joblog_with_which_parallel_goes_on(desk):
    place = desk.place
    place.script("simulate", "echo $1 >> ran", "[ $1 = 1 ] && kill -SEGV $$; true")
    for task, (host, status) in enumerate([("n17", 0), ("n18", 1)]):
        place.write_list([f"./simulate {each}" for each in range(task + 1)])
        assert_ends(desk.start("mpifarm tasks.txt", host), status)
    place.write_list([f"./simulate {each}" for each in range(3)])
    listed = only_typed(take_block("looking-in.md", "mpifarm ls tasks.txt"))
    seconds = ((r" \d+\.\d+ ", " SECONDS "),)
    assert_prints(desk.type(listed.command), listed.printed, seconds)
    desk.type(take_block("looking-in.md", "mpifarm joblog").text())
    find_tool("parallel")
    goes_on = take_block("looking-in.md", "parallel --resume-failed").text()
    child = desk.start(goes_on)
    child.wait()
    assert sorted(place.notes("ran")[2:]) == ["1", "2"], child.text()


CELLS = f"""\
#!{sys.executable}
import os, sys
n = int(sys.argv[1])
print(f"reading data/{{n:04}}.nc", flush=True)
if n % 9 == 4:
    raise ValueError(f"cell {{n * 37}} has a negative volume: -{{n / 7:.3g}}")
if n % 13 == 5:
    open(f"data/{{n:04}}.nc")
if n == 30:
    data = b"x" * (300 << 20)
    os.kill(os.getpid(), 9)
"""


def test_why_tasks_have_failed(desk):
    place = desk.place
    place.write_program("simulate", CELLS)
    place.write_list([f"./simulate {each}" for each in range(50)])
    assert_ends(desk.start("mpifarm -n 2 tasks.txt", "n17"), 1)
    why = take_block("looking-in.md", "mpifarm why tasks.txt").text()
    printed = desk.type(why, host="n17")
    shown = take_block("looking-in.md", "10 of 50 tasks have failed").lines
    here = [line.replace(str(place.directory), "/home/me/run") for line in printed]
    sizes = (
        (r"\d+ MiB in \d+ tasks?", "SIZE in N tasks"),
        (r"[\d.]+ GiB", "SIZE"),
    )
    assert_prints(here, shown, sizes)
    for line in shown:
        if line.startswith("  mpifarm retry"):
            desk.type(line)
    assert len(place.to_process()) == 10
