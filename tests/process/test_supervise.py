"""``mpifarm supervise``: what it starts again, what it passes on, how it ends.

Rules of this file: most launchers here are scripts that say what a farm would have
said, so that what a launcher does is known; the last tests have a real one.
"""

import signal
import sys
import time

import pytest

from mpifarm.commands.supervise import DEAF_SECONDS
from tests.farm_driver import Part, assert_ends, send_signal
from tests.process.test_terminal import ON_A_TERMINAL
from tests.support import is_running, try_rounds, wait_until

MAX_ONE = ("--max-restarts", "1")

SUPERVISE = (sys.executable, "-m", "mpifarm", "supervise")

IN_HASTE = """
import sys
import mpifarm.commands.restart_policy as supervision
import mpifarm.commands.supervise as supervise
supervision.PAUSES = (0.1, 0.1)
supervise.LOOK_AGAIN = supervise.END_SECONDS = 0.3
from mpifarm.commands.main import main
main()
"""
"""The same without its long waits."""

LAUNCHER = """\
number=$(($(ls starts.* 2>/dev/null | wc -l) + 1))
touch starts.$number
workdir=tasks.txt_workdir
mkdir -p $workdir
record() { echo "$number true" >> $workdir/finished; }
tell() { # STATUS REASON
  cat > $workdir/result.json <<END
{"farm": "farm $number", "launch": "$MPIFARM_LAUNCH", "exit_status": $1, "reason": "$2",
 "tasks": {"toprocess": 4, "elsewhere": 1, "claimed": 0}}
END
}
hang() { touch ready; until [ -e go ]; do sleep 0.05; done; }
echo "start $number"
"""
"""What it does at each start follows; ``$number`` counts them."""


COUNTS_INTS = """
import os, signal, time
def note(signum, frame):
    with open("heard", "a") as file:
        file.write("INT\\n")
signal.signal(signal.SIGINT, note)
open("ready", "w").close()
while not os.path.exists("go"):
    time.sleep(0.01)
os._exit(75)
"""
"""Notes each INT on a line of its own."""


@pytest.fixture
def supervise(tmp_path, farm_processes):
    """Supervise a launcher that does this at its starts, one after the other."""
    (tmp_path / "tasks.txt").write_text("true\n")

    def start(*starts, options=(), before=(), command=SUPERVISE):
        lines = [f"{n}) {each} ;;" for n, each in enumerate(starts, 1)]
        script = "\n".join([LAUNCHER, "case $number in", *lines, "esac"])
        (tmp_path / "launcher").write_text(script)
        words = (*options, "--", "bash", "launcher", "mpifarm", "tasks.txt")
        return farm_processes([*before, *command, *words], cwd=tmp_path)

    return start


def count_starts(directory):
    return len(list(directory.glob("starts.*")))


# ---- what can't start ----------------------------------------------------------------


@pytest.mark.parametrize("status", [1, 16])
def test_what_can_not_start_is_started_once_and_the_last_words_say_so(
    supervise, tmp_path, status
):
    child = supervise(*[f"echo 'the MPI does not fit'; exit {status}"] * 2)
    assert_ends(child, status)
    assert count_starts(tmp_path) == 1
    assert "no farm began, so it is not started again" in child.text()


def test_a_farm_that_died_with_1_and_left_its_claim_is_started_again(supervise):
    claim = "mkdir $workdir/claims; touch $workdir/claims/farm"
    child = supervise(
        f"{claim}; exit 1",
        "tell 0; exit 0",
        command=(sys.executable, "-c", IN_HASTE, "supervise"),
    )
    assert_ends(child, 0)


# ---- what is started again -----------------------------------------------------------


def test_what_dies_is_started_again_until_the_list_is_done(supervise, tmp_path):
    child = supervise("record; kill -9 $$", "record; exit 137", "tell 0; exit 0")
    assert_ends(child, 0)
    again = "1 task was recorded in this run; starting it again at once"
    assert child.text().splitlines() == [
        "start 1",
        f"mpifarm supervise: the launcher ended with status 137, {again}",
        "start 2",
        f"mpifarm supervise: the launcher ended with status 137, {again}",
        "start 3",
    ]


def test_the_status_is_the_farms_own_where_the_launchers_is_another(
    supervise, tmp_path
):
    child = supervise("tell 1; exit 137")
    assert_ends(child, 1)
    assert "the launcher ended with status 137, the farm with status 1" in child.text()
    assert count_starts(tmp_path) == 1


def test_an_old_result_is_not_taken_for_that_of_the_last_run(supervise, tmp_path):
    child = supervise("record; tell 75; exit 75", "exit 9", options=MAX_ONE)
    assert_ends(child, 9)
    assert count_starts(tmp_path) == 2


@pytest.mark.parametrize(
    "reason", ["SIGUSR1 was received", "the timeout of 5 s is over"]
)
def test_a_farm_that_was_stopped_stays_so(supervise, tmp_path, reason):
    assert_ends(supervise(f"record; tell 75 '{reason}'; exit 75"), 75)
    assert count_starts(tmp_path) == 1


def test_it_is_given_up_when_nothing_gets_done_any_more(supervise, tmp_path):
    starts = ["record; exit 137", *["exit 137"] * 4]
    child = supervise(*starts, command=(sys.executable, "-c", IN_HASTE, "supervise"))
    assert_ends(child, 137)
    assert count_starts(tmp_path) == 4
    assert child.text().splitlines()[-1] == (
        "mpifarm supervise: the launcher ended with status 137, 0 tasks were recorded "
        "in this run; not started again, because nothing gets done any more"
    )


def test_a_launcher_that_waits_for_a_rank_that_hangs_is_ended(supervise, tmp_path):
    command = (sys.executable, "-c", IN_HASTE, "supervise")
    child = supervise("tell 1; hang", command=command)
    assert_ends(child, 1)
    assert "the launcher ended with status 143, the farm with status 1" in child.text()
    assert count_starts(tmp_path) == 1


def test_a_launcher_is_not_ended_for_what_another_farm_says(supervise, tmp_path):
    command = (sys.executable, "-c", IN_HASTE, "supervise")
    others = "launch=$MPIFARM_LAUNCH; MPIFARM_LAUNCH=another; tell 1; sleep 1.5"
    own = "MPIFARM_LAUNCH=$launch; tell 0; exit 0"
    assert_ends(supervise(f"{others}; {own}", command=command), 0)
    assert count_starts(tmp_path) == 1


# ---- what is passed on ---------------------------------------------------------------


def heeds(name):
    """A start that waits, and ends at this signal as a farm does."""
    ends = f'echo {name} >> heard; tell 75 "SIG{name} was received"; exit 75'
    return f"trap '{ends}' {name}; hang"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_a_signal_is_passed_on_once_and_is_the_end(supervise, tmp_path, name):
    child = supervise(heeds(name))
    wait_until((tmp_path / "ready").exists)
    child.send_signal(getattr(signal, f"SIG{name}"))
    assert_ends(child, 75)
    assert (tmp_path / "heard").read_text() == f"{name}\n"
    assert count_starts(tmp_path) == 1
    assert "not started again, because a signal came" in child.text()


def test_a_signal_that_comes_early_is_passed_on_when_a_launcher_can_hear_it(
    supervise, tmp_path
):
    deaf = "trap '' USR1; touch ready; sleep 1"
    hears = heeds("USR1").replace("; hang", "; touch hears; hang")

    def run(_number):
        for name in ("starts.*", "ready", "hears", "heard", "go"):
            for path in tmp_path.glob(name):
                path.unlink()
        begun = time.time()
        child = supervise(f"{deaf}; {hears}")
        wait_until((tmp_path / "ready").exists)
        child.send_signal(signal.SIGUSR1)
        wait_until((tmp_path / "hears").exists)
        if (tmp_path / "hears").stat().st_mtime - begun < DEAF_SECONDS:
            return child
        (tmp_path / "go").touch()
        child.wait()
        return None

    child = try_rounds(run)
    assert_ends(child, 75)
    assert (tmp_path / "heard").read_text() == "USR1\n"


def test_a_launcher_that_dies_of_a_signal_to_the_supervisor_stays_dead(
    supervise, tmp_path
):
    child = supervise("touch ready; exec sleep 1000")
    wait_until((tmp_path / "ready").exists)
    child.send_signal(signal.SIGTERM)
    assert_ends(child, 143)
    assert count_starts(tmp_path) == 1


def test_a_signal_while_it_waits_ends_it_too(supervise, tmp_path):
    patient = IN_HASTE.replace("(0.1, 0.1)", "(0.1, 1000.0)")
    command = (sys.executable, "-c", patient, "supervise")
    child = supervise("exit 137", "exit 137", "exit 137", command=command)
    wait_until(lambda: "again in 1000 s" in child.text())
    child.send_signal(signal.SIGUSR1)
    assert_ends(child, 75)
    assert count_starts(tmp_path) == 2


def test_ctrl_c_reaches_the_launcher_once(supervise, tmp_path):
    (tmp_path / "keys.py").write_text(ON_A_TERMINAL)
    mkfifo = f'mkfifo keys; exec {sys.executable} keys.py keys "$@"'
    (tmp_path / "counts.py").write_text(COUNTS_INTS)
    counts = f"tell 75 'SIGINT was received'; exec {sys.executable} counts.py"
    child = supervise(counts, before=("bash", "-c", mkfifo, "bash"))
    wait_until((tmp_path / "ready").exists)
    (tmp_path / "keys").write_bytes(b"\x03")
    wait_until((tmp_path / "heard").exists)
    time.sleep(0.5)  # one that was passed on would have come by now
    (tmp_path / "go").touch()
    assert_ends(child, 75)
    assert (tmp_path / "heard").read_text() == "INT\n"


def test_under_nohup_a_hang_up_reaches_nobody(supervise, tmp_path):
    child = supervise(
        "hang; tell 0; exit 0",
        before=("bash", "-c", "trap '' HUP; exec \"$@\"", "bash"),
    )
    wait_until((tmp_path / "ready").exists)
    child.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    assert_ends(child, 0)
    assert "a signal came" not in child.text()


def test_what_is_typed_reaches_the_command(supervise, tmp_path):
    piped = ("bash", "-c", 'echo some words | "$@"', "bash")
    child = supervise('read line; echo "read: $line"; tell 0; exit 0', before=piped)
    assert_ends(child, 0)
    assert "read: some words" in child.text()


# ---- what is wrong -------------------------------------------------------------------


def test_a_command_that_is_not_there_is_status_2_and_one_sentence(farm_processes):
    child = farm_processes([*SUPERVISE, "--", "no-such-launcher", "tasks.txt"])
    assert_ends(child, 2)
    assert child.text().count("\n") == 1
    assert "cannot start 'no-such-launcher'" in child.text()


def test_its_help_tells_of_it(farm_processes):
    child = farm_processes([*SUPERVISE, "--help"])
    assert_ends(child, 0)
    assert "--max-restarts N" in child.text()


# ---- real farms ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["timeout", "drain"])
def test_a_farm_that_ends_early_on_purpose_is_not_started_again(create_place, how):
    def run(number):
        place = create_place(
            ["touch begun; until [ -e go ]; do sleep 0.02; done"] * 40,
            name=f"here {number}",
        )
        options = ["--timeout", f"{2 ** (number + 1)}"] if how == "timeout" else []
        child = place.start("-n", "2", *options, before=(*SUPERVISE, "--"))
        if how == "drain":
            wait_until((place.directory / "begun").exists)
            (place.workdir / "drain").touch()
            wait_until(lambda: "nothing more is started" in child.text())
            place.allow()
        assert_ends(child, 75)
        return child if (place.directory / "begun").exists() else None

    child = try_rounds(run)
    assert child.text().count("1 rank of 2 workers") == 1
    assert "supervise:" not in child.text()


def test_a_farm_that_lacks_a_limit_for_what_was_added_is_not_started_again(
    create_place,
):
    place = create_place(["until [ -e go ]; do sleep 0.02; done"])
    child = place.start("-n", "1", before=(*SUPERVISE, "--"))
    wait_until(lambda: "1 rank of 1 worker" in child.text())
    with place.tasklist.open("a") as file:
        file.write("[limit=zz] true\n")
    wait_until(lambda: "WARNING: tasks of the kind 'zz' were added" in child.text())
    place.allow()
    assert_ends(child, 75)
    assert child.text().count("1 rank of 1 worker") == 1
    assert "not started again, because tasks that were added need --limit zz=N" in (
        child.text()
    )


# ---- real launchers ------------------------------------------------------------------

WAITS = "touch started.$PROC_NUMBER; until [ -e go ]; do sleep 0.05; done"
RANKS = 3


@pytest.fixture
def farm(farm, mpirun):
    """Supervised farms of three ranks."""
    # not as `-m mpifarm`, by which the driver tells ranks
    supervise = [sys.executable, "-c", "from mpifarm.commands.main import main; main()"]

    def launch(ranks, *argv):
        launched = mpirun(ranks, *argv)
        return launched._replace(argv=[*supervise, "supervise", "--", *launched.argv])

    farm.under, farm.ranks, farm.options = launch, RANKS, ("-n", "1")
    return farm


@pytest.mark.parametrize("rank", [0, 1])
def test_a_farm_that_loses_a_rank_finishes_its_list(farm, rank):
    farm.write_list(["true"] * 4 + [WAITS] * 8)
    child = farm.start()
    farm.wait_for_marks("started", RANKS)
    wait_until(lambda: len(farm.finished()) == 4)
    farm.signal_rank(rank, signal.SIGKILL)
    wait_until(lambda: "starting it again at once" in child.text())
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    farm.wait_until_gone()


def test_a_farm_whose_launcher_is_killed_finishes_its_list(farm):
    farm.write_list(["true"] * 4 + [WAITS] * 8)
    child = farm.start()
    farm.wait_for_marks("started", RANKS)
    wait_until(lambda: len(farm.finished()) == 4)
    supervisor = child.pid
    launchers = [m.pid for m in farm.members(Part.LAUNCHER) if m.parent == supervisor]
    send_signal(launchers, signal.SIGKILL)
    wait_until(lambda: "starting it again at once" in child.text())
    assert is_running(supervisor)
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    farm.wait_until_gone()
