"""The batch systems: how one is found, and what their programs print."""

import itertools
from dataclasses import replace

import pytest

from mpifarm.submit.request import GoingOn, JobRequest, Source
from mpifarm.submit.slurm import find_clusters
from mpifarm.submit.systems import SYSTEMS, JobId, find_systems

SOURCE = Source(("tasks.txt",), "/home/me", "/home/me/tasks.txt_workdir", "/x", "")
REQUEST = JobRequest(seconds=60, nodes=1, source=SOURCE)


@pytest.mark.parametrize(
    ("system", "text", "job"),
    [
        ("slurm", "123\n", "123"),
        ("slurm", "", ""),
        ("slurm", "sbatch: error: no\n", ""),
        ("pbs", "123.server\n", "123.server"),
        ("pbs", "123[].server.site\n", "123[].server.site"),
        ("pbs", "welcome\n", ""),
        ("lsf", "Job <123> is submitted to default queue <normal>.\n", "123"),
        ("lsf", "No such queue\n", ""),
        ("sge", "123\n", "123"),
        ("sge", "123.1-4:1\n", "123"),
        ("sge", "Unable to run job\n", ""),
    ],
)
def test_the_job_is_found_in_what_is_printed(system, text, job):
    assert SYSTEMS[system].parse(text) == JobId(job)


def test_the_cluster_of_a_job_is_found_with_it():
    text = "sbatch: a word of the site\n123;east\n"
    assert SYSTEMS["slurm"].parse(text) == JobId("123", "east")


@pytest.mark.parametrize(
    ("programs", "environ", "found"),
    [
        ({"sbatch", "qsub"}, {}, "slurm pbs"),
        ({"qsub", "qconf", "bsub", "sbatch"}, {}, "slurm lsf sge"),
        ({"squeue"}, {}, "slurm"),
        ({"bsub"}, {}, "lsf"),
        ({"bjobs"}, {}, "lsf"),
        ({"qsub"}, {}, "pbs"),
        ({"qstat"}, {}, "pbs"),
        ({"qsub", "qconf"}, {}, "sge"),
        ({"qstat", "qconf"}, {}, "sge"),
        ({"qsub"}, {"SGE_ROOT": "/sge"}, "sge"),
        ({"qconf"}, {}, ""),
        (set(), {}, ""),
    ],
)
def test_the_batch_systems_are_told_by_their_programs(programs, environ, found):
    assert find_systems(programs, environ) == found.split()


@pytest.mark.parametrize(
    ("system", "job", "changes", "log", "cancel"),
    [
        ("slurm", "7", {}, "tail -F /home/me/tasks.txt_workdir/job-7.out", "scancel 7"),
        (
            *("slurm", "7", {"array": 3}),
            *("tail -F /home/me/tasks.txt_workdir/job-7_*.out", "scancel 7"),
        ),
        (
            *("slurm", "7", {"going_on": GoingOn.CHAIN, "name": "farm-1a"}),
            *("tail -F /home/me/tasks.txt_workdir/job-7.out", "scancel --name=farm-1a"),
        ),
        (
            *("pbs", "7.server", {}),
            *("tail -F /home/me/tasks.txt_workdir/job-7.out", "qdel 7.server"),
        ),
        (
            *("pbs", "7[].server", {"array": 2}),
            *("tail -F /home/me/tasks.txt_workdir/job-7_*.out", "qdel '7[].server'"),
        ),
        (
            *("pbs", "7", {"going_on": GoingOn.CHAIN, "name": "farm-1a"}),
            *(
                "tail -F /home/me/tasks.txt_workdir/job-7.out",
                "qdel $(qselect -N farm-1a)",
            ),
        ),
        ("lsf", "7", {}, "bpeek -f 7", "bkill 7"),
        ("lsf", "7", {"array": 2}, "bpeek -f '7[1]'", "bkill 7"),
        ("sge", "7", {}, "tail -F /home/me/farm.o7", "qdel 7"),
        ("sge", "7", {"array": 2}, "tail -F /home/me/farm.o7.*", "qdel 7"),
    ],
)
def test_the_commands_for_a_job(system, job, changes, log, cancel):
    commands = SYSTEMS[system].find_commands(JobId(job), replace(REQUEST, **changes))
    assert commands == (log, cancel)


@pytest.mark.parametrize(
    ("system", "name"),
    [*itertools.product(("slurm", "pbs"), ("a b", "it's", "$(x)"))],
)
def test_a_command_can_be_pasted_whatever_the_name_of_the_workdir(system, name):
    request = replace(REQUEST, source=SOURCE._replace(workdir=f"/{name}"))
    quoted = {"a b": "'/a b'", "it's": "'/it'\"'\"'s'", "$(x)": "'/$(x)'"}[name]
    log = SYSTEMS[system].find_commands(JobId("7"), request).log
    assert log == f"tail -F {quoted}/job-7.out"


def test_where_slurm_chooses_the_name_of_the_output_so_does_the_command():
    request = replace(REQUEST, source=SOURCE._replace(workdir="/a\\b"))
    assert (
        SYSTEMS["slurm"].find_commands(JobId("7"), request).log == "tail -F slurm-7.out"
    )


OUTPUTS = ("--output=x.out", '"--output=x y"', "-o x.out", "-ox", "--out=x")


@pytest.mark.parametrize("word", OUTPUTS)
def test_the_output_that_a_user_chose_is_asked_of_slurm(word):
    request = replace(REQUEST, directives=(word,))
    log = SYSTEMS["slurm"].find_commands(JobId("7"), request).log
    assert log == "scontrol show job 7 | grep StdOut"


@pytest.mark.parametrize(
    ("system", "log"),
    [
        ("pbs", "qstat -f 7 | grep -A 1 Output_Path"),
        ("sge", "qstat -j 7 | grep stdout_path_list"),
        ("lsf", "bpeek -f 7"),
    ],
)
def test_the_output_that_a_user_chose_is_asked_of_the_others(system, log):
    request = replace(REQUEST, cpus=1, directives=("-l x=1 -o there",))
    assert SYSTEMS[system].find_commands(JobId("7"), request).log == log
    assert "exec >>" not in SYSTEMS[system].write(request)


@pytest.mark.parametrize(
    ("changes", "log", "cancel"),
    [
        ({}, "tail -F /home/me/tasks.txt_workdir/job-7.out", "scancel -M east 7"),
        (
            {"going_on": GoingOn.CHAIN, "name": "farm-1a"},
            "tail -F /home/me/tasks.txt_workdir/job-7.out",
            "scancel -M east --name=farm-1a",
        ),
        (
            {"directives": ("-o x", "-M east,west")},
            "scontrol -M east show job 7 | grep StdOut",
            "scancel -M east 7",
        ),
    ],
)
def test_the_commands_for_a_job_on_another_cluster_name_it(changes, log, cancel):
    request = replace(REQUEST, **changes)
    commands = SYSTEMS["slurm"].find_commands(JobId("7", "east"), request)
    assert commands == (log, cancel)


@pytest.mark.parametrize(
    ("directive", "look"),
    [
        ("--mem=4G", 'squeue -u "$USER"'),
        ("--clusters=east,west", 'squeue -M east,west -u "$USER"'),
        ("-C knl -M east", 'squeue -M east -u "$USER"'),
        ("-Meast", 'squeue -M east -u "$USER"'),
        ('"--clusters=far west"', "squeue -M 'far west' -u \"$USER\""),
        ('"--comment=no end', 'squeue -u "$USER"'),
    ],
)
def test_jobs_are_looked_for_on_the_clusters_of_the_directives(directive, look):
    assert SYSTEMS["slurm"].look(find_clusters([directive])) == look
