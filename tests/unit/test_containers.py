"""The container runners' options, command lines and environments; nothing is started.

`Runtime` replaces the owner of processes and records the commands that it is to start.
"""

import errno
import os
import shlex
from configparser import ConfigParser
from pathlib import Path

import pytest

from mpifarm.containers import (
    ApptainerRunner,
    ContainerRunner,
    PodmanRunner,
    ShifterRunner,
)
from mpifarm.errors import InputError
from mpifarm.model.settings import RunnerDefinition
from mpifarm.runners import ARGUMENT_LIMIT, check_runner, create_runner
from mpifarm.system import task_command
from mpifarm.system.gpus import Gpus
from tests.pages import take_block

ALL = [ShifterRunner, ApptainerRunner, PodmanRunner]


class Runtime:
    """A fake runtime that records the last command, and returns a given status."""

    def __init__(self) -> None:
        self.argv: list[str] = []
        self.env: dict[bytes, bytes] = {}
        self.status = 0
        self.error: OSError | None = None
        self.directories: list[Path] = []

    def start(self, argv, env, logfd):
        if self.error is not None:
            raise self.error
        self.argv = [os.fsdecode(word) for word in argv]
        self.env = dict(env)
        made = Path(os.environ["TMPDIR"]).iterdir()
        self.directories = [path for path in made if path.is_dir()]
        for directory in self.directories:
            (directory / "result").write_text("x")
        return 17

    def wait(self, pid):
        assert pid == 17
        return self.status


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runtime:
    """All runtimes on PATH, a worker's environment, a directory for temporary ones."""
    runtime = Runtime()
    monkeypatch.setattr(task_command, "start_command", runtime.start)
    monkeypatch.setattr(task_command, "wait_command", runtime.wait)
    for name in os.environ:
        monkeypatch.delenv(name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "tmp").mkdir()
    for name in ("shifter", "apptainer", "singularity", "podman"):
        install(tmp_path, name)
    for image in ("a", "a.sif", "a\udcff", "hepsim.sif"):
        (tmp_path / image).touch()
    variables = {
        "PATH": str(tmp_path / "bin"),
        "TMPDIR": str(tmp_path / "tmp"),
        "MPIFARM_TASK_ID": "7",
        "MPIFARM_ATTEMPT": "1",
        "MPIFARM_FARM": "f00",
        "MPIFARM_WORKDIR": "/a,b c",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "BASH_ENV": "/etc/site.sh",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    return runtime


def install(directory: Path, name: str) -> None:
    program = directory / "bin" / name
    program.write_text("")
    program.chmod(0o755)


def run(runner: ContainerRunner, command: str = "x a", taskid: int = 7) -> int:
    with open("log", "wb") as log:
        return runner.run(taskid, command, log)


def log() -> str:
    return Path("log").read_text()


def inside(environment: dict[bytes, bytes], prefix: bytes) -> dict[bytes, bytes]:
    return {
        name.removeprefix(prefix): value
        for name, value in environment.items()
        if name.startswith(prefix)
    }


OF_THE_TASK = {
    b"PROC_NUMBER": b"7",
    b"MPIFARM_TASK_ID": b"7",
    b"MPIFARM_ATTEMPT": b"1",
    b"MPIFARM_FARM": b"f00",
    b"MPIFARM_WORKDIR": b"/a,b c",
    b"CUDA_VISIBLE_DEVICES": b"0,1",
    b"BASH_ENV": b"",
}

# ---- limits -------------------------------------------------------------------------


@pytest.mark.parametrize("runner_class", ALL)
def test_podman_alone_is_told_the_limit_that_others_inherit(
    runtime: Runtime,
    runner_class: type[ContainerRunner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(runner_class("a"))
    assert not [word for word in runtime.argv if "ulimit" in word]
    monkeypatch.setattr(task_command, "memory_limit", lambda: 500)
    run(runner_class("a"))
    told = [word for word in runtime.argv if "ulimit" in word]
    assert told == (["--ulimit=data=500:500"] if runner_class is PodmanRunner else [])


# ---- Shifter ------------------------------------------------------------------------


def test_shifter_gets_what_pytaskfarmer_gives_it(runtime: Runtime) -> None:
    runner = ShifterRunner(
        image="zl/atlas:1", setup="source a", volumes="/x:/y /z:/z", modules="cvmfs gpu"
    )
    assert run(runner, "athena 'b c'") == 0
    assert runtime.argv == [
        *("shifter", "--image", "zl/atlas:1", "-V/x:/y", "-V/z:/z", "-mcvmfs", "-mgpu"),
        *("--", "/bin/bash", "-c", "source a && athena 'b c'"),
    ]


def test_shifter_without_options_gets_an_image_and_the_command(
    runtime: Runtime,
) -> None:
    run(ShifterRunner("a:1"), "x || y")
    assert runtime.argv == [
        *("shifter", "--image", "a:1", "--", "/bin/bash", "-c", "x || y")
    ]


def test_shifter_works_in_the_temporary_directory(runtime: Runtime) -> None:
    run(ShifterRunner("a:1", tempdir="True"))
    (directory,) = runtime.directories
    assert runtime.argv[3] == f"--workdir={directory}"


def test_shifter_gets_the_variables_in_its_own_environment(runtime: Runtime) -> None:
    run(ShifterRunner("a:1"))
    assert runtime.env.items() >= OF_THE_TASK.items()


# ---- Apptainer ----------------------------------------------------------------------


def test_apptainer_gets_binds_and_switches_before_the_image(runtime: Runtime) -> None:
    runner = ApptainerRunner("a.sif", "source a", "/x:/y:ro /z", "nv --cleanenv")
    assert run(runner) == 0
    assert runtime.argv == [
        *("apptainer", "exec", "--bind", "/x:/y:ro", "--bind", "/z"),
        *("--nv", "--cleanenv", "a.sif", "/bin/bash", "-c", "source a && x a"),
    ]


def test_apptainer_is_bound_to_the_temporary_directory(runtime: Runtime) -> None:
    run(ApptainerRunner("a.sif", tempdir="yes"))
    (directory,) = map(str, runtime.directories)
    assert runtime.argv[2:7] == ["--bind", directory, "--pwd", directory, "a.sif"]


@pytest.mark.parametrize("program", ["apptainer", "singularity"])
def test_apptainer_and_singularity_get_the_variables_in_names_of_their_own(
    runtime: Runtime, program: str
) -> None:
    if program == "singularity":
        Path("bin/apptainer").unlink()
    runner = ApptainerRunner("a.sif", modules="cleanenv")
    run(runner, taskid=6)
    assert run(runner) == 0
    assert runtime.argv[:3] == [program, "exec", "--cleanenv"]
    assert inside(runtime.env, program.upper().encode() + b"ENV_") == OF_THE_TASK
    other = b"SINGULARITYENV_" if program == "apptainer" else b"APPTAINERENV_"
    assert inside(runtime.env, other) == {}


@pytest.mark.parametrize("image", ["no.sif", "/no/dir/x.sif", "~/no.sif", "no/x:1"])
def test_an_image_of_apptainer_that_is_not_there_is_told(
    runtime: Runtime, image: str
) -> None:
    name = "mpifarm.containers.ApptainerRunner"
    with pytest.raises(InputError) as caught:
        check_runner(RunnerDefinition("box", name, {"image": image}, "r.ini"))
    assert str(caught.value).startswith(
        f"the runner 'box' in r.ini: the image {image} does not exist: name a file, "
    )


@pytest.mark.parametrize(
    ("image", "given"),
    [
        ("a.sif", "a.sif"),
        ("~/a.sif", "{here}/a.sif"),
        ("{here}/sandbox/", "{here}/sandbox/"),
        ("a:1/b.sif", "a:1/b.sif"),
        ("docker://no/such:1", "docker://no/such:1"),
        ("docker-archive:/no/such.tar", "docker-archive:/no/such.tar"),
        ("instance://mine", "instance://mine"),
    ],
)
def test_apptainer_gets_images_that_are_there_and_sources_that_it_looks_up(
    runtime: Runtime, image: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.getcwd()
    monkeypatch.setenv("HOME", here)
    Path("sandbox").mkdir()
    Path("a:1").mkdir()
    Path("a:1/b.sif").touch()
    run(ApptainerRunner(image.format(here=here)))
    assert runtime.argv[2] == given.format(here=here)


# ---- Podman -------------------------------------------------------------------------


def test_podman_runs_in_the_current_directory_and_passes_variables_by_name(
    runtime: Runtime,
) -> None:
    here = os.getcwd()
    runner = PodmanRunner("a:1", "source a", "/x:/y:ro", "gpu hpc")
    assert run(runner) == 0
    passed = sorted(name.decode() for name in OF_THE_TASK)
    assert runtime.argv == [
        *("podman", "--module=gpu", "--module=hpc", "run", "--rm", "--init"),
        *("--label=mpifarm.farm=f00", "--label=mpifarm.task=7", "--network=host"),
        *("--ipc=host", "--log-driver=none", "--security-opt=label=disable"),
        *(f"--volume={here}:{here}", "--volume=/x:/y:ro", f"--workdir={here}"),
        *(f"--env={name}" for name in passed),
        *("--entrypoint=/bin/bash", "a:1", "-c", "source a && x a"),
    ]
    assert runtime.env.items() >= OF_THE_TASK.items()


def test_podman_works_in_the_temporary_directory_and_sees_the_current_one(
    runtime: Runtime,
) -> None:
    here = os.getcwd()
    run(PodmanRunner("a:1", tempdir="1"))
    (directory,) = map(str, runtime.directories)
    mounts = [f"--volume={here}:{here}", f"--volume={directory}:{directory}"]
    assert [word for word in runtime.argv if word.startswith("--vol")] == mounts
    assert f"--workdir={directory}" in runtime.argv


@pytest.mark.parametrize("inside", ["{here}", "{here}/", "{here}:ro"])
def test_podman_mounts_nothing_where_the_user_does(
    runtime: Runtime, inside: str
) -> None:
    here = os.getcwd()
    volume = f"/x:{inside.format(here=here)}"
    run(PodmanRunner("a:1", volumes=f"/y {volume}"))
    mounts = [word for word in runtime.argv if word.startswith("--vol")]
    assert mounts == ["--volume=/y", f"--volume={volume}"]
    assert f"--workdir={here}" in runtime.argv


def test_podman_mounts_nothing_over_a_volume_without_a_name(runtime: Runtime) -> None:
    here = os.getcwd()
    run(PodmanRunner("a:1", volumes=here))
    assert [word for word in runtime.argv if word.startswith("--vol")] == [
        f"--volume={here}"
    ]


# ---- what holds for all -------------------------------------------------------------


@pytest.mark.parametrize(
    ("runner_class", "mark"),
    [(ApptainerRunner, ":"), (ApptainerRunner, ","), (PodmanRunner, ":")],
)
def test_a_temporary_directory_that_cannot_be_mounted_is_told_at_the_start(
    runtime: Runtime,
    runner_class: type[ContainerRunner],
    mark: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = Path(f"t{mark}p").absolute()
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    runner = runner_class("a")
    assert run(runner) == 0, "without tempdir it does no harm"
    with pytest.raises(InputError) as caught:
        runner_class("a", tempdir="yes")
    assert str(caught.value) == (
        f"{runner.program} can't mount {directory}, because of the {mark!r} in"
        " its name: set TMPDIR to another directory"
    )
    assert list(directory.iterdir()) == []


def test_podman_does_not_start_in_a_directory_that_it_cannot_mount(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("run:1").mkdir()
    monkeypatch.chdir("run:1")
    with pytest.raises(
        InputError, match="run:1, because of the ':' in its name: start mpif"
    ):
        PodmanRunner("a")


def test_all_variables_by_which_a_worker_gets_its_gpu_are_passed(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
    gpus = Gpus(dict.fromkeys(names, ("3", "4"))).of_worker(1)
    for name, value in gpus.items():
        monkeypatch.setenv(name, value)
    run(PodmanRunner("a:1"))
    assert {f"--env={name}" for name in names} <= set(runtime.argv)


@pytest.mark.parametrize("runner_class", ALL)
@pytest.mark.parametrize("status", [0, 3, -15])
def test_a_temporary_directory_is_gone_however_its_task_ended(
    runtime: Runtime, runner_class: type[ContainerRunner], status: int
) -> None:
    runtime.status = status
    runner = runner_class("a", tempdir="True")
    assert run(runner) == status
    first = runtime.directories
    assert run(runner) == status
    assert len(first) == len(runtime.directories) == 1
    assert first != runtime.directories
    runtime.error = FileNotFoundError(errno.ENOENT, "none")
    run(runner)
    assert list(Path("tmp").iterdir()) == []


@pytest.mark.parametrize("runner_class", ALL)
def test_without_tempdir_no_directory_is_made(
    runtime: Runtime, runner_class: type[ContainerRunner]
) -> None:
    for word in ("", "False", "no", "0", "off"):
        run(runner_class("a", tempdir=word))
        assert runtime.directories == []


@pytest.mark.parametrize("runner_class", ALL)
@pytest.mark.parametrize("word", ["True", "true", "TRUE", "yes", "1", "on", " yes "])
def test_tempdir_takes_the_words_for_yes(
    runtime: Runtime, runner_class: type[ContainerRunner], word: str
) -> None:
    run(runner_class("a", tempdir=word))
    assert len(runtime.directories) == 1


@pytest.mark.parametrize("runner_class", ALL)
def test_bytes_that_are_not_utf8_pass(
    runtime: Runtime, runner_class: type[ContainerRunner]
) -> None:
    run(runner_class("a\udcff", setup="s\udcfe"), "x \udcfd\xe9")
    assert runtime.argv[-1] == "s\udcfe && x \udcfd\xe9"
    assert "a\udcff" in runtime.argv


@pytest.mark.parametrize("runner_class", ALL)
def test_a_line_that_is_too_long_is_not_started_and_told(
    runtime: Runtime, runner_class: type[ContainerRunner]
) -> None:
    runner = runner_class("a", setup="s")
    longest = "x" * (ARGUMENT_LIMIT - 1 - len("s && "))
    assert run(runner, longest) == 0
    runtime.argv = []
    assert run(runner, longest + "x") == 126
    assert runtime.argv == []
    assert "line of 131072 bytes, with the setup, is longer than" in log()


@pytest.mark.parametrize("runner_class", ALL)
@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOENT, 127), (errno.EACCES, 126), (errno.E2BIG, 126)]
)
def test_a_runtime_that_cannot_be_started_is_told(
    runtime: Runtime, runner_class: type[ContainerRunner], number: int, status: int
) -> None:
    runner = runner_class("a")
    runtime.error = OSError(number, os.strerror(number))
    assert run(runner) == status
    assert log().startswith(f"mpifarm: can't start {runner.program}: ")
    assert os.strerror(number) in log()


@pytest.mark.parametrize(
    ("runner_class", "names"),
    [
        (ShifterRunner, "no shifter on PATH"),
        (ApptainerRunner, "no apptainer and no singularity on PATH"),
        (PodmanRunner, "no podman on PATH"),
    ],
)
def test_a_runtime_that_is_not_installed_is_named_with_the_remedy(
    runtime: Runtime, runner_class: type[ContainerRunner], names: str
) -> None:
    for program in Path("bin").iterdir():
        program.chmod(0o644)
    name = f"mpifarm.containers.{runner_class.__name__}"
    with pytest.raises(InputError) as caught:
        check_runner(RunnerDefinition("box", name, {"image": "a"}, "r.ini"))
    told = str(caught.value)
    assert told.startswith("the runner 'box' in r.ini: there is ")
    assert names in told
    assert "module load" in told


@pytest.mark.parametrize("runner_class", ALL)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "it misses the option image: "),
        ({"image": " "}, "the option image is empty"),
        ({"image": "a", "tempdir": "maybe"}, "tempdir is 'maybe': write yes or no"),
        ({"image": "a", "Volumes": "x"}, "takes image, modules, setup, tempdir, vol"),
    ],
)
def test_a_wrong_option_is_told(
    runtime: Runtime,
    runner_class: type[ContainerRunner],
    options: dict[str, str],
    words: str,
) -> None:
    name = f"mpifarm.containers.{runner_class.__name__}"
    with pytest.raises(InputError, match=words.replace("(", "\\(")):
        check_runner(RunnerDefinition("box", name, options))


# ---- the documents -------------------------------------------------------------------


SHOWN = {
    "reco22": [
        take_block("runners.md", "[reco22]"),
        take_block("runners.md", "shifter"),
    ],
    "hepsim": [take_block("runners.md", "[hepsim]")],
    "builds": [take_block("runners.md", "[builds]")],
}
"""Sections of the page on runners, and the command lines that are started."""


def section_and_command_line(name: str) -> tuple[dict[str, str], list[str]]:
    """A section of the page, and its command line, as words."""
    lines = [line for block in SHOWN[name] for line in block.lines]
    begin = next(n for n, line in enumerate(lines) if line.endswith("\\"))
    parser = ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string("\n".join(lines[:begin]))
    words = shlex.split("\n".join(lines[begin:]).replace("\\\n", " "))
    return dict(parser[name]), words


@pytest.mark.parametrize("name", SHOWN)
def test_the_page_on_runners_shows_the_command_lines_that_are_started(
    runtime: Runtime, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, shown = section_and_command_line(name)
    definition = RunnerDefinition(name, options.pop("Runner"), options)
    monkeypatch.setenv("MPIFARM_FARM", "1a2b3c4d")
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: "/tmp/mpifarm-x1")
    with open("log", "wb") as log, monkeypatch.context() as there:
        there.setattr(os, "getcwd", lambda: "/scratch/me")
        assert create_runner(definition).run(7, "./simulate --seed 7", log) == 0

    def without_variables(argv: list[str]) -> list[str]:
        return [word for word in argv if word != "..." and word[:6] != "--env="]

    assert without_variables(runtime.argv) == without_variables(shown)
    assert set(shown) - {"..."} <= set(runtime.argv)
