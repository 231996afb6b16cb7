"""When a job ends: what batch systems answer, and what is made of it.

Rules of this file: answers as the commands print them; those of PBS and LSF are from
their documentation.  No process: the one that is asked is a fake.
"""

import math
import time
from datetime import datetime

import pytest

from mpifarm.batch.job_end import (
    clean_environment,
    find_question,
    parse_bjobs,
    parse_qstat,
    parse_squeue,
)
from mpifarm.coordinator.walltime import Walltime
from mpifarm.farm import job_end as job_end_module
from mpifarm.farm.job_end import ANSWER_SECONDS, JobEnd, describe_time

ASKED = datetime(2026, 11, 29, 14, 0, 0).timestamp()  # noqa: DTZ001 - local, as theirs


def at(*fields):
    return datetime(*fields).timestamp()  # noqa: DTZ001 - local, as theirs


# ---- Slurm ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "seconds"),
    [
        ("32:05", 1925),
        ("0:07", 7),
        ("3:59:50", 14390),
        ("1-00:00:01", 86401),
        ("7-12:30:00", 649800),
    ],
)
def test_slurm_says_how_much_time_is_left(left, seconds):
    text = f"17|{left}|2026-11-29T23:00:00\n"
    assert parse_squeue(text, ASKED, job="17") == ASKED + seconds


def test_a_job_of_slurm_may_have_no_limit():
    assert parse_squeue("17|UNLIMITED|N/A\n", ASKED, job="17") == math.inf
    # what the backfill scheduler makes of it
    text = "17|364-23:59:58|2027-11-29T14:32:00\n"
    assert parse_squeue(text, ASKED, job="17") == math.inf


@pytest.mark.parametrize("left", ["INVALID", "NOT_SET", "N/A", ""])
def test_where_slurm_says_no_time_left_its_end_counts(left):
    text = f"17|{left}|2026-11-29T14:32:00\n"
    assert parse_squeue(text, ASKED, job="17") == at(2026, 11, 29, 14, 32)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "slurm_load_jobs error: Invalid job id specified\n",
        "17|N/A|N/A\n",
        "17|NOT_SET|NONE\n",
        "17|INVALID|Unknown\n",
        "17|soon|2026-99-99T00:00:00\n",
        "17|1:2:3:4|99999-01-01T00:00:00\n",
        "\x00\x1b[31m|||\n",
        "17|" + "9" * 400 + "|x\n",
    ],
)
def test_an_answer_of_slurm_that_does_not_tell_is_none(text):
    assert parse_squeue(text, ASKED, job="17") is None


def test_among_the_tasks_of_an_array_slurm_is_asked_about_this_one():
    text = "18|10:00|x\n17|20:00|x\n19|5:00|x\n"
    assert parse_squeue(text, ASKED, job="17") == ASKED + 1200


def test_words_around_the_answer_of_slurm_change_nothing():
    text = "squeue: warning: a backup answers\n17|20:00|x\nbye\n"
    assert parse_squeue(text, ASKED, job="17") == ASKED + 1200


def test_where_no_line_is_of_the_job_the_earliest_end_counts():
    assert parse_squeue("18|10:00|x\n19|5:00|x\n", ASKED, job="17") == ASKED + 300


# ---- PBS -----------------------------------------------------------------------------

OPENPBS = """\
Job Id: 7.server
    Job_Name = farm
    job_state = R
    exec_host = n1/0*4+n2/0*4+n3/0*4+n4/0*4+n5/0*4+n6/0*4
\t+n7/0*4
    Resource_List.ncpus = 28
    Resource_List.walltime = 04:00:00
    stime = Sun Nov 29 13:30:00 2026
    Variable_List = PBS_O_HOME=/home/u,PBS_O_LANG=C,
\tPBS_O_WORKDIR=/home/u/stime = no
"""

TORQUE = """\
Job Id: 7.server
    job_state = R
    Resource_List.walltime = 1:02:00:00
    start_time = Sun Nov  8 13:30:00 2026
    Walltime.Remaining = 3600
"""


def test_pbs_says_the_start_and_the_limit():
    assert parse_qstat(OPENPBS, ASKED) == at(2026, 11, 29, 17, 30)


def test_torque_calls_the_start_otherwise_and_counts_days():
    assert parse_qstat(TORQUE, ASKED) == at(2026, 11, 9, 15, 30)


def test_torque_may_only_say_what_is_left():
    text = TORQUE.replace("start_time = Sun Nov  8 13:30:00 2026", "start_time =")
    assert parse_qstat(text, ASKED) == ASKED + 3600


def test_a_job_of_pbs_may_have_no_limit():
    text = OPENPBS.replace("    Resource_List.walltime = 04:00:00\n", "")
    assert parse_qstat(text, ASKED) == math.inf


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("04:00:00", "long"),
        ("04:00:00", "1:2:3:4:5"),
        ("04:00:00", "9" * 400),
        ("Sun Nov 29 13:30:00 2026", "yesterday"),
        ("Sun Nov 29 13:30:00 2026", "Sun Nov 39 13:30:00 2026"),
        ("Sun Nov 29 13:30:00 2026", "Son Mär 29 13:30:00 2026"),
    ],
)
def test_an_answer_of_pbs_that_does_not_tell_is_none(old, new):
    assert parse_qstat(OPENPBS.replace(old, new), ASKED) is None


@pytest.mark.parametrize("text", ["", "qstat: Unknown Job Id 7.server\n", "a = b\n"])
def test_words_of_pbs_that_are_no_job_tell_nothing(text):
    assert parse_qstat(text, ASKED) is None


# ---- LSF -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("Nov 29 18:15 L\n", (2026, 11, 29, 18, 15)),
        ("Nov 29 18:15 X\n", (2026, 11, 29, 18, 15)),
        ("Dec  1 08:05 L\n", (2026, 12, 1, 8, 5)),
        ("Nov 29 18:15:20 2026 L\n", (2026, 11, 29, 18, 15, 20)),
        ("Nov 29 18:15 2026 L\n", (2026, 11, 29, 18, 15)),
        ("Jan  3 00:10 L\n", (2027, 1, 3, 0, 10)),
    ],
)
def test_lsf_says_when_a_job_is_killed(text, end):
    assert parse_bjobs(text, ASKED) == at(*end)


def test_a_job_of_lsf_may_have_no_limit():
    assert parse_bjobs("-\n", ASKED) == math.inf


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Nov 29 18:15 E\n",
        "Job <7> is not found\n",
        "Feb 30 10:00 L\n",
        "Abc 29 10:00 L\n",
        "bjobs: illegal option -- o\n",
    ],
)
def test_an_estimate_or_an_error_of_lsf_is_no_end(text):
    assert parse_bjobs(text, ASKED) is None


# ---- who is asked --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"SLURM_JOB_ID": "17"}, ["squeue", "--jobs=17"]),
        ({"SLURM_JOBID": "17"}, ["squeue", "--jobs=17"]),
        ({"PBS_JOBID": "7[3].server"}, ["qstat", "7[3].server"]),
        ({"LSB_JOBID": "7"}, ["bjobs", "7"]),
        ({"LSB_JOBID": "7", "LSB_JOBINDEX": "0"}, ["bjobs", "7"]),
        ({"LSB_JOBID": "7", "LSB_JOBINDEX": "3"}, ["bjobs", "7[3]"]),
    ],
)
def test_the_batch_system_of_the_job_is_asked_about_this_job(environ, words):
    question = find_question(environ)
    assert question is not None
    assert set(words) <= set(question.argv)
    assert question.argv[0] == words[0]


@pytest.mark.parametrize(
    ("environ", "job", "line"),
    [
        (
            *({"SLURM_JOB_ID": "17"}, "Slurm job 17"),
            "squeue --noheader --jobs=17 --format=%A|%L|%e",
        ),
        ({"PBS_JOBID": "7.server"}, "PBS job 7.server", "qstat -f 7.server"),
        (
            *({"LSB_JOBID": "7", "LSB_JOBINDEX": "3"}, "LSF job 7[3]"),
            "bjobs -noheader -o finish_time 7[3]",
        ),
        ({"JOB_ID": "7", "SGE_TASK_ID": "1"}, "Grid Engine job 7", ""),
        ({"FLUX_JOB_ID": "f7"}, "Flux job f7", ""),
        ({"OAR_JOB_ID": "7"}, "OAR job 7", ""),
        ({"COBALT_JOBID": "7"}, "Cobalt job 7", ""),
    ],
)
def test_the_question_is_the_command_whose_answer_is_understood(environ, job, line):
    question = find_question(environ)
    assert question is not None
    assert (question.job, " ".join(question.argv)) == (job, line)


@pytest.mark.parametrize(
    ("days", "has_limit"), [("300-00:00:00", True), ("301-00:00:00", False)]
)
def test_a_limit_of_slurm_that_is_most_of_a_year_is_none(days, has_limit):
    end = parse_squeue(f"17|{days}|x\n", ASKED, job="17")
    assert end is not None
    assert math.isfinite(end) is has_limit


@pytest.mark.parametrize("month", range(1, 13))
def test_each_month_is_known(month):
    begun = datetime(2026, month, 15, 13, 30).strftime("%b %d")  # noqa: DTZ001
    text = OPENPBS.replace("Nov 29", begun)
    assert parse_qstat(text, ASKED) == at(2026, month, 15, 17, 30)


def test_outside_of_a_job_nobody_is_asked():
    assert find_question({"JOB_ID": "7", "SLURM_CONF": "x", "PBS_SERVER": "y"}) is None


def test_variables_that_change_squeues_words_are_not_passed_on():
    given = {"SQUEUE_STATES": "PD", "SLURM_TIME_FORMAT": "relative", "SLURM_CONF": "x"}
    assert clean_environment(given) == {"SLURM_CONF": "x"}


# ---- the answer ----------------------------------------------------------------------


class FakeInquiry:
    """Answers at the `after`-th look."""

    text = "17|32:05|x\n"
    after = 2

    def __init__(self, argv, env):
        self.looks = 0
        self.is_ended = False

    def collect(self):
        self.looks += 1
        return self.text if self.looks >= self.after else None

    def end(self):
        self.is_ended = True


@pytest.fixture
def now(monkeypatch):
    """The monotonic time; both clocks stand still."""
    now, wall = time.monotonic(), time.time()
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.time", lambda: wall)
    return now


@pytest.fixture
def ask(monkeypatch):
    """A `JobEnd` in a Slurm job that gets this answer."""

    def create(text="17|32:05|x\n", after=2):
        fake = type("Fake", (FakeInquiry,), {"text": text, "after": after})
        monkeypatch.setattr(job_end_module, "Inquiry", fake)
        return JobEnd(None, {"SLURM_JOB_ID": "17"})

    return create


def test_the_answer_is_taken_in_when_it_comes_and_told_once(ask, now):
    end = ask()
    assert end.is_open
    assert (end.poll(now), end.deadline, end.take_news()) == (False, math.inf, [])
    assert end.poll(now)
    assert not end.is_open
    assert end.deadline == pytest.approx(now + 1925)
    (sentence,) = end.take_news()
    assert sentence.startswith("the job ends at ")
    assert end.take_news() == []


def test_an_answer_that_never_comes_is_given_up_and_told(ask, now):
    end = ask(after=10**6)
    assert not end.poll(now + ANSWER_SECONDS - 5)
    assert end.poll(now + ANSWER_SECONDS + 5)
    assert not end.is_open
    assert end.deadline == math.inf
    (sentence,) = end.take_news()
    assert "ends (squeue: no answer in 60 s)" in sentence
    assert "--deadline" in sentence


def test_why_the_end_is_not_known_is_told_without_control_characters(ask):
    end = ask("\n\x1b[31mInvalid job id\n", after=1)
    assert end.poll(time.monotonic())
    assert "(squeue: ?[31mInvalid job id)" in end.take_news()[0]


def test_a_job_without_a_limit_is_told_and_has_no_deadline(ask):
    end = ask("17|UNLIMITED|N/A\n", after=1)
    assert end.poll(time.monotonic())
    assert end.take_news() == ["Slurm job 17 has no time limit"]
    assert end.deadline == math.inf


def test_who_has_said_the_end_is_not_asked_again(now):
    end = JobEnd(time.time() + 3600, {"SLURM_JOB_ID": "17"})
    assert not end.is_open
    assert end.deadline == pytest.approx(now + 3600)
    assert end.take_news()[0].startswith("the job ends at ")


def test_no_end_said_by_the_user_is_neither_asked_nor_told():
    end = JobEnd(math.inf, {"SLURM_JOB_ID": "17"})
    assert (end.is_open, end.deadline, end.take_news()) == (False, math.inf, [])


def test_outside_of_a_job_nothing_is_said():
    end = JobEnd(None, {})
    assert (end.is_open, end.deadline, end.take_news()) == (False, math.inf, [])


def test_a_batch_system_that_is_not_asked_is_told_with_the_remedy():
    end = JobEnd(None, {"JOB_ID": "7", "SGE_TASK_ID": "undefined"})
    assert not end.is_open
    assert "--deadline" in end.take_news()[0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1925, "14:32, in 32:05 min"), (-60, "13:59, now past")],
)
def test_the_end_is_told_as_people_say_it(seconds, words):
    assert describe_time(ASKED + seconds, ASKED) == words


def test_an_end_on_another_day_is_told_with_the_day():
    said = describe_time(ASKED + 86400 * 3, ASKED)
    assert said == "14:00 on 2026-12-02, in 3 days"
    assert describe_time(ASKED + 86400, ASKED) == "14:00 on 2026-11-30, in 24:00:00 h"


def test_an_end_beyond_all_calendars_is_told_all_the_same():
    assert "since 1970" in describe_time(1e30, ASKED)


# ---- what the coordinator makes of it ------------------------------------------------


def test_tasks_that_end_before_the_answer_teach_what_a_task_takes():
    walltime = Walltime(None, 2.0, None)
    assert not walltime.learns
    walltime.expect_deadline()
    assert walltime.learns
    walltime.note(20.0)
    walltime.set_deadline(100.0)
    assert walltime.stop_at == 94.0
    assert not walltime.is_too_late(60.0)
    assert walltime.is_too_late(75.0)


def test_where_no_end_comes_out_nothing_more_is_learnt():
    walltime = Walltime(None, 2.0, None)
    walltime.expect_deadline()
    walltime.set_deadline(math.inf)
    assert not walltime.learns
    assert not walltime.is_too_late(1e12)


# ---- bounds --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "14:00, now past"),
        (1, "14:00, in 1 s"),
        (43_199, "01:59, in 11:59:59 h"),
        (43_200, "02:00 on 2026-11-30, in 12:00:00 h"),
        (172_800, "14:00 on 2026-12-01, in 48:00:00 h"),
        (172_801, "14:00 on 2026-12-01, in 2 days"),
        (-43_200, "02:00 on 2026-11-29, now past"),
    ],
)
def test_a_time_is_told_with_its_day_from_half_a_day_on(seconds, words):
    assert describe_time(ASKED + seconds, ASKED) == words


def test_an_answer_is_waited_for_to_the_second_and_its_program_is_ended(
    ask, monkeypatch
):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    end = ask(after=10**6)
    inquiry = end._inquiry
    assert isinstance(inquiry, FakeInquiry)
    assert end.is_unknown
    assert not end.poll(now + ANSWER_SECONDS - 0.001)
    assert not inquiry.is_ended
    assert end.poll(now + ANSWER_SECONDS)
    assert inquiry.is_ended
    assert end.poll(now + ANSWER_SECONDS + 1)
    assert len(end.take_news()) == 1
    assert end.is_unknown


def test_a_program_that_can_not_be_started_is_told(monkeypatch):
    def fail(argv, env):
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr(job_end_module, "Inquiry", fail)
    end = JobEnd(None, {"SLURM_JOB_ID": "17"})
    assert not end.is_open
    assert "(squeue: No such file or directory)" in end.take_news()[0]


def test_an_end_that_is_known_is_not_unknown(ask):
    end = ask(after=1)
    end.poll(time.monotonic())
    assert not end.is_unknown
    assert not JobEnd(math.inf, {}).is_unknown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "an empty answer"),
        (" \n\t\n", "an empty answer"),
        ("\n  first  \nsecond", "first"),
        ("a\x1bb", "a?b"),
    ],
)
def test_the_first_line_of_an_answer_is_told(text, line):
    assert job_end_module._first_line(text) == line
