"""A farm learns from a batch system when its job ends: fakes of the commands on PATH.

Rules of this file: each fake notes that it was asked; what it says is what the real
command prints.  tests/slurm asks the real one.
"""

import signal
import sys
import time

import pytest

from tests.process.batch_fakes import end_by_bjobs, end_by_qstat, end_by_squeue
from tests.support import survivors, try_rounds, wait_until

ENDS = "sleep 0.3"
FOR_EVER = "echo $PROC_NUMBER >> begun; exec sleep 1000"

SLURM = {"SLURM_JOB_ID": "17"}
PBS = {"PBS_JOBID": "7.server"}
LSF = {"LSB_JOBID": "7", "LSB_JOBINDEX": "0"}
OPTIONS = ("--proc", "2", "--grace", "0.2")


@pytest.fixture
def place(create_place):
    return create_place(["true", *[FOR_EVER] * 4])


def fake(place, name, script):
    """The variables with which this script is the command of that name."""
    directory = place.directory / "bin"
    directory.mkdir(exist_ok=True)
    command = directory / name
    command.write_text(
        f"#!/bin/sh\necho \"$0 $*\" >> '{place.directory}/asked'\n{script}"
    )
    command.chmod(0o755)
    return {"PATH": f"{directory}:{place.environment['PATH']}"}


def says(text):
    """A script that prints a text."""
    return f"cat <<'END'\n{text}\nEND\n"


CASES = {
    "Slurm": (SLURM, "squeue", lambda seconds: says(end_by_squeue(seconds))),
    "PBS": (PBS, "qstat", lambda seconds: says(end_by_qstat(seconds))),
    "LSF": (LSF, "bjobs", lambda seconds: says(end_by_bjobs(seconds))),
}


@pytest.mark.parametrize("name", CASES)
def test_a_farm_asks_its_batch_system_once_and_ends_before_the_job_does(
    create_place, name
):
    job, command, script = CASES[name]

    def run(number):
        place = create_place(["true", *[FOR_EVER] * 4], name=f"here {number}")
        seconds = min(3 * 2**number, 50)
        env = {**job, **fake(place, command, script(seconds))}
        farm = place.start(*OPTIONS, env=env)
        assert farm.wait() == 75
        is_over = "the end of the job (--deadline) has come" in farm.text()
        return None if is_over else (place, farm)

    place, farm = try_rounds(run)
    assert place.ids("failed") == []
    place.assert_sound()
    assert len(place.notes("asked")) == 1
    assert "mpifarm: the job ends at " in farm.text()
    assert "ended early: the job ends in " in farm.text()


def test_an_answer_that_comes_late_counts_and_holds_nobody_up(create_place):
    place = create_place(["echo >> begun", *[FOR_EVER] * 4])
    wait = "until [ -s begun ]; do sleep 0.02; done\n"
    env = {**SLURM, **fake(place, "squeue", f"{wait}echo '17|0:03|N/A'\n")}
    farm = place.start(*OPTIONS, env=env)
    assert farm.wait() == 75
    assert "the job ends at" in farm.text()


def test_the_users_deadline_wins_and_nobody_is_asked(create_place):
    place = create_place([ENDS] * 2)
    env = {**SLURM, **fake(place, "squeue", "echo '17|0:00|N/A'\n")}
    assert place.run("--deadline", "none", env=env) == 0
    assert place.notes("asked") == []


def test_an_end_in_the_environment_is_believed_and_nobody_is_asked(create_place):
    place = create_place([ENDS] * 2)
    env = {**SLURM, **fake(place, "squeue", "echo '17|0:00|N/A'\n")}
    end = {"SLURM_JOB_END_TIME": str(int(time.time()) + 3600)}
    farm = place.start(env={**env, **end})
    assert farm.wait() == 0
    assert place.notes("asked") == []
    assert "the job ends at " in farm.text()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo '17|UNLIMITED|N/A'\n", "Slurm job 17 has no time limit"),
        ("echo gone >&2; exit 1\n", "ends (squeue: gone)"),
        ("head -c 3000000 /dev/zero\n", "ends (squeue: ?"),
        ("kill -9 $$\n", "ends (squeue: an empty answer)"),
    ],
    ids=["unlimited", "an error", "garbage", "killed"],
)
def test_an_answer_without_an_end_is_told_and_the_farm_goes_on(
    create_place, script, words
):
    place = create_place(["until [ -e go ]; do sleep 0.02; done"] * 4)
    farm = place.start(env={**SLURM, **fake(place, "squeue", script)})
    wait_until(lambda: words in farm.text())
    place.allow()
    assert farm.wait() == 0
    assert place.finished() == [0, 1, 2, 3]


def test_a_missing_command_is_told_with_the_remedy(create_place):
    place = create_place(["true"])
    farm = place.start(env={**SLURM, "PATH": f"{place.directory}:/bin/nothing"})
    assert farm.wait() in (0, 1)
    assert "ends (squeue: No such file or directory)" in farm.text()
    assert "--deadline TIME" in farm.text()


def test_a_command_that_hangs_holds_nobody_up_and_is_gone_with_the_farm(
    create_place, farm_token
):
    place = create_place(["until [ -s asked ]; do sleep 0.02; done"] * 2)
    env = {**SLURM, **fake(place, "squeue", "trap '' TERM\nsleep 1000\n")}
    assert place.run(env=env) == 0
    assert len(place.notes("asked")) == 1
    wait_until(lambda: not survivors(farm_token))


def test_a_signal_stops_a_farm_that_still_waits_for_the_answer(place, farm_token):
    env = {**SLURM, **fake(place, "squeue", "exec sleep 1000\n")}
    farm = place.start(*OPTIONS, env=env)
    place.await_notes("begun", 2)
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75
    wait_until(lambda: not survivors(farm_token))


def test_an_input_that_is_wrong_leaves_no_question_behind(create_place, farm_token):
    place = create_place(["true"])
    env = {**SLURM, **fake(place, "squeue", "exec sleep 1000\n")}
    assert place.run(env=env) == 0
    place.tasklist.write_text("false\n")
    assert place.run(env=env) == 2
    wait_until(lambda: not survivors(farm_token))


TELL_DESCRIPTORS = f"""\
exec {sys.executable} -c 'import os
fds = [fd for fd in range(256) if os.path.lexists(f"/proc/self/fd/{{fd}}")]
print(*fds, os.readlink("/proc/self/fd/0"), file=open("fds", "w"))'
"""
WITH_ANOTHER = ("sh", "-c", 'exec "$@" 7< /etc/passwd', "sh")


def test_who_is_asked_has_no_descriptor_of_the_rank(create_place):
    place = create_place(["until [ -s fds ]; do sleep 0.02; done"])
    env = {**SLURM, **fake(place, "squeue", TELL_DESCRIPTORS)}
    assert place.run(env=env, before=WITH_ANOTHER) == 0
    fds = (place.directory / "fds").read_text().split()
    assert fds == ["0", "1", "2", "/dev/null"]
