"""Runners that run each task in a container: Shifter, Apptainer, Podman.

Rules of this file: the three take the same options and mean the same by them; each
knows only what its own command line and environment look like.  A task gets the
farm's variables inside, however clean the runtime makes its environment.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any, ClassVar, Final

from mpifarm import processes
from mpifarm.errors import InputError
from mpifarm.gpus import VARIABLES
from mpifarm.runners import (
    ARGUMENT_LIMIT,
    BASH,
    COULD_NOT_START,
    CommandRunner,
    after_setup,
    encode_text,
    tell_start_failure,
)

YES: Final = frozenset({"true", "yes", "on", "1"})
NO: Final = frozenset({"false", "no", "off", "0", ""})

OF_THE_FARM: Final = (
    b"PROC_NUMBER",
    b"OMP_NUM_THREADS",
    *(name.encode() for name in VARIABLES),
)
"""What a task gets of its farm, beside the variables that begin with ``MPIFARM_``."""


class ContainerRunner(CommandRunner):
    """What the container runners share; their options, all strings.

    `image`: as the runtime wants it.  `setup`: shell lines to be run in the container
    before each task, in the same shell.  `volumes`: what to mount, each as the runtime
    writes it (``/outside:/inside``), with blanks between.  `modules`: parts of the
    runtime to be switched on, with blanks between.  `tempdir`: ``yes`` to run each task
    in a temporary directory of its own, removed at its end.

    Raises InputError for a wrong option, and where the runtime is not installed.
    """

    programs: ClassVar[tuple[str, ...]]
    """Names of the runtime; the first that is found on PATH is used."""

    separators: ClassVar[str] = ""
    """What a path that is to be mounted can't have in it: the runtime splits there."""

    def __init__(
        self,
        image: str,
        setup: str = "",
        volumes: str = "",
        modules: str = "",
        tempdir: str = "",
    ) -> None:
        if not image.strip():
            raise InputError("the option image is empty: name a container image")
        self.program = _find_program(self.programs)
        self._image = self._checked_image(image.strip())
        self._setup = setup
        self._volumes = volumes.split()
        self._modules = modules.split()
        self._has_directories = _parsed_flag("tempdir", tempdir)
        self._check_mounted()

    def run(self, taskid: int, command: str, logfh: IO[Any]) -> int:
        """Run a line by the container's ``/bin/bash -c``."""
        logfh.flush()
        logfd = logfh.fileno()
        line = encode_text(after_setup(self._setup, command))
        if len(line) >= ARGUMENT_LIMIT:
            os.write(logfd, _too_long(len(line)))
            return COULD_NOT_START
        env = self._environment_of(taskid)
        with self._directory_of_task() as directory:
            argv: list[bytes | str] = [
                encode_text(word) for word in self._argv(directory)
            ]
            try:
                pid = processes.start_command([*argv, "-c", line], env, logfd)
            except OSError as error:
                return tell_start_failure(logfd, self.program, error)
            return processes.wait_command(pid)

    def _argv(self, directory: str | None) -> list[str]:
        """The command line up to the shell, for a task in `directory`."""
        raise NotImplementedError

    def _checked_image(self, image: str) -> str:
        """As the runtime is given it; here a name, which the runtime looks up."""
        return image

    def _mounted(self, directory: str | None) -> list[str]:
        """What is mounted beside the user's volumes, at the same path inside."""
        return [directory] if directory else []

    def _check_mounted(self) -> None:
        import tempfile

        directory = tempfile.gettempdir() if self._has_directories else None
        for path in self._mounted(directory):
            found = [each for each in self.separators if each in path]
            if found:
                remedy = (
                    "set TMPDIR to another directory"
                    if path == directory
                    else "start mpifarm in another directory"
                )
                raise InputError(
                    f"{self.program} can't mount {path}, for the {found[0]!r} in its"
                    f" name: {remedy}"
                )

    @contextmanager
    def _directory_of_task(self) -> Iterator[str | None]:
        """The task's temporary directory, if it is to have one."""
        if not self._has_directories:
            yield None
            return
        import shutil
        import tempfile

        directory = tempfile.mkdtemp(prefix="mpifarm-")
        try:
            yield directory
        finally:
            # Other users' files may be in it (Podman maps users): what can't be
            # removed is no reason to fail the task.
            shutil.rmtree(directory, ignore_errors=True)

    @cached_property
    def _environment(self) -> dict[bytes, bytes]:
        # Else the shell inside reads the host's start-up file at each task.
        return {**super()._environment, b"BASH_ENV": b""}

    @cached_property
    def _passed(self) -> list[bytes]:
        """Names of the variables that a task must have inside."""
        return sorted(
            name
            for name in self._environment
            if name.startswith(b"MPIFARM_") or name in (*OF_THE_FARM, b"BASH_ENV")
        )


class ShifterRunner(ContainerRunner):
    """``shifter``, with the command line that PyTaskFarmer makes.

    `modules` are Shifter's own (``cvmfs``, ``gpu``).  Shifter passes the environment.
    """

    programs = ("shifter",)

    def _argv(self, directory: str | None) -> list[str]:
        return [
            *(self.program, "--image", self._image),
            *([f"--workdir={directory}"] if directory else []),
            *(f"-V{volume}" for volume in self._volumes),
            *(f"-m{module}" for module in self._modules),
            *("--", BASH),
        ]


class ApptainerRunner(ContainerRunner):
    """``apptainer exec``, or ``singularity exec`` where that is installed.

    `modules` are switches of it without their dashes (``nv cleanenv``).  An `image`
    that is a path, of a file or a directory, has to be there, and may begin with ``~``.
    """

    programs = ("apptainer", "singularity")
    separators = ":,"

    def _argv(self, directory: str | None) -> list[str]:
        return [
            *(self.program, "exec"),
            *(word for volume in self._volumes for word in ("--bind", volume)),
            *(f"--{module.lstrip('-')}" for module in self._modules),
            *(word for path in self._mounted(directory) for word in ("--bind", path)),
            *(["--pwd", directory] if directory else []),
            *(self._image, BASH),
        ]

    def _checked_image(self, image: str) -> str:
        return _existing_image(image) if _is_path(image) else image

    def _environment_of(self, taskid: int) -> dict[bytes, bytes]:
        # By these, for they reach a task in spite of --cleanenv and of what the image
        # sets, and unlike "--env A=B,C=D" they may have commas in them.
        env = super()._environment_of(taskid)
        for name, name_of_runtime in self._names_of_runtime:
            env[name_of_runtime] = env[name]
        return env

    @cached_property
    def _names_of_runtime(self) -> list[tuple[bytes, bytes]]:
        prefix = self.program.upper().encode() + b"ENV_"
        return [(name, prefix + name) for name in self._passed]


class PodmanRunner(ContainerRunner):
    """``podman run``; `modules` are names of ``containers.conf`` modules.

    Podman mounts nothing by itself: the current directory is mounted, and is where a
    task runs if it has no temporary one.  The network and the shared memory are the
    host's, as they are with the other runtimes.
    """

    programs = ("podman",)
    separators = ":"

    def _argv(self, directory: str | None) -> list[str]:
        return [
            self.program,
            *(f"--module={module}" for module in self._modules),
            *("run", "--rm", "--init", *_labels(), *_limits()),
            # No start-up of a network and no copy of the output for each task; 64 MB of
            # /dev/shm are too few for MPI; SELinux would forbid the mounted files.
            *("--network=host", "--ipc=host", "--log-driver=none"),
            "--security-opt=label=disable",
            *(f"--volume={path}:{path}" for path in self._mounted(directory)),
            *(f"--volume={volume}" for volume in self._volumes),
            f"--workdir={directory or os.getcwd()}",
            # Without a value: podman takes it out of its own environment.
            *(f"--env={os.fsdecode(name)}" for name in self._passed),
            # Else the shell is an argument of what the image has for an entrypoint.
            *(f"--entrypoint={BASH}", self._image),
        ]

    def _mounted(self, directory: str | None) -> list[str]:
        # Podman ends with an error where two mounts have one place.
        paths = [os.getcwd(), *super()._mounted(directory)]
        taken = {_place_of(volume) for volume in self._volumes}
        return [path for path in paths if path not in taken]


def _place_of(volume: str) -> str:
    """Where a volume ``/outside:/inside:options``, or ``/inside``, is mounted."""
    fields = volume.split(":")
    return os.path.normpath(fields[1] if len(fields) > 1 else fields[0])


def _is_path(image: str) -> bool:
    """Not ``docker://alpine`` nor ``oci-archive:alpine.tar``, that is."""
    scheme, colon, _ = image.partition(":")
    return not colon or "/" in scheme


def _existing_image(path: str) -> str:
    there = os.path.expanduser(path)
    if not os.path.exists(there):
        raise InputError(
            f"the image {path} is not there: name a file, the directory of a sandbox,"
            " or a source such as docker://alpine"
        )
    return there


def _labels() -> list[str]:
    """By which ``podman ps --filter`` tells what a container belongs to."""
    labels = {"farm": "MPIFARM_FARM", "task": "MPIFARM_TASK_ID"}
    environ = os.environ
    return [
        f"--label=mpifarm.{label}={environ[name]}"
        for label, name in labels.items()
        if name in environ
    ]


def _limits() -> list[str]:
    """A container isn't our child: it gets the limit for each process by its option.

    Not by ``--memory``, which counts the container as a whole, and which a user who is
    not root may set only where the system delegates that.
    """
    memory = processes.memory_limit()
    return [] if memory is None else [f"--ulimit=data={memory}:{memory}"]


def _find_program(names: Iterable[str]) -> str:
    import shutil

    for name in names:
        if shutil.which(name):
            return name
    raise InputError(
        f"there is no {' and no '.join(names)} on PATH: load its module before mpifarm"
        " (module load), or take the runner 'default'"
    )


def _parsed_flag(option: str, word: str) -> bool:
    """Also of True and False themselves, which Python code may pass."""
    value = str(word).strip().lower()
    if value in YES | NO:
        return value in YES
    raise InputError(f"the option {option} is {word!r}: write yes or no")


def _too_long(size: int) -> bytes:
    return (
        f"mpifarm: can't start the task: its line of {size} bytes, with the setup, is"
        f" longer than Linux takes ({ARGUMENT_LIMIT - 1}): put it into a script\n"
    ).encode()
