"""The practical limit of a farmer in Python: start, wait, one log file for each task.

    python limit.py TASKS PROCESSES [LINE]

No list, no status files, no messages: PROCESSES bare loops of `posix_spawn` and
`waitpid` over ``true``, each task's stdout and stderr in logs/log_<id> of the current
directory, as a farm writes them.  With LINE, each task is ``bash -c LINE``.
"""

import os
import shutil
import sys


def run(taskids: range, words: list[str]) -> None:
    program = shutil.which(words[0]) or f"/bin/{words[0]}"
    for taskid in taskids:
        log = os.open(f"logs/log_{taskid}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        pid = os.posix_spawn(program, words, os.environ, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        os.close(log)
        if status != 0:
            raise SystemExit(f"{program}: {status}")


def main(tasks: int, processes: int, words: list[str]) -> None:
    os.mkdir("logs")
    pids = []
    for first in range(processes):
        pid = os.fork()
        if pid == 0:
            run(range(first, tasks, processes), words)
            os._exit(0)
        pids.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in pids):
        raise SystemExit("a loop failed")


main(
    int(sys.argv[1]),
    int(sys.argv[2]),
    ["bash", "-c", sys.argv[3]] if len(sys.argv) > 3 else ["true"],
)
