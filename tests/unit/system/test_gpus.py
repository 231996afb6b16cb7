"""The GPU of each worker, on machines imitated by files."""

from pathlib import Path

import pytest

from mpifarm.errors import InputError
from mpifarm.system.gpus import CUDA, HIP, ROCR, check_gpus, find_gpus


@pytest.fixture
def make_machine(tmp_path):
    """Make a root directory: ``make_machine(nvidia=2)``, ``make_machine(amd=4)``."""

    def make(nvidia: int = 0, amd: int = 0) -> str:
        (tmp_path / "dev").mkdir(exist_ok=True)
        for name in ["nvidiactl", "nvidia-uvm"] if nvidia else []:
            (tmp_path / "dev" / name).touch()
        for number in range(nvidia):
            (tmp_path / f"dev/nvidia{number}").touch()
        if amd:
            (tmp_path / "dev/kfd").touch()
            make_topology(tmp_path, amd)
        return str(tmp_path)

    return make


def make_topology(root: Path, amd: int) -> None:
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    for node, gpu_id in enumerate([0, *range(40001, 40001 + amd)]):
        (nodes / str(node)).mkdir(parents=True)
        (nodes / str(node) / "gpu_id").write_text(f"{gpu_id}\n")


def given_to(workers, setting, environ, root):
    """Return the variables of the node's first workers."""
    gpus = find_gpus(setting, environ, root)
    return [gpus.of_worker(number) for number in range(workers)]


# ---- what the rank was given --------------------------------------------------------


def test_none_touches_nothing(make_machine):
    environ = {CUDA: "3,5", ROCR: "0"}
    assert given_to(2, "none", environ, make_machine(nvidia=8)) == [{}, {}]
    assert check_gpus("none", environ, make_machine(nvidia=8)) == ""


def test_workers_take_turns_at_what_the_rank_was_given(make_machine):
    got = given_to(4, "auto", {CUDA: "3,5"}, make_machine(nvidia=8))
    assert got == [{CUDA: "3"}, {CUDA: "5"}, {CUDA: "3"}, {CUDA: "5"}]


def test_a_list_counts_without_any_device_to_see(make_machine):
    assert given_to(1, "auto", {ROCR: "7"}, make_machine()) == [{ROCR: "7"}]


def test_names_of_gpus_and_of_their_parts_stay_as_they_are(make_machine):
    names = ["GPU-4b2c1a9f-8d3e", "MIG-GPU-4b2c/1/0"]
    got = given_to(3, "auto", {CUDA: ", ".join(names)}, make_machine())
    assert got == [{CUDA: names[0]}, {CUDA: names[1]}, {CUDA: names[0]}]


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles", " "])
def test_a_variable_that_gives_no_gpu_is_left_so(make_machine, value):
    root = make_machine(nvidia=4)
    assert given_to(1, "auto", {CUDA: value}, root) == [{}]
    assert "no GPU" in check_gpus("auto", {CUDA: value}, root)


def test_a_list_ends_where_the_libraries_end_it(make_machine):
    got = given_to(3, "auto", {CUDA: "2,4,-1,6"}, make_machine())
    assert got == [{CUDA: "2"}, {CUDA: "4"}, {CUDA: "2"}]


def test_two_variables_go_round_each_by_itself_where_they_are_of_two_makes(
    make_machine,
):
    environ = {CUDA: "0,1", ROCR: "4,5,6"}
    got = given_to(3, "auto", environ, make_machine(nvidia=2))
    assert [each[CUDA] for each in got] == ["0", "1", "0"]
    assert [each[ROCR] for each in got] == ["4", "5", "6"]


# ---- AMD: one variable counts within the other --------------------------------------


def test_on_amd_what_counts_within_rocr_is_0(make_machine):
    # as Slurm sets them all
    environ = dict.fromkeys([CUDA, ROCR, "GPU_DEVICE_ORDINAL"], "0,1,2")
    got = given_to(4, "auto", environ, make_machine(amd=4))
    assert [each[ROCR] for each in got] == ["0", "1", "2", "0"]
    assert {each[CUDA] for each in got} == {"0"}
    assert {each["GPU_DEVICE_ORDINAL"] for each in got} == {"0"}
    assert HIP not in got[0]


def test_on_amd_a_choice_among_those_of_rocr_is_kept(make_machine):
    environ = {ROCR: "4,5,6,7", HIP: "2,3"}
    got = given_to(3, "auto", environ, make_machine(amd=8))
    assert got == [{ROCR: gpu, HIP: "0"} for gpu in ("6", "7", "6")]


def test_on_amd_lists_of_the_same_global_numbers_mean_all_of_rocr(make_machine):
    environ = {ROCR: "6,7", CUDA: "6,7"}
    got = given_to(2, "auto", environ, make_machine(amd=8))
    assert got == [{ROCR: "6", CUDA: "0"}, {ROCR: "7", CUDA: "0"}]


def test_on_amd_a_number_takes_the_first_of_such_a_choice(make_machine):
    environ = {ROCR: "4,5,6,7", HIP: "2,3,0"}
    got = given_to(3, "2", environ, make_machine(amd=8))
    assert got == [{ROCR: gpu, HIP: "0"} for gpu in ("6", "7", "6")]


def test_on_amd_a_variable_that_gives_no_gpu_is_left_so(make_machine):
    environ = {ROCR: "4,5", CUDA: ""}
    got = given_to(2, "auto", environ, make_machine(amd=8))
    assert got == [{ROCR: "4"}, {ROCR: "5"}]


@pytest.mark.parametrize("name", [HIP, CUDA])
def test_on_amd_a_list_of_hip_alone_goes_round_itself(make_machine, name):
    got = given_to(2, "auto", {name: "2,3"}, make_machine(amd=4))
    assert got == [{name: "2"}, {name: "3"}]


# ---- devices, where no variable is set ----------------------------------------------


def test_devices_are_counted_where_no_variable_is_set(make_machine):
    got = given_to(3, "auto", {}, make_machine(nvidia=2))
    assert got == [{CUDA: "0"}, {CUDA: "1"}, {CUDA: "0"}]


def test_amds_devices_get_amds_variable(make_machine):
    got = given_to(3, "auto", {}, make_machine(amd=2))
    assert got == [{ROCR: "0"}, {ROCR: "1"}, {ROCR: "0"}]


def test_a_device_that_may_not_be_opened_does_not_count(make_machine, monkeypatch):
    root = make_machine(nvidia=4)
    # as a cgroup has it; files without permissions are open to root
    hidden = {f"{root}/dev/nvidia0", f"{root}/dev/nvidia3"}
    monkeypatch.setattr("os.access", lambda path, mode: path not in hidden)
    assert given_to(3, "auto", {}, root) == [{CUDA: "0"}, {CUDA: "1"}, {CUDA: "0"}]


def test_slurms_list_holds_where_the_job_sees_more_than_it_was_given(make_machine):
    root = make_machine(nvidia=4)
    environ = {"SLURM_STEP_GPUS": "2,3", "SLURM_JOB_GPUS": "1"}
    assert given_to(2, "auto", environ, root) == [{CUDA: "2"}, {CUDA: "3"}]
    batch = {"SLURM_JOB_GPUS": "1"}
    assert given_to(2, "auto", batch, root) == [{CUDA: "1"}, {CUDA: "1"}]


def test_slurms_list_does_not_hold_where_the_job_sees_only_its_own(make_machine):
    environ = {"SLURM_STEP_GPUS": "2,3"}
    got = given_to(2, "auto", environ, make_machine(nvidia=2))
    assert got == [{CUDA: "0"}, {CUDA: "1"}]


def test_no_gpu_anywhere_changes_nothing_and_is_said(make_machine):
    root = make_machine()
    assert given_to(2, "auto", {}, root) == [{}, {}]
    assert check_gpus("auto", {}, root).startswith("--gpus auto finds no GPU")


def test_gpus_that_are_found_need_no_words(make_machine):
    assert check_gpus("auto", {}, make_machine(nvidia=1)) == ""
    assert check_gpus("auto", {CUDA: "1"}, make_machine()) == ""


# ---- a number -----------------------------------------------------------------------


def test_a_number_takes_the_first_of_those_given(make_machine):
    got = given_to(3, "2", {CUDA: "5,3,1"}, make_machine())
    assert got == [{CUDA: "5"}, {CUDA: "3"}, {CUDA: "5"}]
    assert check_gpus("2", {CUDA: "5,3,1"}, make_machine()) == ""


def test_a_number_counts_from_0_where_none_were_given(make_machine):
    assert given_to(3, "2", {}, make_machine()) == [{CUDA: i} for i in ("0", "1", "0")]
    amd = make_machine(amd=1)
    assert given_to(3, "2", {}, amd) == [{ROCR: i} for i in ("0", "1", "0")]


@pytest.mark.parametrize(("value", "count"), [("5,3", "2"), ("", "0")])
def test_a_number_beyond_what_was_given_is_a_mistake_that_names_both(
    make_machine, value, count
):
    with pytest.raises(InputError, match=f"--gpus 3 .* the {count} that {CUDA}="):
        check_gpus("3", {CUDA: value}, make_machine())


def test_a_rank_with_fewer_than_the_number_shares_what_it_has(make_machine):
    # rank 0's were checked; another node may have been given fewer
    got = given_to(2, "3", {CUDA: "5"}, make_machine())
    assert got == [{CUDA: "5"}, {CUDA: "5"}]
