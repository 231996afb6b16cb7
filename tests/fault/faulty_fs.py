"""A file system that passes all through to a directory, and fails where it is told to.

    python -m tests.fault.faulty_fs DIRECTORY MOUNTPOINT

Rules of this file: it is the process of `tests.fault.faulty_disk`, which says what the
faults mean.  It reads one JSON object a line from its standard input, answers each with
one, and unmounts when the input ends.  One thread serves all calls, so that the n-th
call is the same one in each run.  The kernel caches nothing, so that each call of a
farm's gets here, and a write that is cut short is seen as such.  Locks by `flock` are
the kernel's own: they need no help from here.
"""

import errno
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, TextIO, TypeVar

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

import mfusepy  # type: ignore[import-untyped]

T = TypeVar("T")

HIDDEN = ".fuse_hidden"
"""How the names begin that libfuse gives to removed files which are still open."""

_STAT = (
    *("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_rdev"),
    *("st_size", "st_blocks", "st_blksize"),
)
_TIMES = ("st_atime", "st_mtime", "st_ctime")
_NOW = (1 << 30) - 1
"""What stands for now in a time (``UTIME_NOW``, the seconds being 0)."""


class _Rule:
    """A fault, and how many calls it could have struck so far."""

    def __init__(
        self, calls: str, paths: str, deed: str, first: int, count: int
    ) -> None:
        self._calls = re.compile(calls)
        self._paths = re.compile(paths)
        self.deed = deed
        self._first = first
        self._last = first + count - 1 if count else sys.maxsize
        self._seen = 0

    def strikes(self, call: str, path: str) -> bool:
        """Count the call; whether it is to fail."""
        if not self._calls.fullmatch(call) or not self._paths.search(path):
            return False
        self._seen += 1
        return self._first <= self._seen <= self._last


class Faults:
    """The rules that are in force, and the calls since they are."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._rules: list[_Rule] = []
        self._calls: list[tuple[str, str]] = []
        self._struck: list[tuple[str, str, str]] = []

    def put(self, rules: list[dict[str, Any]]) -> None:
        """Let these rules take the place of those before, and count from here."""
        with self._guard:
            self._rules = [_Rule(**rule) for rule in rules]
            self._calls.clear()
            self._struck.clear()

    def report(self) -> dict[str, Any]:
        """Return the calls since the last `put`, and those of them that failed."""
        with self._guard:
            return {"calls": list(self._calls), "struck": list(self._struck)}

    def find_deed(self, call: str, path: str) -> str:
        """Note a call; what is to happen to it, nothing if it is to go well."""
        with self._guard:
            self._calls.append((call, path))
            struck = [rule for rule in self._rules if rule.strikes(call, path)]
            if not struck:
                return ""
            self._struck.append((call, path, struck[0].deed))
            return struck[0].deed


def _error(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


class _File(NamedTuple):
    """An open file: what it was opened as stays its name in the rules."""

    path: str
    descriptor: int


class FaultyPassThrough(mfusepy.Operations):  # type: ignore[misc]
    """The calls of the file system, each of them asked for its fault first."""

    use_ns = True

    def __init__(self, directory: str, faults: Faults) -> None:
        self._directory = directory
        self._faults = faults
        self._files: dict[int, _File] = {}

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        """Let the kernel ask for everything each time, by the true inode numbers."""
        config_3.use_ino = 1
        config_3.direct_io = 1
        config_3.entry_timeout = config_3.attr_timeout = 0.0
        config_3.negative_timeout = 0.0

    def _do(self, call: str, path: str, act: Callable[[], T]) -> T:
        """Do it, or fail before it, or after it."""
        deed = self._faults.find_deed(call, path)
        if deed and not deed.startswith("done:") and deed != "short":
            raise _error(deed)
        result = act()
        if deed.startswith("done:"):
            raise _error(deed.removeprefix("done:"))
        return result

    def _real(self, path: str) -> str:
        return self._directory + path

    # ---- names ----------------------------------------------------------------------

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            status = os.lstat(self._real(path))
            found = {name: getattr(status, name) for name in _STAT}
            return {**found, **{name: getattr(status, f"{name}_ns") for name in _TIMES}}

        return self._do("getattr", path, look)

    def access(self, path: str, amode: int) -> None:
        def ask() -> None:
            if not os.access(self._real(path), amode):
                raise _error("EACCES")

        self._do("access", path, ask)

    def readlink(self, path: str) -> str:
        return self._do("readlink", path, lambda: os.readlink(self._real(path)))

    def mkdir(self, path: str, mode: int) -> None:
        self._do("mkdir", path, lambda: os.mkdir(self._real(path), mode))

    def rmdir(self, path: str) -> None:
        self._do("rmdir", path, lambda: os.rmdir(self._real(path)))

    def unlink(self, path: str) -> None:
        if HIDDEN in path:  # The removal of a file that was open then.
            os.unlink(self._real(path))
        else:
            self._do("unlink", path, lambda: os.unlink(self._real(path)))

    def symlink(self, target: str, source: str) -> None:
        def link() -> None:
            os.symlink(source, self._real(target))

        self._do("symlink", target, link)

    def link(self, target: str, source: str) -> None:
        def link() -> None:
            os.link(self._real(source), self._real(target))

        self._do("link", target, link)

    def rename(self, old: str, new: str) -> None:
        def move() -> None:
            os.rename(self._real(old), self._real(new))

        if HIDDEN not in new:
            self._do("rename", new, move)
            return
        # To hide it is how libfuse removes what is open.  Where that seems to fail, it
        # does not remove it later.
        try:
            self._do("unlink", old, move)
        except OSError:
            with suppress(FileNotFoundError):
                os.unlink(self._real(new))
            raise

    def chmod(self, path: str, mode: int) -> None:
        self._do("chmod", path, lambda: os.chmod(self._real(path), mode))

    def chown(self, path: str, uid: int, gid: int) -> None:
        def give() -> None:
            os.lchown(self._real(path), uid, gid)

        self._do("chown", path, give)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        def stamp() -> None:
            if times is None or _NOW in times:
                os.utime(self._real(path))
            else:
                os.utime(self._real(path), ns=times)

        self._do("utimens", path, stamp)

    def statfs(self, path: str) -> dict[str, int]:
        found = self._do("statfs", path, lambda: os.statvfs(self._real(path)))
        names = (name for name in dir(found) if name.startswith("f_"))
        return {name: getattr(found, name) for name in names}

    # ---- directories ----------------------------------------------------------------

    def opendir(self, path: str) -> int:
        return self._do("opendir", path, lambda: 0)

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        def read() -> list[tuple[str, dict[str, int], int]]:
            # A name without an inode number counts as removed.
            with os.scandir(self._real(path)) as entries:
                found = [(entry.name, entry.inode()) for entry in entries]
            names = [(".", 1), ("..", 1), *found]
            return [(name, {"st_ino": number}, 0) for name, number in names]

        return self._do("readdir", path, read)

    def releasedir(self, path: str, fh: int) -> int:
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        return self._do("fsyncdir", path, lambda: 0)

    # ---- files ----------------------------------------------------------------------

    def _open(self, call: str, path: str, flags: int, mode: int) -> int:
        # The kernel says where an append goes; O_DIRECT would ask for aligned pieces.
        flags &= ~(os.O_APPEND | os.O_DIRECT)

        def open_it() -> int:
            return os.open(self._real(path), flags | os.O_CLOEXEC, mode)

        descriptor = self._do(call, path, open_it)
        self._files[descriptor] = _File(path, descriptor)
        return descriptor

    def open(self, path: str, flags: int) -> int:
        return self._open("open", path, flags, 0)

    def create(self, path: str, mode: int, fi: int = 0) -> int:
        return self._open("create", path, fi | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        file = self._files[fh]
        return self._do("read", file.path, lambda: os.pread(fh, size, offset))

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        file = self._files[fh]
        deed = self._faults.find_deed("write", file.path)
        if deed == "short":
            return os.pwrite(fh, data[: max(len(data) // 2, 1)], offset)
        if deed.startswith("done:"):
            os.pwrite(fh, data, offset)
            raise _error(deed.removeprefix("done:"))
        if deed:
            raise _error(deed)
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        def cut() -> None:
            os.truncate(self._real(path) if fh is None else fh, length)

        name = path if fh is None else self._files[fh].path
        self._do("truncate", name, cut)

    def flush(self, path: str, fh: int) -> int:
        return self._do("flush", self._files[fh].path, lambda: 0)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self._do("fsync", self._files[fh].path, lambda: os.fsync(fh))

    def release(self, path: str, fh: int) -> int:
        os.close(self._files.pop(fh).descriptor)
        return 0


def _obey(faults: Faults, commands: TextIO, answers: TextIO, mountpoint: str) -> None:
    """Carry out what the test asks for, until it has no more to ask; then unmount."""
    with suppress(BrokenPipeError):
        for line in commands:
            command = json.loads(line)
            if "rules" in command:
                faults.put(command["rules"])
            answers.write(json.dumps(faults.report()) + "\n")
            answers.flush()
    subprocess.run(["umount", "--lazy", mountpoint], check=False)


def main() -> int:
    """Serve until the mount ends."""
    directory, mountpoint = sys.argv[1:]
    os.umask(0)  # That of the caller was applied by the kernel.
    faults = Faults()
    threading.Thread(
        target=_obey, args=(faults, sys.stdin, sys.stdout, mountpoint), daemon=True
    ).start()
    mfusepy.FUSE(
        FaultyPassThrough(directory, faults),
        mountpoint,
        foreground=True,
        nothreads=True,
        fsname="mpifarm-faulty",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
