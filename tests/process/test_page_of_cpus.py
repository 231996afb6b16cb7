"""The examples of the page on CPUs, GPUs and MPI programs, and what their tasks see.

Rules of this file: those of page_desk.py; srun is one node of the job.
"""

import pytest

from tests.farm_driver import assert_ends
from tests.pages import take_block
from tests.process.page_desk import Desk

ONE_NODE = """\
# srun on one node of the job, which has as many GPUs as are asked for
until [[ $1 == python ]]; do
    if [[ $1 == --gpus-per-node=* ]]; then
        export CUDA_VISIBLE_DEVICES=$(seq -s, 0 $((${1#*=} - 1)))
    fi
    shift
done
exec "$@"
"""

TOLD = "echo $1 $MPIFARM_NODE_WORKER >> told; until [ -e go ]; do sleep 0.05; done"
"""Runs until the test says go, so that each worker gets one."""


@pytest.fixture
def desk(create_place):
    place = create_place()
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        place.environment.pop(name, None)
    desk = Desk(place)
    desk.install("srun", ONE_NODE)
    return desk


def farm_seen(desk, lines, count, variable=""):
    """Type lines that start a farm; return what each of its workers has told."""
    place = desk.place
    place.script("tell", TOLD)
    place.write_list([f'./tell "{variable}"'] * count)
    farm = desk.start("\n".join(lines))
    told = place.await_notes("told", count)
    place.allow()
    assert_ends(farm, 0)
    assert place.result()["this_farm"]["workers"] == count
    return sorted(told)


def test_a_rank_on_each_node_has_the_workers_that_are_asked_for(desk):
    (line,) = take_block(
        "cpus-and-gpus.md", "srun --mpi=pmi2 -N 8 --ntasks-per-node=1 --cpus"
    ).lines
    assert len(farm_seen(desk, [line], 16)) == 16


def test_each_task_has_the_threads_that_the_user_has_set(desk):
    lines = take_block("cpus-and-gpus.md", "export OMP_NUM_THREADS=2").lines
    told = farm_seen(desk, lines, 32, "$OMP_NUM_THREADS")
    assert {each.split()[0] for each in told} == {"2"}


def test_the_workers_of_a_node_share_the_gpus_of_the_job(desk):
    (line,) = take_block(
        "cpus-and-gpus.md", "srun --mpi=pmi2 -N 8 --ntasks-per-node=1 --gpus"
    ).lines
    told = farm_seen(desk, [line], 4, "$CUDA_VISIBLE_DEVICES")
    assert told == ["0 0", "1 1", "2 2", "3 3"]


def test_a_line_of_the_list_sets_the_threads_of_its_program(desk):
    place = desk.place
    place.write_list(take_block("cpus-and-gpus.md", "JULIA_NUM_THREADS").lines)
    desk.install("julia", 'echo "$JULIA_NUM_THREADS threads for $*"')
    desk.type("OMP_NUM_THREADS=3 mpifarm -n 1 tasks.txt")
    assert place.log(0) == "3 threads for model.jl 1\n"


def test_what_is_chosen_by_the_worker_is_no_other_tasks(desk):
    place = desk.place
    serve, solve = take_block("cpus-and-gpus.md", "./serve").lines
    place.write_list([serve, solve.replace("/tmp/", f"{place.directory}/")])
    waits = "until [ -e go ]; do sleep 0.05; done"
    place.script("serve", f'echo "$@" >> told; {waits}')
    desk.install(
        "solve", f"pwd >> {place.directory}/told; cd {place.directory}; {waits}"
    )
    farm = desk.start("mpifarm -n 2 tasks.txt")
    told = place.await_notes("told", 2)
    place.allow()
    assert_ends(farm, 0)
    directory, port = sorted(told, reverse=True)
    assert {directory, port} in (
        {"--port 9000 model1", f"{place.directory}/w1"},
        {"--port 9001 model1", f"{place.directory}/w0"},
    )
