"""Runners that run each task in a container: Shifter, Apptainer, Podman.

Rules of this file: the three runners have the same options with the same meaning.  Each
class only knows the command line and the environment of its runtime.  A task gets the
farm's variables in the container, even if the runtime cleans the environment.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any, ClassVar, Final

from mpifarm.errors import InputError
from mpifarm.model.task import encode_text
from mpifarm.runners import (
    ARGUMENT_LIMIT,
    BASH,
    COULD_NOT_START,
    CommandRunner,
    after_setup,
    log_start_failure,
)
from mpifarm.system import task_command
from mpifarm.system.gpus import VARIABLES

YES: Final = frozenset({"true", "yes", "on", "1"})
NO: Final = frozenset({"false", "no", "off", "0", ""})

OF_THE_FARM: Final = (
    b"PROC_NUMBER",
    b"OMP_NUM_THREADS",
    *(name.encode() for name in VARIABLES),
)
"""The farm's variables for a task, besides those that begin with ``MPIFARM_``."""


ANY: Final = "xxxxxxxx"
"""The sign for a name that is chosen when a task starts, where it is only shown."""

_DIRECTORY: Final = "mpifarm-"
"""The beginning of the name of each temporary directory."""


class ContainerRunner(CommandRunner):
    """The base class of the container runners, with their options, all strings.

    `image`: the image, in the runtime's notation.  `setup`: shell lines that run in the
    container before each task, in the same shell.  `volumes`: directories to mount,
    each in the runtime's notation (``/outside:/inside``), separated by blanks.
    `modules`: parts of the runtime to switch on, separated by blanks.  `tempdir`:
    ``yes`` to run each task in a temporary directory of its own, removed at its end.

    Raises InputError for a wrong option, or if the runtime is not installed.
    """

    programs: ClassVar[tuple[str, ...]]
    """Names of the runtime's program; the first that is on PATH is used."""

    separators: ClassVar[str] = ""
    """Characters at which the runtime splits a path: no mounted path may have them."""

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
        """Run a line by the container's ``/bin/bash -c``.  Return its exit status.

        The status is 126 or 127, with the reason in the log, if the line is too long or
        the runtime does not start.
        """
        logfh.flush()
        logfd = logfh.fileno()
        if fault := self.find_fault(command):
            os.write(logfd, f"mpifarm: {fault}\n".encode())
            return COULD_NOT_START
        env = self.environment_of(taskid)
        with self._directory_of_task() as directory:
            argv = self._words(command, directory)
            try:
                pid = task_command.start_command(argv, env, logfd)
            except OSError as error:
                return log_start_failure(logfd, self.program, error)
            return task_command.wait_command(pid)

    def words_of(self, command: str) -> Sequence[str | bytes]:
        """Return the runtime and the arguments that `run` starts for a line.

        `ANY` stands for the end of the name of a temporary directory.
        """
        if not self._has_directories:
            return self._words(command, None)
        from tempfile import gettempdir

        return self._words(command, os.path.join(gettempdir(), _DIRECTORY + ANY))

    def find_fault(self, command: str) -> str:
        """Return why `run` can't start a line, "" if it can."""
        size = len(self._line(command))
        return _too_long(size) if size >= ARGUMENT_LIMIT else ""

    def _words(self, command: str, directory: str | None) -> list[bytes | str]:
        words = map(encode_text, self._argv(directory))
        return [*words, "-c", self._line(command)]

    def _line(self, command: str) -> bytes:
        """Return the line that the shell in the container runs."""
        return encode_text(after_setup(self._setup, command))

    def _argv(self, directory: str | None) -> list[str]:
        """Return the command line up to the shell, for a task in `directory`.

        `directory` is the temporary directory of the task, None if it has none.
        """
        raise NotImplementedError

    def _checked_image(self, image: str) -> str:
        """Return the image as the runtime gets it, which is unchanged by default.

        Raises InputError for an image that does not exist.
        """
        return image

    def _mounted(self, directory: str | None) -> list[str]:
        """Return the paths that are mounted besides the user's volumes.

        `directory` is the temporary directory of the task, None if it has none.
        """
        return [directory] if directory else []

    def _check_mounted(self) -> None:
        """Raise InputError for a path that the runtime would split at a separator."""
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
                    f"{self.program} can't mount {path}, because of the {found[0]!r} in"
                    f" its name: {remedy}"
                )

    @contextmanager
    def _directory_of_task(self) -> Iterator[str | None]:
        """Make the task's temporary directory, and remove it at the end.

        Give None, and make nothing, without the option `tempdir`.
        """
        if not self._has_directories:
            yield None
            return
        import shutil
        import tempfile

        directory = tempfile.mkdtemp(prefix=_DIRECTORY)
        try:
            yield directory
        finally:
            # Errors are ignored: with Podman, which maps users, files of other users
            # may be in it.  The task must not fail because of them.
            shutil.rmtree(directory, ignore_errors=True)

    @cached_property
    def _environment(self) -> dict[bytes, bytes]:
        # Else the shell in the container reads the host's start-up file for each task.
        return {**super()._environment, b"BASH_ENV": b""}

    @cached_property
    def _passed(self) -> list[bytes]:
        """The names of the variables that a task must get in the container, sorted."""
        numbers = [name for name, _ in self.numbers]
        return sorted(
            name
            for name in {*self._environment, *numbers}
            if name.startswith(b"MPIFARM_")
            or name in (*OF_THE_FARM, *numbers, b"BASH_ENV")
        )


class ShifterRunner(ContainerRunner):
    """A runner for ``shifter``, with the same command line as in PyTaskFarmer 0.1.0.

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
    """A runner for ``apptainer exec``, or ``singularity exec`` if that is installed.

    `modules` are options of the runtime without their dashes (``nv cleanenv``).  An
    `image` that is a path must be that of an existing file or directory, and may begin
    with ``~``.
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

    def environment_of(self, taskid: int) -> dict[bytes, bytes]:
        """Set a task's variables in the runner's environment.  Return that dict."""
        # APPTAINERENV_NAME reaches a task in spite of --cleanenv and of the image's own
        # variables.  Unlike "--env A=B,C=D", its value may have commas.
        env = super().environment_of(taskid)
        for name, name_of_runtime in self.aliases:
            env[name_of_runtime] = env[name]
        return env

    @cached_property
    def aliases(self) -> list[tuple[bytes, bytes]]:
        """Variables of a task, each with its name for the runtime."""
        prefix = self.program.upper().encode() + b"ENV_"
        return [(name, prefix + name) for name in self._passed]


class PodmanRunner(ContainerRunner):
    """A runner for ``podman run``; `modules` are names of ``containers.conf`` modules.

    The current directory is mounted, since Podman mounts nothing by itself.  A task
    runs there unless it has a temporary directory.  Network and shared memory are the
    host's, as with the other runtimes.
    """

    programs = ("podman",)
    separators = ":"

    def _argv(self, directory: str | None) -> list[str]:
        return [
            self.program,
            *(f"--module={module}" for module in self._modules),
            *("run", "--rm", "--init", *self._labels(), *_limits()),
            # A network and a copy of the output would cost each task time.  Podman's
            # /dev/shm of 64 MB is too small for MPI.  SELinux would forbid the mounted
            # files.
            *("--network=host", "--ipc=host", "--log-driver=none"),
            "--security-opt=label=disable",
            *(f"--volume={path}:{path}" for path in self._mounted(directory)),
            *(f"--volume={volume}" for volume in self._volumes),
            f"--workdir={directory or os.getcwd()}",
            # Without a value: podman copies it from its own environment.
            *(f"--env={os.fsdecode(name)}" for name in self._passed),
            # Else the shell would be an argument of the image's own entrypoint.
            *(f"--entrypoint={BASH}", self._image),
        ]

    def _mounted(self, directory: str | None) -> list[str]:
        # Podman fails if two mounts have the same path in the container.
        paths = [os.getcwd(), *super()._mounted(directory)]
        taken = {_place_of(volume) for volume in self._volumes}
        return [path for path in paths if path not in taken]

    def _labels(self) -> list[str]:
        """Return labels by which ``podman ps --filter`` finds containers of a farm."""
        labels = {"farm": b"MPIFARM_FARM", "task": b"MPIFARM_TASK_ID"}
        # Not of os.environ: it has no task's number (`CommandRunner`).
        env = self._environment
        return [
            f"--label=mpifarm.{label}={os.fsdecode(env[name])}"
            for label, name in labels.items()
            if name in env
        ]


def _place_of(volume: str) -> str:
    """Return the mount point of a volume ``/outside:/inside:options``, ``/inside``."""
    fields = volume.split(":")
    return os.path.normpath(fields[1] if len(fields) > 1 else fields[0])


def _is_path(image: str) -> bool:
    """Return whether an image is a path, unlike ``docker://a`` or ``oci-archive:a``."""
    scheme, colon, _ = image.partition(":")
    return not colon or "/" in scheme


def _existing_image(path: str) -> str:
    there = os.path.expanduser(path)
    if not os.path.exists(there):
        raise InputError(
            f"the image {path} does not exist: name a file, the directory of a sandbox,"
            " or a source such as docker://alpine"
        )
    return there


def _limits() -> list[str]:
    """Return the option for the memory limit of each process, [] without a limit."""
    # By an option, since a container is not our child.  Not --memory: it counts the
    # whole container, and most systems do not let users set it.
    memory = task_command.memory_limit()
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
    """Return whether a word means yes; raises InputError if it means neither."""
    # str: code in Python may pass True or False.
    value = str(word).strip().lower()
    if value in YES | NO:
        return value in YES
    raise InputError(f"the option {option} is {word!r}: write yes or no")


def _too_long(size: int) -> str:
    return (
        f"can't start the task: its line of {size} bytes, with the setup, is longer"
        f" than Linux allows ({ARGUMENT_LIMIT - 1}): put it into a script"
    )
