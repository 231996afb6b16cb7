"""The doctor on this machine: the launcher of the wheel fits, another one does not."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.farm_driver import MPIFARM
from tests.pages import take_block
from tests.process.batch_fakes import find_client
from tests.required import need_launcher

BY_ITSELF = """\
#!/bin/sh
# A launcher of another MPI: each rank sees itself alone.
[ "$1" = --version ] && { echo "HYDRA build details: Version: 9.9"; exit; }
shift 2
"$@" & "$@" & wait
"""


@pytest.fixture
def place(create_place):
    launcher = need_launcher()
    place = create_place(["true"])
    place.environment.update(launcher.variables)
    place.environment["PATH"] = f"{place.directory / 'bin'}:/usr/bin:/bin"
    (place.directory / "bin").mkdir()
    return place


def test_the_launcher_of_the_wheel_fits_and_one_of_another_mpi_does_not(place, mpifarm):
    own = Path(sys.prefix, "bin", "mpiexec")
    fitting = place.write_program("bin/mpirun", f'#!/bin/sh\nexec {own} "$@"\n')
    status, text = mpifarm(place, "doctor", "--json")
    found = json.loads(text)
    verdicts = {each["name"]: each["verdict"] for each in found["findings"]}
    assert status == (1 if found["bad"] else 0)
    assert verdicts["MPI library"] == verdicts["lock"] == verdicts["versions"] == "good"
    assert verdicts[str(fitting)] == verdicts[str(own)] == "good"
    other = place.write_program("bin/mpirun", BY_ITSELF)
    status, text = mpifarm(place, "doctor")
    assert status == 1
    assert f"bad   {other}: MPICH 9.9 starts ranks that don't see each other" in text
    assert f"-> start farms by {own}, which is of the environment" in text
    assert [*place.directory.glob(".mpifarm-doctor-*")] == []


def test_a_line_is_printed_for_each_of_the_page(place):
    (typed,) = take_block("doctor.md", "mpifarm doctor").lines
    shown = take_block("doctor.md", "good  versions").lines
    place.write_program(
        "bin/mpifarm", f'#!/bin/sh\nexec {sys.executable} -m mpifarm "$@"\n'
    )
    place.write_program("bin/mpirun", BY_ITSELF)
    place.write_program("bin/srun", "#!/bin/sh\necho none pmi2 >&2\n")
    place.environment["PATH"] = str(place.directory / "bin")
    place.environment["HOME"] = str(place.directory)
    config = place.directory / ".config" / "mpifarm" / "config.ini"
    config.parent.mkdir(parents=True)
    config.write_text("[options]\nproc = 2\nlogs = packed\n")
    line = typed.replace("/scratch/me", f"'{place.directory}'")
    child = place.start_command(["/bin/bash", "-c", line])
    assert child.wait() == 1
    assert names_of(child.text().splitlines()) == names_of(shown)


def names_of(lines: list[str]) -> list[str]:
    """What was looked at; of programs, their names without their places."""
    found = re.findall(r"^(?:good|note|bad ) +(.*?):", "\n".join(lines), re.MULTILINE)
    return [name.rpartition("/")[2] for name in found]


@pytest.mark.parametrize(
    ("kind", "variables", "verdict", "told"),
    [
        ("sge", {}, "note", "Grid Engine (qstat: SGE 8.1.9); this is no job"),
        ("torque", {"PBS_JOBID": "7.server"}, "good", "PBS job 7.server; the job ends"),
    ],
)
def test_the_batch_system_is_told_in_a_job_and_outside(
    place, mpifarm, kind, variables, verdict, told
):
    client = find_client(kind)
    place.write_program(f"bin/{client.name}", f"#!/bin/sh\n{client.script()}\n")
    if kind == "sge":
        place.write_program("bin/qconf", "#!/bin/sh\n")
    place.environment["PATH"] = f"{place.directory / 'bin'}"
    place.environment.update(variables)
    _, text = mpifarm(place, "doctor", "--json")
    found = json.loads(text)["findings"][-1]
    assert (found["name"], found["verdict"]) == ("batch system", verdict)
    assert found["seen"].startswith(told)
    assert found["remedy"] or verdict == "good"


ON_A_DISK = """
mount -t tmpfs -o "size=200k,$1" small "$DISK" || exit 99
[ ! "$2" ] || head -c 1000000 /dev/zero >"$DISK/filler"
mount -o "remount,$3" "$DISK" || exit 99
shift 3
exec "$@"
"""


FULL = "a farm stops with status 75 when it is full: make room"


@pytest.mark.parametrize(
    ("options", "filler", "state", "line", "remedy"),
    [
        (
            *("nr_inodes=100", "", "ro"),
            r"bad   file system: tmpfs \(small\), ro,.*: Read-only file system",
            "name a directory that you may write",
        ),
        (
            *("nr_inodes=1", "", "rw"),
            r"bad   file system: tmpfs \(small\), rw,.*: No space left on device",
            FULL,
        ),
        (
            *("nr_inodes=100", "full", "rw"),
            r"bad   free space: 0.0 GiB, \d+ files; 1 MiB can't be written .*",
            FULL,
        ),
    ],
    ids=["read-only", "without inodes", "full"],
)
def test_a_disk_that_takes_nothing_is_told_by_what_it_is(
    place, options, filler, state, line, remedy
):
    if os.getuid() != 0 or not shutil.which("unshare"):
        pytest.skip("only root can mount a tmpfs")
    disk = place.directory / "disk"
    disk.mkdir()
    place.environment["DISK"] = str(disk)
    inside = ["unshare", "--mount", "sh", "-c", ON_A_DISK, "sh"]
    words = [*inside, options, filler, state, *MPIFARM, "doctor", str(disk)]
    child = place.start_command(words)
    if (status := child.wait(60)) == 99:
        pytest.skip(f"can't mount a tmpfs: {child.text()}")
    assert re.search(f"^{line}\n      -> {remedy}", child.text(), re.MULTILINE)
    assert status == 1
    assert ".mpifarm-doctor" not in child.text()
