"""``--id-variable``: what each known variable counts from, and which are refused."""

import pytest

from mpifarm.errors import InputError
from mpifarm.lists.task_numbers import KNOWN_NUMBERS, parse_id_variable


def test_these_variables_of_other_tools_count_from_one_and_all_others_from_zero():
    from_one = {name for name, (_, first) in KNOWN_NUMBERS.items() if first == 1}
    assert from_one == {
        *("LAUNCHER_JID", "SGE_TASK_ID", "PBS_ARRAY_INDEX", "MOAB_JOBARRAYINDEX"),
        *("LSB_JOBINDEX", "OAR_ARRAY_INDEX", "PARALLEL_SEQ", "PARALLEL_JOBSLOT"),
    }
    assert {first for _, first in KNOWN_NUMBERS.values()} == {0, 1}


@pytest.mark.parametrize(
    ("word", "parsed"),
    [
        ("SGE_TASK_ID", ("SGE_TASK_ID", 1)),
        ("SGE_TASK_ID=0", ("SGE_TASK_ID", 0)),
        ("SLURM_PROCID", ("SLURM_PROCID", 0)),
        ("MINE", ("MINE", 0)),
        ("_x1=12", ("_x1", 12)),
        ("MINE=999999999", ("MINE", 999999999)),
    ],
)
def test_a_variable_counts_from_what_is_said_or_known(word, parsed):
    assert parse_id_variable(word) == parsed


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("1x", "takes NAME or NAME=FIRST"),
        ("A=", "takes NAME or NAME=FIRST"),
        ("A=-1", "takes NAME or NAME=FIRST"),
        ("A=1234567890", "takes NAME or NAME=FIRST"),
        ("PROC_NUMBER", "the farm sets that itself"),
        ("MPIFARM_TASK_ID", "the farm sets that itself"),
        ("PMI_RANK", "would take themselves for a part of the farm"),
        ("OMPI_COMM_WORLD_RANK", "would take themselves for a part of the farm"),
    ],
)
def test_what_no_task_may_get_is_refused(word, said):
    with pytest.raises(InputError, match=said):
        parse_id_variable(word)
