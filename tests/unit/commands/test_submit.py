"""The command line of ``mpifarm submit`` and ``mpifarm jobs``, without a process.

Rules of this file: tests/process and tests/slurm submit; here it is what is refused,
and that nothing is written then.
"""

import errno
import io
import os
import shlex
import tempfile

import pytest

from mpifarm.commands import jobs, made_list, submit
from mpifarm.commands.dry_run import describe_dry_run
from mpifarm.commands.made_list import MadeList
from mpifarm.commands.options import parse_arguments
from mpifarm.commands.submit_words import name_command, warn_of_own_directory
from mpifarm.errors import InputError, StorageError
from mpifarm.farm.standard_input import keep_list
from mpifarm.model.settings import Settings
from mpifarm.submit import slurm
from mpifarm.submit.samples import DESCRIPTIONS, write_samples
from mpifarm.submit.systems import JobId
from mpifarm.system.console import Console
from tests.pages import read_page, take_block

VALUES = dict.fromkeys(["-N", "--nodes", "-t", "--time", "--directive"], True)
VALUES |= {"--print": False, "--until-done": False}


PRINTED: list[bytes] = []
"""What went to standard output as bytes."""


class Recorder(Console):
    """Keeps what is printed."""

    def __init__(self):
        super().__init__(prints=False)
        self.text = ""

    def print_line(self, line):
        self.text += f"{line}\n"

    def print_error(self, line, *, has_time=True):
        self.print_line(line)

    def print_text(self, text):
        self.text += text


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A directory with a list, where no batch system is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "write_all", PRINTED.extend)
    PRINTED.clear()
    (tmp_path / "tasks.txt").write_text("true\ntrue\n")
    (tmp_path / "bin").mkdir()
    return tmp_path


def run(desk, *words):
    console = Recorder()
    environ = {"PATH": str(desk / "bin"), "HOME": str(desk)}
    assert submit.main([*words], console, environ) == 0
    return console.text + b"".join(PRINTED).decode("utf-8", "surrogateescape")


def refuse(desk, *words):
    before = sorted(path for path in desk.rglob("*"))
    with pytest.raises(InputError) as error:
        run(desk, *words)
    assert sorted(path for path in desk.rglob("*")) == before
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("line", "front", "passed_on", "farm"),
    [
        ("tasks.txt", "", "", "tasks.txt"),
        ("-N 2 tasks.txt -n 4", "-N 2", "", "tasks.txt -n 4"),
        ("-N2 tasks.txt -N 3", "-N2", "", "tasks.txt -N 3"),
        ("--nodes=2 --print t", "--nodes=2 --print", "", "t"),
        ("--mem=16G -t 9 --gres=gpu:2 t", "-t 9", "--mem=16G --gres=gpu:2", "t"),
        ("--directive --x=y t", "--directive=--x=y", "", "t"),
        ("--until-done -- --list -v", "--until-done", "", "--list -v"),
        ("--until-done", "--until-done", "", ""),
        ("-N", "-N", "", ""),
        ("- -w d", "", "", "- -w d"),
        ("-x t", "-x", "", "t"),
        ("-N 2 x {} ::: a -N 3", "-N 2", "", "x {} ::: a -N 3"),
        ("-n 4 -N 2 x ::: a", "-N 2", "", "-n 4 x ::: a"),
        ("-n4 --mem=1G -t 5 x :::: f", "-t 5", "--mem=1G", "-n4 x :::: f"),
        ("--retries 2 -v --print x ::: a", "--print", "", "--retries 2 -v x ::: a"),
        ("--retries=2 -t 5 -- -x ::: a", "-t 5", "", "--retries=2 -- -x ::: a"),
        ("-N 2 ::: a", "-N 2", "", "::: a"),
        ("-N 2 --retries 2 x:::", "-N 2 --retries", "", "2 x:::"),
    ],
)
def test_the_list_parts_the_job_from_the_farm(line, front, passed_on, farm):
    words = submit.split_words(line.split(), VALUES)
    assert words == (front.split(), passed_on.split(), farm.split())


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "no tasklist is given: name it behind the options of the job"),
        ("-N 2", "no tasklist is given"),
        ("-N 0 tasks.txt", "-N takes a number, 1 or more, not '0'"),
        ("-N 1-4 tasks.txt", "-N takes a number, 1 or more, not '1-4'"),
        ("-c x tasks.txt", "-c takes a number, 1 or more, not 'x'"),
        ("--array 0 tasks.txt", "--array takes the number of jobs, as 5, not '0'"),
        ("--array=1-5 tasks.txt", "takes the number of jobs, as 5, not '1-5'"),
        ("-t 5 tasks.txt --print", "--print must stand before the list: mpifarm"),
        ("-t 5 tasks.txt -n 4 --array=3", "--array must stand before the list"),
        ("tasks.txt -J name", "-J must stand before the list"),
        ("-t soon tasks.txt", "-t takes a time, as 4:00:00, 1-12:00:00, 90m or 1h30m"),
        ("-t 30s tasks.txt", "-t 30 s is too short for a job"),
        ("--scheduler moab tasks.txt", "takes slurm, pbs, lsf or sge, not 'moab'"),
        ("-n 4 tasks.txt", "it is one of the farm, and stands behind the list"),
        ("-w d tasks.txt", "it is one of the farm, and stands behind the list"),
        ("--retries=3 --print tasks.txt", "--retries is an option of the farm"),
        ("--tiem=3 --print tasks.txt", "did you mean --time?  For one of the batch"),
        ("--mem=3 --scheduler pbs --print tasks.txt", "give --directive --mem=3 with"),
        ("--until tasks.txt", "no option --until, did you mean --until-done?"),
        ("--dry-run tasks.txt", "no option --dry-run: --print prints the job's script"),
        ("-t 5 tasks.txt --retrys 2", "no option --retrys, did you mean --retries?"),
        ("-t 5 tasks.txt other.txt", "'other.txt' is one word too many"),
        ("-t 5 missing.txt", "missing.txt: there is no such file"),
        (
            "-t 5 --retrys 2 x ::: a",
            "--retrys, did you mean the farm's --retries?",
        ),
        ("-t 5 /dev/fd/63", "/dev/fd/63 will be gone when the job starts: write the"),
        ("-t 5 /dev/fd/63 -w d", "/dev/fd/63 will be gone when the job starts"),
        ("-t 5 tasks.txt -r none", "none"),
        ("-t 5 empty.txt", "empty.txt has no tasks: there is nothing to do"),
        ("-t 5 broken.txt", "line 1 of broken.txt"),
        ("-t 5 tasks.txt -w no/such/dir", "there is no"),
        ("-t 5 tasks.txt -w bin/x/y", "there is no"),
        (
            "-t 5 tasks.txt --chdir no/such",
            "run commands in no/such: No such file",
        ),
        ("-t 5 tasks.txt --chdir empty.txt", "in empty.txt: Not a directory"),
        ("-t 5 tasks.txt --durations none", "can't read none (--durations)"),
        ("-t 5 tasks.txt --durations tasks.txt", "tasks.txt line 1 (--durations)"),
        ("-t 5 tasks.txt --hook Nope", "Nope"),
        ("-t 5 tasks.txt --config hooks.ini --hook mine", "can't be imported"),
        ("-t 5 tasks.txt --events no/such/x", "there is no directory"),
        ("-t 5 tasks.txt --metrics tasks.txt", "is the tasklist itself"),
        ("-t 5 tasks.txt --tasklist greasy --follow", "--follow waits for lines in a"),
        ("-t 5 tasks.txt", "no batch system is here (no sbatch, qsub or bsub)"),
        ("--scheduler sge -t 5 -c 1 tasks.txt", "there is no qsub here, by which Grid"),
        ("-N 2 -t 5 --print tasks.txt --mpi off", "leave it out, or submit --array 2"),
        ("--print tasks.txt", "no time limit is known"),
        ("-t 5 x {} ::: a --print", "--print stands behind :::, where all words are"),
        ("-t 5 x {} ::: a --help", "--help stands behind :::"),
        ("-t 5 x {} ::: a --until-done", "--until-done stands behind :::, where all"),
        ("-t 5 x {} ::: a --array=3", "--array stands behind :::, where all words are"),
        ("-t 5 -M east tasks.txt", "give --directive '-M ...'"),
        ("-t 5 --exclusive tasks.txt", "give --directive --exclusive"),
        ("-t 5 --requeue tasks.txt", "give --directive --requeue"),
        ("-t 5 --mem 4G tasks.txt", "no option --mem: write its value behind a ="),
        ("tasks.txt --time=10", "--time must stand before the list: mpifarm submit"),
        ("-t 5 tasks.txt --mem=4G", "--mem must stand before the list: mpifarm submit"),
        (
            "tasks.txt -t 4:00:00",
            "stands before it: mpifarm submit -t 4:00:00 ...",
        ),
        ("-t 5 x {%} ::: a", "$MPIFARM_WORKER"),
        (
            "-t 5 x :::: missing.txt",
            "can't read missing.txt, which is to",
        ),
        (
            "-t 5 --print x :::: empty",
            "behind :::: is empty, and nothing to submit",
        ),
        ("-t 5 -w no/such/dir x ::: a", "there is no"),
        ("-t 5 -N 2 --mpi off --print x ::: a", "leave it out, or submit --array 2"),
        ("-t 5 --tiem 3 x ::: a", "no option --tiem, did you mean --time?"),
        ("-t 5 --retries x x ::: a", "--retries takes"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(desk, line, sentence):
    (desk / "empty.txt").write_text("# nothing\n")
    (desk / "empty").touch()
    (desk / "broken.txt").write_text("#AFTER 7\ntrue\n")
    (desk / "hooks.ini").write_text("[mine]\nHook = no_module.Mine\n")
    assert sentence in refuse(desk, *line.split())


def test_a_command_in_place_of_a_list_is_told_how_it_runs(desk):
    sentence = refuse(desk, "-t", "5", "echo hello")
    assert "echo hello: there is no such file; to run it as a command, write :::" in (
        sentence
    )


def test_a_temporary_directory_that_is_full_is_told(desk, monkeypatch):
    made = MadeList(parse_arguments(["x", ":::", "a"], {}), {})
    monkeypatch.setattr(tempfile, "tempdir", str(desk / "none"))
    with pytest.raises(StorageError, match="can't write"), made.as_file():
        pass


def test_a_list_that_was_edited_since_it_was_begun_is_refused(desk):
    begin_list(desk, "true", "false")
    sentence = refuse(desk, "-t", "5", "--print", "tasks.txt")
    assert "the tasklist was edited since" in sentence
    run(desk, "-t", "5", "--print", "tasks.txt", "--remap")


def begin_list(desk, *tasks):
    from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint

    workdir = desk / "tasks.txt_workdir"
    workdir.mkdir()
    content = encode_fingerprint(take_fingerprint([*tasks]))
    (workdir / "fingerprint.json").write_bytes(content)
    (workdir / "toprocess").write_text(
        "".join(f"{n} {t}\n" for n, t in enumerate(tasks))
    )


def test_a_list_without_work_is_not_submitted_and_what_is_left_is_told(desk):
    begin_list(desk, "true", "true")
    workdir = desk / "tasks.txt_workdir"
    sbatch = desk / "bin" / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 7\n")
    sbatch.chmod(0o755)
    (workdir / "toprocess").write_text("")
    (workdir / "finished").write_text("0 true\n")
    (workdir / "failed").write_text("1 true\n")
    sentence = refuse(desk, "-t", "5", "tasks.txt")
    assert sentence == (
        "all 2 tasks of tasks.txt have ended, 1 of them failed: mpifarm retry tasks.txt"
        " puts these back, then submit the list again"
    )
    assert "set -- tasks.txt\n" in run(desk, "-t", "5", "--print", "tasks.txt")
    run(desk, "-t", "5", "--after", "any:6", "tasks.txt")
    run(desk, "-t", "5", "tasks.txt", "--follow")
    (workdir / "failed").write_text("")
    (workdir / "toprocess").write_text("1 true\n")
    assert ": 1 of 2 tasks of tasks.txt\n" in run(desk, "-t", "5", "tasks.txt")
    (workdir / "toprocess").write_text("")
    (workdir / "finished").write_text("0 true\n1 true\n")
    assert refuse(desk, "-t", "5", "tasks.txt") == (
        "all 2 tasks of tasks.txt are finished: there is nothing to submit (--again"
        " behind the list starts all of them again)"
    )
    (desk / "tasks.txt").write_text("true\ntrue\ntrue\n")
    assert ": 1 of 3 tasks of tasks.txt\n" in run(desk, "-t", "5", "tasks.txt")


@pytest.mark.parametrize(
    ("scheduler", "program", "answer", "directive"),
    [
        ("slurm", "sbatch", "7", "-d afterany:6"),
        ("pbs", "qsub", "7.server", "-W depend=afterany:6"),
        ("lsf", "bsub", "Job <7> is submitted to queue <normal>.", "-w 'ended(6)'"),
        ("sge", "qsub", "7", "-hold_jid 6"),
    ],
)
def test_a_job_that_waits_for_another_needs_no_task_that_is_left(
    desk, scheduler, program, answer, directive
):
    begin_list(desk, "true", "true")
    (desk / "tasks.txt_workdir" / "toprocess").write_text("")
    (desk / "tasks.txt_workdir" / "finished").write_text("0 true\n1 true\n")
    path = desk / "bin" / program
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    words = ("--scheduler", scheduler, "-t", "5", "-c", "1")
    assert "there is nothing to submit" in refuse(desk, *words, "tasks.txt")
    assert "job 7" in run(desk, *words, "--directive", directive, "tasks.txt")


def test_an_added_line_that_may_be_half_written_is_as_at_a_start(desk):
    begin_list(desk, "true", "true")
    (desk / "tasks.txt").write_text("true\ntrue\n#AFTER 9")
    run(desk, "-t", "5", "--print", "tasks.txt")
    (desk / "tasks.txt").write_text("true\ntrue\ntr")
    words = ("-t", "5", "--print", "tasks.txt")
    run(desk, *words)
    assert "may be half written" in refuse(desk, *words, "--tasklist", "greasy")


def test_to_see_a_script_writes_nothing(desk):
    before = sorted(desk.rglob("*"))
    text = run(desk, "-N", "8", "-t", "4h", "--print", "tasks.txt", "--grace", "7")
    assert text.startswith("#!/bin/bash\n# Written by: mpifarm submit -N 8 -t 4h ")
    assert "\nset -- tasks.txt --grace 7\n" in text
    assert sorted(desk.rglob("*")) == before


def test_the_script_for_arguments_farms_the_list_that_they_make(desk):
    before = sorted(desk.rglob("*"))
    words = ("-N", "8", "-t", "4h", "--retries", "1", "--print", "--mem=9G")
    text = run(desk, *words, "-w", "run 1", "echo {}", ":::", "a b", "it's")
    assert "\n#SBATCH --mem=9G\n" in text
    assert "\nset -- 'run 1/stdin.txt' --retries 1 -w 'run 1'\n" in text
    assert "this script farms run 1/stdin.txt, which is not there yet: mpifarm" in text
    assert sorted(desk.rglob("*")) == before


def test_many_arguments_make_no_long_script(desk):
    numbers = [f"{number:05}" for number in range(2000)]
    text = run(desk, "-t", "5", "--print", "echo", ":::", *numbers)
    assert max(map(len, text.splitlines())) < 1100


def test_the_list_of_arguments_is_shown_by_its_first_task(desk):
    settings = parse_arguments(["x {} >{#}", ":::", "a b", "c"], {})
    made = MadeList(settings, {})
    assert (made.first, made.rest, made.is_kept) == ("x 'a b' >1", 0, False)
    (desk / "mpifarm_workdir").mkdir()
    (desk / "mpifarm_workdir" / "stdin.txt").write_text("x 'a b' >1\n")
    made = MadeList(settings, {})
    assert (made.rest, made.is_kept) == (0, False)
    (desk / "mpifarm_workdir" / "stdin.txt").write_text("x 'a b' >1\nx c >2\ny\nz\n")
    made = MadeList(settings, {})
    assert (made.rest, made.is_kept) == (2, True)
    (desk / "mpifarm_workdir" / "stdin.txt").write_text("y\n")
    assert "line 1 is 'y' there" in refuse(desk, "-t", "5", "x", ":::", "a")


def test_the_beginning_of_a_list_is_a_list_for_again(desk):
    (desk / "mpifarm_workdir").mkdir()
    (desk / "mpifarm_workdir" / "stdin.txt").write_text("x a\nx c\n")
    for line, rest in (["x", ":::", "a"], 1), (["--again", "x", ":::", "a"], 0):
        made = MadeList(parse_arguments(line, {}), {})
        assert (made.rest, made.is_kept) == (rest, rest > 0)


def test_an_empty_file_of_arguments_submits_no_other_list(desk):
    (desk / "empty").touch()
    for is_there in (False, True):
        if is_there:
            (desk / "mpifarm_workdir").mkdir()
            (desk / "mpifarm_workdir" / "stdin.txt").write_text("echo a\n")
        told = refuse(desk, *FORM, "rm", "::::", "empty")
        assert told.startswith("there are no tasks: all that stands behind ::::")
        settings = parse_arguments(["--dry-run", "rm", "::::", "empty"], {})
        assert "there are no tasks: all" in describe_dry_run(settings, {})


def test_a_list_that_was_begun_keeps_the_tasks_of_a_job_that_is_refused(desk):
    workdir = desk / "mpifarm_workdir"
    kept = workdir / "stdin.txt"
    workdir.mkdir()
    kept.write_text("x a\n")
    for is_begun in (False, True):
        if is_begun:
            (workdir / "fingerprint.json").touch()
        made = MadeList(parse_arguments(["x", ":::", "a", "b"], {}), {})
        made.keep()
        assert kept.read_text() == "x a\nx b\n"
        assert made.put_back(lambda: False) == (not is_begun)
        assert (kept.read_text() == "x a\n") == (not is_begun)


class Refusals:
    """A batch system; `answers` are its next jobs, "" for one that it refuses.

    While it thinks about the first job, `meanwhile` happens.
    """

    def __init__(self, desk, monkeypatch):
        (desk / "bin" / "sbatch").write_text("#!/bin/sh\n")
        (desk / "bin" / "sbatch").chmod(0o755)
        self.answers: list[str] = []
        self.meanwhile = lambda: None
        monkeypatch.setattr(submit, "_hand_in", self._answer)

    def _answer(self, *_):
        number = self.answers.pop(0)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return submit.Submission(JobId(number), "" if number else "no account")


@pytest.fixture
def refusals(desk, monkeypatch):
    return Refusals(desk, monkeypatch)


FORM = ("--scheduler", "slurm", "-c", "2", "-t", "5")


@pytest.mark.parametrize("words", [("tasks.txt",), ("x", ":::", "a")])
@pytest.mark.parametrize("answers", [["", "7"], ["7", ""]])
def test_a_refused_job_takes_nothing_from_one_that_was_submitted_meanwhile(
    desk, refusals, words, answers
):
    def submit_too():
        if answers[1]:
            run(desk, *FORM, *words)
            return
        with pytest.raises(InputError, match="no account"):
            run(desk, *FORM, *words)

    refusals.answers = [*answers]
    refusals.meanwhile = submit_too
    if answers[0]:
        run(desk, *FORM, *words)
    else:
        with pytest.raises(InputError, match="no account"):
            run(desk, *FORM, *words)
    (workdir,) = desk.glob("*_workdir")
    names = sorted(path.name for path in workdir.iterdir())
    queued = "job-2.slurm" if answers[1] else "job.slurm"
    # The second one to keep the list has made the lock for that.
    assert names == [queued, *(["lock", "stdin.txt"] if ":::" in words else [])]


def test_a_list_that_a_job_takes_at_the_last_moment_is_there_again(desk):
    kept = desk / "mpifarm_workdir" / "stdin.txt"
    kept.parent.mkdir()
    for before in (None, "x a\n"):
        if before:
            kept.write_text(before)
        made = MadeList(parse_arguments(["x", ":::", "a", "b"], {}), {})
        made.keep()
        assert not made.put_back(iter([False, True]).__next__)
        assert kept.read_text() == "x a\nx b\n"
        kept.unlink()


def test_a_list_that_a_start_has_found_as_it_is_is_not_put_back(desk):
    settings = parse_arguments(["x", ":::", "a", "b"], {})
    made = MadeList(settings, {})
    os.mkdir("mpifarm_workdir")
    made.keep()
    keep_list(settings, {}, made.content)
    assert not made.put_back(lambda: False)
    assert (desk / "mpifarm_workdir" / "stdin.txt").read_bytes() == made.content


def test_a_list_that_was_there_before_is_never_put_back(desk):
    """Another submission has written the same list since this one looked."""
    kept = desk / "mpifarm_workdir" / "stdin.txt"
    made = MadeList(parse_arguments(["x", ":::", "a"], {}), {})
    kept.parent.mkdir()
    kept.write_text("x a\n")
    made.keep()
    assert made.put_back(lambda: False)
    assert kept.read_text() == "x a\n"


@pytest.mark.parametrize("is_ours", [True, False])
def test_the_list_that_a_killed_start_has_left_in_the_next_workdir_begins_again(
    desk, refusals, monkeypatch, is_ours
):
    """A kill between the two renames leaves no workdir."""
    following = desk / "mpifarm_workdir.mpifarm-next"
    following.mkdir()
    (following / "stdin.txt").write_text("x a\nx b\n")
    if is_ours:
        (following / ".mpifarm-next").touch()
    monkeypatch.setattr(made_list, "read_all", lambda _: b"")
    refusals.answers = ["7"]
    if is_ours:
        assert "7" in run(desk, *FORM, "-", "--again")
        assert (desk / "mpifarm_workdir" / "stdin.txt").read_text() == "x a\nx b\n"
    else:
        assert "standard input has no line" in refuse(desk, *FORM, "-", "--again")
        assert following.exists()


def test_a_large_job_has_the_nodes_and_the_time_that_its_page_asks_for(desk):
    (line,) = take_block("large-jobs.md", "mpifarm submit").lines
    text = run(desk, "--print", *shlex.split(line)[2:])
    assert "\n#SBATCH --nodes=1000 --ntasks-per-node=1 " in text
    assert " --time=12:00:00\n" in text


def test_the_job_script_of_a_pytaskfarmer_is_one_command(desk):
    sections = desk / ".pytaskfarmer" / "runners.d"
    sections.mkdir(parents=True)
    (sections / "reco.ini").write_text(
        "[reco22]\nRunner=taskfarmer.runners.BasicRunner\n"
    )
    page = read_page("coming-from-pytaskfarmer.md")
    (line,) = take_block("coming-from-pytaskfarmer.md", "mpifarm submit").lines
    *_, behind = line.partition(" tasks.txt")
    words = shlex.split(line)[2:]
    text = run(desk, "--print", *words)
    assert "\n#SBATCH --nodes=8 --ntasks-per-node=1 " in text
    assert "\n#SBATCH --account=atlas --qos=regular\n" in text
    assert "\n#SBATCH --constraint=cpu\n" in text
    assert f"\nset -- tasks.txt{behind}\n" in text
    told = name_command("status", Settings("tasks.txt", "wkdir"))
    assert f"| `{told}`, as it is printed |" in page


@pytest.mark.parametrize("option", ["-A", "-p", "--qos", "-J", "--after", "--pe"])
def test_an_empty_value_is_refused(desk, option):
    sentence = refuse(desk, "-t", "5", option, "", "--print", "tasks.txt")
    assert sentence.endswith("is empty: is a variable not set?")


def test_a_directive_stands_in_the_script_as_it_was_given(desk):
    words = ["--comment=a b", "--directive", "--gres gpu:4  -C knl"]
    text = run(desk, "-t", "5", *words, "--print", "tasks.txt")
    assert '\n#SBATCH "--comment=a b"\n#SBATCH --gres gpu:4  -C knl\n' in text


def test_each_option_reaches_the_script(desk):
    words = "-N 3 -t 90 -A phys -p long --qos high -c 4 -J mine --after any:7 --chain"
    text = run(desk, *words.split(), "--supervise", "--print", "tasks.txt")
    for directive in (
        *("--job-name=mine-", "--time=1:30:00", "--no-kill", "--dependency=afterany:7"),
        "--account=phys --partition=long --qos=high",
        "--nodes=3 --ntasks-per-node=1 --cpus-per-task=4",
    ):
        assert directive in text
    assert "$(sbatch --parsable" in text
    words = "-t 5 -c 2 --scheduler sge --pe smp --array 3 --until-done"
    assert "--array and --until-done contradict" in refuse(
        desk, *words.split(), "--print", "tasks.txt"
    )
    words = "-t 5 -c 2 --scheduler sge --pe smp --array 3 --print"
    text = run(desk, *words.split(), "tasks.txt")
    assert "#$ -pe smp 2\n#$ -t 1-3\n" in text
    text = run(desk, "-t", "10", "--backfill", "--print", "tasks.txt")
    assert "--time-min=0:02:00" in text
    assert "--until-done" in run(
        desk, "-t", "10", "--until-done", "--print", "tasks.txt"
    )


def test_a_database_is_submitted_as_any_list(desk):
    from mpifarm.database import schema
    from mpifarm.database import tasks as statements

    with schema.creating(str(desk / "tasks.db")) as connection:
        statements.insert_plain(connection, 0, [b"true"])
    assert "set -- tasks.db" in run(desk, "-t", "5", "--print", "tasks.db")
    sentence = refuse(desk, "-t", "5", "--print", "tasks.db", "--remap")
    assert (
        "in the database tasks.db each task keeps its id: leave the option" in sentence
    )


@pytest.mark.parametrize("own", ["/tmp", "/var/tmp", "/dev/shm"])
def test_what_each_node_has_for_itself_is_warned_of(own):
    shared = Settings("tasks.txt", "tasks.txt_workdir")
    assert warn_of_own_directory(shared, "/home/me") == ""
    assert warn_of_own_directory(shared, "/tmpfiles") == ""
    warning = warn_of_own_directory(shared, f"{own}/me")
    assert warning.startswith(f"WARNING: tasks.txt is in {own}, which on most clusters")
    for settings in (
        Settings(f"{own}/tasks.txt", "w"),
        Settings("tasks.txt", f"{own}/w"),
        Settings("tasks.txt", "w", chdir=own),
    ):
        assert f"is in {own}, which" in warn_of_own_directory(settings, "/home/me")


def test_the_command_for_the_state_names_the_list_or_its_workdir():
    assert name_command("status", Settings("a b.txt", "a b.txt_workdir")) == (
        "mpifarm status 'a b.txt'"
    )
    assert name_command("status", Settings("tasks.txt", "other")) == (
        "mpifarm status other --list tasks.txt"
    )


@pytest.mark.parametrize("option", [["--mem=16G"], ["--directive", "--mem=16G"]])
def test_an_option_of_sbatch_is_passed_on(desk, option):
    assert "\n#SBATCH --mem=16G\n" in run(
        desk, "-t", "5", *option, "--print", "tasks.txt"
    )


@pytest.mark.parametrize(
    "word",
    [
        *("--nodelist=n1", "--hint=nomultithread", "--time-min=5", "--nodefile=n"),
        *("--cpus-per-gpu=4", "--gpus-per-task=1", "--tres-per-task=cpu:1"),
        *("--clusters=east", "--reservation=mine", "--exclude=n2"),
        *("--image=docker:ubuntu", "--module=cvmfs", "--container-image=a.sqsh"),
    ],
)
def test_no_option_of_sbatch_is_taken_for_a_misspelt_one_of_submit(desk, word):
    text = run(desk, "-t", "5", word, "--print", "tasks.txt")
    assert f"\n#SBATCH {slurm.quote_directive(word)}\n" in text
    words = ("--scheduler", "pbs", "-c", "1", "-t", "5", word, "--print", "tasks.txt")
    assert f"give --directive {word} with the words of PBS" in refuse(desk, *words)


def test_a_disk_that_is_full_leaves_nothing_of_a_script(desk, monkeypatch):
    sbatch = desk / "bin" / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 7\n")
    sbatch.chmod(0o755)

    class Full(io.FileIO):
        def __init__(self, path, mode):
            super().__init__(path, mode.replace("b", ""))

        def write(self, content):
            super().write(content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(submit, "open", Full, raising=False)
    before = sorted(desk.rglob("*"))
    for is_there in (False, True):
        if is_there:
            (desk / "tasks.txt_workdir").mkdir()
            before.append(desk / "tasks.txt_workdir")
        with pytest.raises(StorageError, match="No space left on device"):
            run(desk, "-t", "5", "tasks.txt")
        assert sorted(desk.rglob("*")) == sorted(before)


def test_a_directive_stands_as_it_is_and_a_word_is_quoted(desk):
    words = ("--comment=a b", "--directive", "-C knl", "--print", "tasks.txt")
    text = run(desk, "-t", "5", *words)
    assert '\n#SBATCH "--comment=a b"\n' in text
    assert "\n#SBATCH -C knl\n" in text


def test_the_workers_that_a_file_of_options_sets_are_those_of_the_job(desk):
    assert "--proc auto)" in run(desk, "-t", "5", "--print", "tasks.txt")
    (desk / "mpifarm.ini").write_text("[options]\nproc = 3\n")
    PRINTED.clear()
    assert "--proc" not in run(desk, "-t", "5", "--print", "tasks.txt")


def test_a_wrong_file_of_options_is_refused(desk):
    (desk / "mpifarm.ini").write_text("[options]\nproc = many\n")
    assert "mpifarm.ini, line 2" in refuse(desk, "-t", "5", "--print", "tasks.txt")


def test_the_current_directory_is_named_as_the_user_names_it(desk, monkeypatch):
    (desk / "link").symlink_to(desk)
    monkeypatch.chdir(desk / "link")
    named = {"PWD": str(desk / "link")}
    assert submit._find_here(named) == str(desk / "link")
    assert submit._find_here({"PWD": "/"}) == os.getcwd()
    assert submit._find_here({"PWD": "."}) == os.getcwd()
    assert submit._find_here({}) == os.getcwd()


def test_a_list_above_a_linked_directory_has_its_workdir_beside_it(desk, monkeypatch):
    (desk / "real" / "below").mkdir(parents=True)
    (desk / "real" / "list").write_text("true\n")
    (desk / "link").symlink_to("real/below")
    monkeypatch.chdir(desk / "link")
    monkeypatch.setenv("PWD", str(desk / "link"))
    environ = {"PATH": str(desk / "bin"), "PWD": str(desk / "link")}
    words = ["--scheduler", "lsf", "-t", "5", "--until-done", "--print", "../list"]
    assert submit.main(words, Recorder(), environ) == 0
    text = b"".join(PRINTED).decode()
    assert f"\nworkdir={desk}/real/list_workdir\n" in text
    assert f"\ncd {desk}/link || exit 2\n" in text


def test_each_option_has_a_line_of_help():
    options = {*submit._make_parser().list_options()}
    assert {name for name in options if name.startswith("--")} == {
        *submit._HELP,
        "--directive",
        "--help",
    }


# ---- mpifarm jobs --------------------------------------------------------------------


def copy(desk, *words):
    console = Recorder()
    assert jobs.main([*words], console, {}) == 0
    return console.text


def test_the_job_scripts_are_listed(desk):
    text = copy(desk)
    assert [line.split()[0] for line in text.splitlines()[:-2]] == [*DESCRIPTIONS]
    assert sorted(path.name for path in desk.iterdir()) == ["bin", "tasks.txt"]


def test_a_job_script_is_copied(desk):
    assert copy(desk, "chain.slurm") == "./chain.slurm is written\n"
    assert (desk / "chain.slurm").read_text() == write_samples()["chain.slurm"]
    copy(desk, "--to", "bin")
    assert {path.name for path in (desk / "bin").iterdir()} == {*DESCRIPTIONS}
    assert os.access(desk / "bin" / "local.sh", os.X_OK)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["requeue.slrum"], "did you mean requeue.slurm?"),
        (["zebra"], "no job script is named 'zebra': mpifarm jobs lists all"),
        (["array.slurm", "chain.slurm"], "chain.slurm is there already"),
        (["array.slurm", "--to", "nowhere"], "'nowhere' is not a directory"),
        (["array.slurm", "--to", ""], "'' is not a directory"),
    ],
)
def test_what_can_t_be_copied_copies_nothing(desk, words, sentence):
    (desk / "chain.slurm").write_text("mine")
    with pytest.raises(InputError, match=r".") as error:
        copy(desk, *words)
    assert sentence in str(error.value)
    assert (desk / "chain.slurm").read_text() == "mine"
    assert not (desk / "array.slurm").exists()


# ---- all from the beginning ----------------------------------------------------------


def test_to_begin_again_is_no_word_of_the_script(desk):
    """It would begin again with each requeue, and in each job of a chain."""
    begin_list(desk, "other", "true")
    before = sorted(desk.rglob("*"))
    text = run(desk, "-t", "5", "--print", "tasks.txt", "--again", "--retries", "2")
    farms = [line for line in text.splitlines() if "--retries 2" in line]
    assert farms
    assert not any("--again" in line for line in farms if not line.startswith("#"))
    assert "goes on with the list: mpifarm submit without --print moves" in text
    assert sorted(desk.rglob("*")) == before


def test_the_workdir_is_moved_aside_before_the_script_is_written(desk):
    begin_list(desk, "other", "true")
    (desk / "bin" / "sbatch").write_text("#!/bin/sh\necho 4\n")
    (desk / "bin" / "sbatch").chmod(0o755)
    console = Recorder()
    environ = {"PATH": f"{desk / 'bin'}:/usr/bin:/bin", "HOME": str(desk)}
    words = ("--scheduler", "slurm", "-c", "2", "-t", "5", "tasks.txt", "--again")
    assert submit.main([*words], console, environ) == 0
    (old,) = desk.glob("tasks.txt_workdir.before-*")
    assert sorted(each.name for each in old.iterdir()) == [
        "fingerprint.json",
        "toprocess",
    ]
    new = desk / "tasks.txt_workdir"
    assert sorted(each.name for each in new.iterdir()) == ["job.slurm", "lock"]
    # and nothing has begun when the same is given once more
    assert submit.main([*words], console, environ) == 0
    assert len([*desk.glob("tasks.txt_workdir.before-*")]) == 1


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("words", [("tasks.txt",), ("x", ":::", "a")])
def test_a_refused_job_leaves_the_workdir_that_was_to_begin_again(
    desk, refusals, words, is_used
):
    name = "tasks.txt" if len(words) == 1 else "mpifarm_workdir/stdin.txt"
    workdir = desk / ("mpifarm_workdir" if "/" in name else "tasks.txt_workdir")
    workdir.mkdir()
    (workdir / "finished").write_text("0 x a\n")
    (workdir / "job.slurm").touch()
    if "/" in name:
        (workdir / "stdin.txt").write_text("x b\n")
    before = {path.name: path.read_bytes() for path in workdir.iterdir()}
    refusals.answers = [""]
    if is_used:
        refusals.meanwhile = (workdir / "fingerprint.json").touch
    with pytest.raises(InputError) as raised:
        run(desk, *FORM, *_with_again(words))
    told = str(raised.value)
    asides = [*desk.glob("*.before-*")]
    if is_used:
        (old,) = asides
        shown = workdir.name
        assert f": mv {shown} {shown}.new && mv {old.name} {shown}" in told
        return
    back = f"{workdir.name} is as it was before --again"
    assert told == f"Slurm refused the job: no account; {back}"
    assert asides == []
    after = {path.name: path.read_bytes() for path in workdir.iterdir()}
    assert after.pop("lock") == b""
    assert after == before
    assert not [*desk.glob("*.mpifarm-next")]


def _with_again(words):
    return ("--again", *words) if len(words) > 1 else (*words, "--again")
