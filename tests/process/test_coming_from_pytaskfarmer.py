"""The job script around PyTaskFarmer that its page shows, and the line in its place.

Rules of this file: script and line are read from the page, and run as they stand; the
programs of Slurm are stand-ins, the PyTaskFarmer is the real 0.1.0.  The test is the
batch system: it starts what was submitted, and signals a job whose time is out.
"""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.farm_driver import assert_ends
from tests.pages import take_block
from tests.required import need_launcher
from tests.support import wait_until

SBATCH = """\
#!/bin/bash
# keeps a copy of the script, and its words
while [[ $1 == -* ]]; do
    [[ $1 != --parsable ]] || parsable=yes
    [[ $1 != --dependency=* ]] || echo "$1" >>"$SPOOL/dependencies"
    shift
done
id=$(($(ls "$SPOOL" | grep -c 'script$') + 1))
cp "$1" "$SPOOL/$id.script"
printf '%s\\0' "${@:2}" >"$SPOOL/$id.words"
[[ $parsable ]] && echo $id || echo "Submitted batch job $id"
"""

SRUN = """\
#!/bin/bash
# two ranks on this machine, which get the USR1
while [[ $1 == -* ]]; do
    [[ $1 != --output=* ]] || output=${1#*=}
    [[ $1 != --mpi=* ]] || mpi=yes
    [[ $1 != -N ]] || shift
    shift
done
[[ ! $mpi ]] || exec mpirun -n 2 "$@"
for rank in 0 1; do "$@" >"${output//%t/$rank}" 2>&1 & done
trap 'kill -USR1 $(jobs -p)' USR1
while [[ $(jobs -r) ]]; do wait; done
"""

RECO = """\
[ "$RELEASE" = 22 ] || exit 9
echo "$1"
case $1 in
    3|5) exit 3 ;;
    8|9|10|11) touch started.$1; until [ -e go ]; do sleep 0.05; done ;;
esac
"""

TASKS = [f"./reco {number}" for number in range(14)]


class Cluster:
    """A place with a list, and Slurm's programs; the test starts the jobs."""

    def __init__(self, place, plain_farmer):
        self.place, self.spool = place, place.directory / "spool"
        programs = place.directory / "bin"
        self.spool.mkdir()
        programs.mkdir()
        for name, text in {
            "sbatch": SBATCH,
            "srun": SRUN,
            "mail": f'#!/bin/sh\necho "$2: $(cat)" >>{self.spool}/mails\n',
            "pytaskfarmer.py": f'#!/bin/sh\nexec {shlex.join(plain_farmer)} "$@"\n',
            "mpifarm": f'#!/bin/sh\nexec {sys.executable} -m mpifarm "$@"\n',
        }.items():
            place.write_program(f"bin/{name}", text)
        place.script("reco", RECO)
        (place.directory / "setup.sh").write_text("export RELEASE=22\n")
        sections = place.directory / ".pytaskfarmer" / "runners.d"
        sections.mkdir(parents=True)
        section = "[reco22]\nRunner = taskfarmer.runners.BasicRunner\n"
        (sections / "reco.ini").write_text(section)
        place.environment |= {
            "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(place.directory),
            "SPOOL": str(self.spool),
            "USER": "ada",
        }
        place.workdir = place.directory / "wkdir"

    def type(self, command):
        child = self.place.start_command(["/bin/bash", "-c", command])
        assert_ends(child, 0)
        return child.text()

    def start_job(self, number):
        """Start a script that was submitted, in the environment of its job."""
        words = (self.spool / f"{number}.words").read_text().split("\0")[:-1]
        script = self.spool / f"{number}.script"
        in_job = {
            "SLURM_JOB_ID": str(number),
            "SLURM_SUBMIT_DIR": str(self.place.directory),
            "SLURM_CPUS_PER_TASK": "2",
        }
        return self.place.start_command(["bash", str(script), *words], env=in_job)

    def mails(self):
        return self.place.notes("spool/mails")


@pytest.fixture
def create_cluster(create_place, plain_farmer):
    def create(name):
        return Cluster(create_place(TASKS, name=name), plain_farmer)

    return create


SCRIPT = take_block("coming-from-pytaskfarmer.md", "#!/bin/bash").text()


def with_script(cluster):
    """Put the script beside the list; return the line of its head that submits it."""
    cluster.place.write_program("reco22.slurm", SCRIPT)
    (submits,) = re.findall(r"^# To submit it:  (.*)$", SCRIPT, re.MULTILINE)
    return submits


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_the_script_around_pytaskfarmer_and_the_line_that_replaces_it_end_alike(
    create_cluster,
):
    need_launcher()
    before, now = create_cluster("before"), create_cluster("now")
    before.type(with_script(before))
    first = before.start_job(1)
    before.place.wait_for_marks("started", 4)
    wait_until(lambda: len(before.place.finished()) == 6)
    first.send_signal(signal.SIGUSR1)  # its time is out
    assert_ends(first, 0)
    assert "6 of 14 finished, 2 failed, 6 left, 0 lost" in first.text()
    dependency, script = "--dependency=afterany:1", before.spool / "2.script"
    assert before.place.notes("spool/dependencies") == [dependency]
    assert script.read_text() == SCRIPT
    assert before.mails() == []
    before.place.allow()
    assert_ends(before.start_job(2), 1)
    (mail,) = before.mails()
    assert mail.startswith(
        "reco22, job 2: the list is done: 12 of 14 finished, 2 failed"
    )

    now.place.allow()
    line = take_block("coming-from-pytaskfarmer.md", "mpifarm submit").text()
    assert "job 1 is submitted" in now.type(line)
    assert_ends(now.start_job(1), 1)
    for each in (before.place, now.place):
        assert each.finished() == [0, 1, 2, 4, *range(6, 14)]
        assert each.failed() == [3, 5]
        assert [each.log(number) for number in (0, 13)] == ["0\n", "13\n"]
    logs = before.place.workdir.glob("*/farmer-1.log")
    assert {path.parent.name for path in logs} == {"job-1", "job-2"}


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_a_script_that_gets_nothing_done_gives_up(create_cluster):
    cluster = create_cluster("here")
    submits = with_script(cluster)
    cluster.place.write_program("bin/srun", "#!/bin/sh\nexit 1\n")
    cluster.place.workdir.mkdir()
    (cluster.place.workdir / "toprocess").write_text("0 ./reco 0\n")
    cluster.type(submits)
    assert_ends(cluster.start_job(1), 1)
    assert [mail.partition(": ")[2][:7] for mail in cluster.mails()] == ["gave up"]
    assert not (cluster.spool / "2.script").exists()
    cluster.place.tasklist.write_text("")
    ended = cluster.start_job(1)
    assert_ends(ended, 2)
    assert "there is no list tasks.txt" in ended.text()


def test_shellcheck_finds_nothing_in_the_script_of_the_page(tmp_path):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    path = tmp_path / "reco22.slurm"
    path.write_text(SCRIPT)
    subprocess.run(["shellcheck", str(path)], check=True)


# ---- the other blocks of the page ----------------------------------------------------


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_the_word_of_the_job_script_that_is_changed(create_cluster):
    need_launcher()
    shown = take_block("coming-from-pytaskfarmer.md", "pytaskfarmer.py")
    for number, line in enumerate(shown.lines):
        cluster = create_cluster(f"place{number}")
        place = cluster.place
        place.workdir = place.directory / "tasks.txt_workdir"
        place.environment["RELEASE"] = "22"
        place.allow()
        child = place.start_command(["/bin/bash", "-c", line])
        assert_ends(child, 0 if number == 0 else 1)  # PyTaskFarmer tells no failure
        assert place.failed() == [3, 5], line
        assert len(place.finished()) == 12


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_a_runner_that_keeps_the_old_meaning_of_a_line(create_cluster):
    cluster = create_cluster("here")
    section = take_block("coming-from-pytaskfarmer.md", "[literal]")
    config = cluster.place.directory / ".config" / "mpifarm"
    config.mkdir(parents=True)
    (config / "literal.ini").write_text(section.text())
    cluster.place.write_list(["echo ( ) ; & | ' \" $HOME > < * ? #"])
    cluster.place.workdir = cluster.place.directory / "tasks.txt_workdir"
    cluster.type("mpifarm --runner literal tasks.txt")
    assert cluster.place.log(0) == "( ) ; & | ' \" $HOME > < * ? #\n"


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_what_a_killed_pytaskfarmer_had_is_put_back(create_cluster):
    cluster = create_cluster("here")
    place = cluster.place
    place.environment["RELEASE"] = "22"
    place.workdir = place.directory / "tasks.txt_workdir"
    place.write_list([f"./reco {number}" for number in (0, 8, 9)])
    farmer = place.start_command(["pytaskfarmer.py", "tasks.txt"], name="plain")
    place.wait_for_marks("started", 2)
    wait_until(lambda: place.finished() == [0])
    place.kill(farmer, "plain")
    place.allow()
    shown = take_block("coming-from-pytaskfarmer.md", "mpifarm check --repair")
    lost = place.start_command(["mpifarm", "tasks.txt"])
    assert_ends(lost, 3)
    assert "2 tasks" in lost.text()
    for line in shown.lines:
        cluster.type(line)
    place.assert_all_finished()
