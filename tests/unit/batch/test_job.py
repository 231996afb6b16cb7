"""`find_job`: the batch system's name for the job of this process."""

import pytest

from mpifarm.batch.job import find_job


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, ("slurm", "7")),
        ({"SLURM_JOBID": "7"}, ("slurm", "7")),
        (
            {
                "SLURM_JOB_ID": "9",
                "SLURM_ARRAY_JOB_ID": "7",
                "SLURM_ARRAY_TASK_ID": "2",
            },
            ("slurm", "7_2"),
        ),
        ({"PBS_JOBID": "7.server"}, ("pbs", "7.server")),
        ({"LSB_JOBID": "7"}, ("lsf", "7")),
        ({"FLUX_JOB_ID": "f7"}, ("flux", "f7")),
        ({"OAR_JOB_ID": "7"}, ("oar", "7")),
        ({"COBALT_JOBID": "7"}, ("cobalt", "7")),
        ({"JOB_ID": "7"}, None),
        ({"JOB_ID": "7", "SGE_TASK_ID": "undefined"}, ("sge", "7")),
    ],
)
def test_the_job_of_a_process(environ, job):
    assert find_job(environ) == job
