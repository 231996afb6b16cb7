"""What a command gets from the farm: descriptors, signals, session, variables, limits.

Each test compares with what the farm itself was started with.
"""

import os
import resource
import sys

import pytest

RANK_VARIABLES = {
    "PMI_RANK": "0",
    "PMI_SIZE": "1",
    "PMI_FD": "7",
    "PMIX_RANK": "0",
    "PMIX_NAMESPACE": "x",
    "PMIX_SERVER_URI41": "x",
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_COMM_WORLD_SIZE": "1",
    "OMPI_UNIVERSE_SIZE": "1",
    "OMPI_MCA_orte_ess_num_procs": "1",
    "PRTE_LAUNCHED": "1",
    "MPI_LOCALRANKID": "0",
    "MPI_LOCALNRANKS": "1",
    "HYDI_CONTROL_FD": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_ID": "0",
    "SLURM_STEPID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_SRUN_COMM_PORT": "1",
    "SLURM_TASK_PID": "1",
    "SLURM_GTIDS": "0",
}
USERS_VARIABLES = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_CPUS_PER_TASK": "4",
    "OMPI_MCA_btl": "^ofi",
    "OMP_NUM_THREADS": "3",
    "LD_PRELOAD": "",
    "ODD": "a\nb=c ü",
}


def run_and_read(place, *options, **others):
    farm = place.start(*options, **others)
    assert farm.wait() == 0, farm.text()
    return place.log(0)


def variables(place, *options, **others):
    """The environment of task 0, as the command sees it."""
    run_and_read(place, *options, **others)
    entries = place.content("../env").decode().split("\0")[:-1]
    return dict(entry.split("=", 1) for entry in entries)


@pytest.fixture(params=["direct", "by a shell"])
def place_for(request, create_place):
    """A place for a command, which is started directly or by a shell."""

    def create(command):
        place = create_place()
        # a line without shell syntax needs no shell
        script = place.script("command", command)
        through_shell = f"exec '{script}'"
        direct = str(script)
        line = direct if request.param == "direct" else through_shell
        place.tasklist.write_text(line + "\n")
        return place

    return create


# ---- descriptors ---------------------------------------------------------------------


def test_a_command_has_descriptors_0_1_and_2_only(create_place):
    place = create_place(["ls -l /proc/self/fd", "true; ls -l /proc/self/fd"])
    assert place.run() == 0
    for taskid in (0, 1):
        lines = [e.split() for e in place.log(taskid).splitlines() if "->" in e]
        opened = {words[-3]: words[-1] for words in lines}
        # ls itself opens the directory that it lists
        own = [fd for fd, target in opened.items() if target.startswith("/proc/")]
        log = str(place.workdir / "logs" / f"log_{taskid}")
        kept = {fd: target for fd, target in opened.items() if fd not in own}
        assert kept == {"0": "/dev/null", "1": log, "2": log}


def test_no_descriptor_of_who_started_the_farm_reaches_a_command(create_place):
    # a launcher leaves inheritable ones in its ranks
    place = create_place(["ls /proc/self/fd"])
    before = ("sh", "-c", 'exec 7</dev/null 9>leak; exec "$@"', "sh")
    assert run_and_read(place, before=before).split() == ["0", "1", "2", "3"]


def test_stdin_is_empty_whatever_the_farm_reads(create_place):
    place = create_place(["wc -c", "cat; echo end"])
    before = ("sh", "-c", 'printf "typed by the user" | "$@"', "sh")
    assert run_and_read(place, before=before).strip() == "0"
    assert place.log(1) == "end\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_farm_with_closed_standard_descriptors_works(create_place, closed):
    # as a daemon or an odd batch system starts it
    place = create_place(["echo a; echo b >&2", "wc -c", "ls /proc/self/fd"])
    before = ("sh", "-c", f'exec "$@" {closed}', "sh")
    assert place.run(before=before) == 0
    assert place.log(0) == "a\nb\n"
    assert place.log(1).strip() == "0"
    assert place.log(2).split() == ["0", "1", "2", "3"]
    place.assert_sound()


def test_a_closed_stdout_is_not_written_into_a_file_of_the_farm(create_place):
    place = create_place(["true"] * 5)
    before = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    assert place.run(before=before) == 0
    for path in place.workdir.rglob("*"):
        assert path.is_dir() or b"mpifarm: " not in path.read_bytes(), path


# ---- session, signals ----------------------------------------------------------------


def test_a_command_leads_a_session_of_its_own(place_for):
    place = place_for(
        "ps -o pid=,pgid=,sid=,tty= -p $$ 2>/dev/null || cat /proc/$$/stat"
    )
    pid, group, session, *_ = numbers(run_and_read(place))
    assert pid == group == session


def numbers(text):
    """The pid, group and session of ``ps`` or of ``/proc/<pid>/stat``."""
    if ")" in text:
        pid, rest = int(text.split()[0]), text.rpartition(")")[2].split()
        return pid, int(rest[2]), int(rest[3])
    return [int(word) for word in text.split()[:3]]


def test_a_command_has_default_signals_and_none_blocked(place_for):
    place = place_for("exec cat /proc/self/status")
    # the farm is started by something that ignores and blocks
    start = (
        "import os, signal, sys\n"
        "for s in (signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGQUIT):\n"
        "    signal.signal(s, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGALRM])\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    log = run_and_read(place, before=(sys.executable, "-c", start))
    masks = dict(line.split(":\t") for line in log.splitlines() if ":\t" in line)
    # 32 and 33 are glibc's own: its posix_spawn ignores them in every program
    glibcs = 0b11 << 31
    found = [int(masks[name], 16) & ~glibcs for name in ("SigBlk", "SigIgn", "SigCgt")]
    assert found == [0, 0, 0]


def test_a_broken_pipe_ends_a_command_as_in_a_shell(create_place):
    place = create_place(["yes | head -1; echo ${PIPESTATUS[0]}"])
    assert run_and_read(place) == "y\n141\n"


# ---- variables -----------------------------------------------------------------------


def test_a_command_knows_its_task_and_its_farm(place_for):
    place = place_for("cat /proc/self/environ > env")
    found = variables(place)
    assert found["PROC_NUMBER"] == found["MPIFARM_TASK_ID"] == "0"
    assert found["MPIFARM_ATTEMPT"] == "1"
    assert found["MPIFARM_RANK"] == "0"
    assert found["MPIFARM_WORKER"] == "0" or found["MPIFARM_WORKER"].isdigit()
    assert found["MPIFARM_WORKDIR"] == str(place.workdir)


def test_every_task_has_its_own_number(create_place):
    place = create_place(["echo $PROC_NUMBER $MPIFARM_TASK_ID"] * 30)
    assert place.run("--proc", "2") == 0
    assert [place.log(i) for i in range(30)] == [f"{i} {i}\n" for i in range(30)]


def test_variables_of_a_rank_do_not_reach_a_command(place_for):
    place = place_for("cat /proc/self/environ > env")
    # off: there is no MPI job behind these
    found = variables(place, "--mpi", "off", env=RANK_VARIABLES)
    assert found.keys() & RANK_VARIABLES.keys() == set()
    assert "MPIFARM_TASK_ID" in found


def test_variables_of_the_user_and_of_the_job_reach_a_command(place_for):
    place = place_for("cat /proc/self/environ > env")
    found = variables(place, env=USERS_VARIABLES)
    assert {name: found.get(name) for name in USERS_VARIABLES} == USERS_VARIABLES


def test_nothing_else_is_added_to_or_taken_from_the_environment(place_for):
    place = place_for("cat /proc/self/environ > env")
    found = variables(place)
    added = {
        name
        for name in found
        if not name.startswith("MPIFARM_") and name not in place.environment
    }
    of_a_shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert added <= {"PROC_NUMBER", "OMP_NUM_THREADS", "FARM_TEST_NAME"} | of_a_shell
    assert place.environment.keys() <= found.keys()


def test_a_farm_in_a_farm_works(create_place):
    place = create_place()
    inner = place.directory / "inner.txt"
    inner.write_text("echo $PROC_NUMBER $MPIFARM_TASK_ID\n" * 2)
    place.tasklist.write_text(f"true\n'{sys.executable}' -m mpifarm {inner}\n")
    assert place.run() == 0
    logs = place.directory / "inner.txt_workdir" / "logs"
    assert (logs / "log_0").read_text() == "0 0\n"
    assert (logs / "log_1").read_text() == "1 1\n"


# ---- limits and the like -------------------------------------------------------------


@pytest.mark.parametrize("umask", ["022", "077", "027"])
def test_the_umask_is_the_users(create_place, umask):
    place = create_place(["umask; touch made"])
    before = ("sh", "-c", f'umask {umask}; exec "$@"', "sh")
    assert int(run_and_read(place, before=before), 8) == int(umask, 8)
    mode = (place.directory / "made").stat().st_mode & 0o777
    assert mode == 0o666 & ~int(umask, 8)
    # a group that shares a workdir does so by its umask
    assert (place.workdir / "finished").stat().st_mode & 0o777 == mode
    assert (place.workdir / "logs" / "log_0").stat().st_mode & 0o777 == mode


def test_limits_are_the_users(place_for):
    place = place_for("ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -s; nice")
    before = ("sh", "-c", 'ulimit -n 300; ulimit -s 4096; exec nice "$@"', "sh")
    core = resource.getrlimit(resource.RLIMIT_CORE)[0]
    core_word = "unlimited" if core == resource.RLIM_INFINITY else str(core // 512)
    words = run_and_read(place, before=before).split()
    assert words[:2] == ["300", "300"]
    assert words[2] in (core_word, str(core // 1024))
    assert words[3] == "4096"
    assert int(words[4]) == min(19, os.nice(0) + 10)


def test_few_descriptors_are_enough_for_many_workers(create_place):
    place = create_place(["ulimit -n"] * 100)
    before = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    assert place.run("--proc", "8", before=before) == 0
    assert place.log(99) == "64\n"


def test_the_affinity_is_the_users(create_place):
    place = create_place(["grep Cpus_allowed_list /proc/self/status"])
    cpu = min(os.sched_getaffinity(0))
    start = (
        "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])]);"
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    before = (sys.executable, "-c", start, str(cpu))
    assert run_and_read(place, before=before).split()[-1] == str(cpu)


def test_commands_run_where_the_farm_was_started(place_for, tmp_path):
    place = place_for("true")
    script = place.directory / "command"
    script.write_text("#!/bin/sh\npwd -P; echo $PWD\n")
    here = tmp_path / "a b"
    here.mkdir()
    log = run_and_read(place, before=("env", "-C", str(here)))
    assert log == f"{here}\n{here}\n"
