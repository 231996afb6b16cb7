"""What a task can know of itself, and what of the machine its worker gets.

Rules of this file: the commands say it themselves, by their environment and by the
CPUs on which the kernel lets them run.
"""

import os

import pytest

CPUS = sorted(os.sched_getaffinity(0))

TELL = (
    'echo "${CUDA_VISIBLE_DEVICES-unset} ${ROCR_VISIBLE_DEVICES-unset}'
    ' worker=$MPIFARM_WORKER" >> told; echo $PROC_NUMBER >> begun;'
    " while [ ! -e go ]; do sleep 0.02; done"
)
"""Runs until the test says go, so that each worker gets one."""

without_gpu = pytest.mark.skipif(
    os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd"),
    reason="this machine has a GPU",
)

OF_A_MACHINE = (
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HIP_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "ROCR_VISIBLE_DEVICES",
    "SLURM_JOB_GPUS",
    "SLURM_STEP_GPUS",
)


@pytest.fixture
def place(farm_environment, create_place):
    """`create_place`, without the variables that these tests are about."""
    for name in OF_A_MACHINE:
        farm_environment.pop(name, None)
    return create_place


def variables(here, *options, before=(), **env):
    """The environment of the last task of the list, as its command got it."""
    farm = here.start(*options, before=before, env=env)
    assert farm.wait() == 0, farm.text()
    entries = here.log(len(here.tasks) - 1).splitlines()
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


# ---- itself -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["env", "true; env"], ids=["direct", "by a shell"])
def test_a_task_knows_its_id_its_attempt_and_where_it_runs(place, command):
    here = place(["true", "true", command])
    known = variables(here, "-n", "2")
    assert known["PROC_NUMBER"] == known["MPIFARM_TASK_ID"] == "2"
    assert known["MPIFARM_ATTEMPT"] == "1"
    assert known["MPIFARM_RANK"] == "0"
    assert known["MPIFARM_WORKER"] in ("0", "1")
    assert known["MPIFARM_NODE_WORKER"] == known["MPIFARM_WORKER"]
    assert known["MPIFARM_WORKDIR"] == str(here.workdir)
    assert known["MPIFARM_FARM"] == here.result()["farm"]


def test_a_second_attempt_knows_that_it_is_one(place):
    # the first one takes its worker with it
    command = (
        "echo $MPIFARM_ATTEMPT >> attempts;"
        "[ $MPIFARM_ATTEMPT != 1 ] || kill -9 $PPID; sleep 0.3"
    )
    here = place([command])
    assert here.run("-n", "1") == 0
    assert here.notes("attempts") == ["1", "2"]


# ---- CPUs ---------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_a_task_may_start_as_many_threads_as_its_worker_has_cpus(place, workers):
    known = variables(place(["env"]), "-n", str(workers))
    assert known["OMP_NUM_THREADS"] == str(max(1, len(CPUS) // workers))


@pytest.mark.parametrize("options", [(), ("--bind",)])
def test_what_the_user_has_set_for_threads_stays(place, options):
    known = variables(place(["env"]), "-n", "2", *options, OMP_NUM_THREADS="7")
    assert known["OMP_NUM_THREADS"] == "7"


ON_WHICH_CPUS = (
    "grep Cpus_allowed_list /proc/self/status > cpus.$MPIFARM_WORKER;"
    " echo $OMP_NUM_THREADS > threads.$MPIFARM_WORKER; echo $PROC_NUMBER >> begun;"
    " while [ ! -e go ]; do sleep 0.02; done"
)


def run_one_on_each_worker(here, workers, *options, **others):
    """A task for each worker, all at one time."""
    farm = here.start("-n", str(workers), *options, **others)
    here.await_notes("begun", workers)
    (here.directory / "go").touch()
    assert farm.wait() == 0, farm.text()
    return farm.text()


def cpus_of(here, worker):
    words = here.notes(f"cpus.{worker}")[0].split()
    return words[-1]


@pytest.mark.skipif(len(CPUS) < 2, reason="a share needs a CPU of its own")
def test_bound_workers_have_cpus_of_their_own(place):
    here = place([ON_WHICH_CPUS] * 2)
    before = ("taskset", "-c", f"{CPUS[0]},{CPUS[1]}")
    run_one_on_each_worker(here, 2, "--bind", before=before)
    assert {cpus_of(here, 0), cpus_of(here, 1)} == {str(CPUS[0]), str(CPUS[1])}
    assert here.notes("threads.0") == here.notes("threads.1") == ["1"]


def test_bound_workers_take_turns_at_cpus_that_are_too_few(place):
    here = place([ON_WHICH_CPUS] * 3)
    run_one_on_each_worker(here, 3, "--bind", before=("taskset", "-c", str(CPUS[-1])))
    assert {cpus_of(here, worker) for worker in range(3)} == {str(CPUS[-1])}


def test_a_worker_that_replaces_another_is_bound_as_that_was(place):
    command = (
        "grep Cpus_allowed_list /proc/self/status >> cpus;"
        "[ $MPIFARM_ATTEMPT != 1 ] || kill -9 $PPID; sleep 0.3"
    )
    here = place([command])
    assert here.run("-n", "1", "--bind", before=("taskset", "-c", str(CPUS[0]))) == 0
    before, after = here.notes("cpus")
    assert before == after
    assert before.split()[-1] == str(CPUS[0])


def test_workers_that_are_not_bound_have_all_cpus_of_the_rank(place):
    here = place([ON_WHICH_CPUS] * 2)
    run_one_on_each_worker(here, 2)
    with open("/proc/self/status") as status:
        ours = next(line for line in status if line.startswith("Cpus_allowed_list"))
    assert {cpus_of(here, worker) for worker in (0, 1)} == {ours.split()[-1]}


@pytest.mark.skipif(len(CPUS) < 2, reason="there is nothing to leave out")
def test_a_farm_with_fewer_cpus_than_workers_says_so(place):
    here = place(["true"])
    farm = here.start("-n", "5", before=("taskset", "-c", str(CPUS[0])))
    assert farm.wait() == 0
    assert "5 workers and may use only 1 of the" in farm.text()
    assert "--proc 1 " in farm.text()


def test_a_farm_that_has_the_whole_machine_says_nothing_of_cpus(place):
    if len(CPUS) < os.sysconf("SC_NPROCESSORS_ONLN"):
        pytest.skip("these tests have not the whole machine")
    farm = place(["true"]).start("-n", "64")
    assert farm.wait() == 0
    assert "CPUs" not in farm.text()


# ---- GPUs ---------------------------------------------------------------------------


def gpus_of_workers(here, workers, *options, **env):
    """What each worker's command sees of CUDA's and of ROCm's variable."""
    text = run_one_on_each_worker(here, workers, *options, env=env)
    told = sorted(here.notes("told"), key=lambda line: int(line.split("=")[1]))
    assert len(told) == workers
    return [tuple(line.split()[:2]) for line in told], text


def test_workers_share_the_gpus_of_the_rank(place):
    here = place([TELL] * 4)
    gpus, _ = gpus_of_workers(here, 4, "--gpus", "auto", CUDA_VISIBLE_DEVICES="3,5")
    assert gpus == [("3", "unset"), ("5", "unset")] * 2


@without_gpu
def test_workers_share_so_many_gpus_as_the_user_says(place):
    here = place([TELL] * 4)
    gpus, _ = gpus_of_workers(here, 4, "--gpus", "2")
    assert gpus == [("0", "unset"), ("1", "unset")] * 2


def test_without_the_option_the_variables_stay_as_they_are(place):
    here = place([TELL] * 2)
    gpus, _ = gpus_of_workers(here, 2, CUDA_VISIBLE_DEVICES="3,5")
    assert gpus == [("3,5", "unset")] * 2


@without_gpu
def test_a_farm_that_finds_no_gpu_says_so_and_runs(place):
    here = place([TELL] * 2)
    gpus, text = gpus_of_workers(here, 2, "--gpus", "auto")
    assert gpus == [("unset", "unset")] * 2
    assert "--gpus auto finds no GPU" in text


@pytest.mark.parametrize("word", ["0", "-1", "all", "1.5", ""])
def test_another_word_for_gpus_is_a_mistake(place, word):
    here = place(["true"])
    farm = here.start(f"--gpus={word}")
    assert farm.wait() == 2
    assert "--gpus" in farm.text()
    assert not here.workdir.exists()


def test_more_gpus_than_the_rank_was_given_are_a_mistake(place):
    here = place(["true"])
    farm = here.start("--gpus", "3", env={"CUDA_VISIBLE_DEVICES": "3,5"})
    assert farm.wait() == 2
    assert "--gpus 3 is more than the 2 " in farm.text()
    assert not here.workdir.exists()
