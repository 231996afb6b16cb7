"""The practical limit of a farmer in Python: start, wait, one log file for each task.

    python limit.py TASKS PROCESSES

No list, no status files, no messages: PROCESSES bare loops of `posix_spawn` and
`waitpid` over ``true``, each task's stdout and stderr in logs/log_<id> of the current
directory, as a farm writes them.
"""

import os
import shutil
import sys


def run(taskids: range) -> None:
    program = shutil.which("true") or "/bin/true"
    for taskid in taskids:
        log = os.open(f"logs/log_{taskid}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        pid = os.posix_spawn(program, ["true"], os.environ, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        os.close(log)
        if status != 0:
            raise SystemExit(f"{program}: {status}")


def main(tasks: int, processes: int) -> None:
    os.mkdir("logs")
    pids = []
    for first in range(processes):
        pid = os.fork()
        if pid == 0:
            run(range(first, tasks, processes))
            os._exit(0)
        pids.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in pids):
        raise SystemExit("a loop failed")


main(int(sys.argv[1]), int(sys.argv[2]))
