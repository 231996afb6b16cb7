"""``mpifarm check`` and ``mpifarm retry``: their words, arguments and exit statuses."""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpifarm.audit import snapshot as snapshot_module
from mpifarm.audit.audit import NOTICES, FindingKind
from mpifarm.audit.retry import Retried, Wanted
from mpifarm.commands import check, drain, joblog, log, ls, retry, target
from mpifarm.commands.main import names_subcommand, spell_out
from mpifarm.commands.options import HelpAsked
from mpifarm.commands.retry import report as report_retry
from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.attempts import read_last_attempts
from mpifarm.store.claim_journal import Head, encode_head
from mpifarm.store.farm_liveness import find_process_start, this_machine
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.store.held_file import Held, encode_held
from mpifarm.store.target import Target, farm_words_of, words_of
from mpifarm.system import files
from mpifarm.system.console import Console
from tests.farm_states import write_claim
from tests.support import snapshot
from tests.unit.store_fakes import Site
from tests.workdir_files import Attempt, format_attempts

Main = Callable[..., tuple[int, str]]
ALL = range(12)


@pytest.fixture
def site(tmp_path):
    """tasks.txt, and a workdir beside it as plain farmers leave it."""
    site = Site(tmp_path / "tasks.txt_workdir")
    (tmp_path / "tasks.txt").write_text("".join(f"{text}\n" for text in site.tasks))
    site.write("toprocess", ALL[2:])
    site.write("finished", [0])
    site.write("failed", [1])
    (site.root / "logs").mkdir()
    for taskid in (0, 1):
        (site.root / "logs" / f"log_{taskid}").touch()
    return site


@pytest.fixture
def run():
    """Call the main function of a subcommand: its status, and what it has printed."""

    def call(module: object, *argv: object, **environ: str) -> tuple[int, str]:
        with tempfile.TemporaryFile() as out:
            console = Console(prints=True, out=out.fileno(), err=out.fileno())
            words = list(map(str, argv))
            status = module.main(words, console, environ)  # type: ignore[attr-defined]
            console.close()
            out.seek(0)
            return status, out.read().decode()

    return call


def promises_of(text: str) -> list[str]:
    """Return what the last column of a report's table promises, line by line."""
    lines = text.splitlines()
    (head,) = (n for n, line in enumerate(lines) if line.startswith("  count "))
    column = lines[head].index("--repair")
    rows = [line[column:] for line in lines[head + 1 :] if line.startswith("  ")]
    return [row for row in rows if not row.startswith(("nothing", "-"))]


# ---- check --------------------------------------------------------------------------


def test_a_clean_workdir_is_said_to_be_well_and_nothing_is_created(site, run):
    before = snapshot(site.root)
    status, text = run(check, site.root)
    assert status == 0
    assert "12 tasks" in text
    assert "1 finished, 1 failed, 10 to process, 0 claimed, 0 in no file" in text
    assert "the workdir is in order" in text
    assert snapshot(site.root) == before


def test_what_is_found_is_a_line_of_a_table_and_status_1(site, run):
    site.write("toprocess", [0, *ALL[4:]])
    status, text = run(check, site.root)
    assert status == 1
    (line,) = [line for line in text.splitlines() if "in no file:" in line]
    assert re.match(r" +2  in no file.* 2-3 +--assume-idle", line)
    assert re.search(r"\n +1  finished, and in toprocess too.* 0 .*taken out", text)
    repair = f"mpifarm check --repair {site.root}"
    assert text.endswith(
        f"\n2 kinds of findings; {repair} does what the last column says; add"
        " --assume-idle once you know that no farmer works there\n"
    )


def test_a_repair_that_needs_your_word_is_offered_with_it(site, run):
    site.write("toprocess", ALL[4:])
    idle = f"mpifarm check --repair --assume-idle {site.root}"
    assert run(check, site.root)[1].endswith(
        f"\n1 kind of finding; once you know that no farmer works there: {idle}\n"
    )


def test_where_a_repair_would_change_nothing_none_is_offered(site, run):
    site.write("toprocess", ALL[3:])
    for farm in ("f1", "f2"):
        write_claim(WorkdirPaths(str(site.root)), farm, [2])
    assert run(check, site.root)[1].endswith("\n1 kind of finding\n")


def test_what_attempts_tsv_says_of_tasks_in_no_file_and_of_failed_ones_is_told(
    site, run
):
    site.write("toprocess", ALL[5:])
    site.write("failed", [1, 4])
    attempts = (
        Attempt(1, 1, outcome="failed", status=1),
        Attempt(2, 1, outcome="failed", status=1),
        Attempt(2, 2),
        Attempt(3, 1, outcome="lost", status=1),
        Attempt(4, 1, outcome="not run: task 1 failed", status=1),
    )
    (site.root / "attempts.tsv").write_text(format_attempts(*attempts))
    _, text = run(check, site.root)
    assert "\n  1 finished, 1 failed, 1 not run, 7 to process, 0 claimed, 2 in" in text
    said = "attempts.tsv says that task 2 completed; what is put back runs again"
    assert f"\n  {said}\n" in text
    site.write("toprocess", [2, 3, *ALL[5:]])
    _, text = run(check, site.root)
    assert "in order; 1 task has failed, 1 was not run because of that; to run" in text


def test_notices_leave_it_clean(site, run):
    (site.root / "drain").touch()
    (site.root / "logs" / "log_0").unlink()
    status, text = run(check, site.root)
    assert status == 0
    assert "notice: ended, and without a log" in text
    assert "the workdir is in order" in text


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (Held(frozenset({0, 3, 4})), "  2 held (tasks 3-4): {} lets them start"),
        (Held(holds_all=True), "  held: nothing starts until {}"),
    ],
)
def test_what_users_hold_is_told_with_the_command_that_releases_it(
    site, run, held, said
):
    (site.root / "held").write_bytes(encode_held(held))
    status, text = run(check, site.root)
    assert status == 0
    assert said.format(f"mpifarm release {site.root}") in text.splitlines()


def test_each_kind_of_finding_has_its_words_and_notices_are_called_so():
    assert set(check.ROWS) == set(FindingKind)
    for kind, words in check.ROWS.items():
        for what in (words.what, words.one or words.what):
            assert what.startswith("notice: ") == (kind in NOTICES)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, " 1  line that belongs to no task  "),
        (2, " 2  lines that belong to no task "),
    ],
)
def test_one_line_is_not_told_as_several(site, run, count, said):
    with (site.root / "finished").open("a") as stream:
        stream.write("what is this\n" * count)
    assert said in run(check, site.root)[1]


def test_a_check_reads_the_attempts_once(site, run, monkeypatch):
    site.write("toprocess", ALL[4:])
    (site.root / "attempts.tsv").write_text(format_attempts(Attempt(2, 1)))
    readings = []

    def read_and_count(paths):
        readings.append(paths)
        return read_last_attempts(paths)

    monkeypatch.setattr(snapshot_module, "read_last_attempts", read_and_count)
    assert "attempts.tsv says that task 2 completed" in run(check, site.root)[1]
    assert len(readings) == 1


def test_the_tasklist_does_in_place_of_the_workdir(site, run, monkeypatch):
    monkeypatch.chdir(site.root.parent)
    for name in ("tasks.txt", "tasks.txt_workdir/", "./tasks.txt_workdir", site.root):
        assert "12 tasks of" in run(check, name)[1]


def test_a_workdir_of_another_name_finds_its_list_by_an_option(site, run):
    elsewhere = site.root.rename(site.root.parent / "elsewhere")
    assert "in its files" in run(check, elsewhere)[1]
    tasklist = site.root.parent / "tasks.txt"
    assert f"12 tasks of {tasklist}:" in run(check, elsewhere, "--list", tasklist)[1]


def test_the_line_that_puts_failed_tasks_back_names_a_list_that_is_not_known(site, run):
    elsewhere = site.root.rename(site.root.parent / "elsewhere")
    said = run(check, elsewhere)[1]
    assert said.endswith(f"retry {elsewhere} --list FILE (FILE is the tasklist)\n")
    tasklist = site.root.parent / "tasks.txt"
    said = run(check, elsewhere, "--list", tasklist)[1]
    assert said.endswith(f"retry {elsewhere} --list {tasklist}\n")


def test_without_a_list_the_files_are_compared_with_one_another(site, run):
    elsewhere = site.root.rename(site.root.parent / "elsewhere")
    assert run(check, elsewhere)[0] == 0
    with (elsewhere / "finished").open("a") as stream:
        stream.write("5 echo other\n0 echo task 0\n")
    status, text = run(check, elsewhere)
    assert status == 1
    assert "another text" in text
    assert "more than once in finished" in text
    with pytest.raises(InputError, match="--list FILE"):
        run(check, elsewhere, "--repair")


def test_the_list_is_read_by_the_handler_that_the_farm_had(site, run, tmp_path):
    ini = tmp_path / "mine.ini"
    ini.write_text(
        "[double]\nTaskList = mpifarm.templates.TemplateTaskList\n"
        "command = cp {} {}.b\n"
    )
    words = (site.root, "-t", "double", "--config", ini)
    assert run(check, *words)[0] == 0


def test_a_repair_says_each_thing_it_does(site, run):
    site.write("toprocess", [0, *ALL[2:]])
    status, text = run(check, site.root, "--repair")
    assert status == 0
    assert "mpifarm: repair: toprocess: taken out what has finished: 0" in text
    assert "toprocess.before-repair-" in text
    assert run(check, site.root) == (0, run(check, site.root)[1])


def test_a_lock_that_another_holds_is_told_and_waited_for_no_longer(
    site, run, monkeypatch
):
    monkeypatch.setattr(check, "LOCK_SECONDS", 0.05)
    with (site.root / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        status, text = run(check, site.root)
    assert status == 0
    assert "was held by other farmers for 0.05 s" in text
    assert "notice: read without the lock" in text


def test_a_disk_that_goes_on_failing_is_no_fault_of_the_workdir(site, run, monkeypatch):
    find_content = files.find_content

    def read(path: str) -> bytes | None:
        if path.endswith("/finished"):
            error = OSError(errno.EIO, os.strerror(errno.EIO))
            raise files.storage_error("read", path, error) from error
        return find_content(path)

    monkeypatch.setattr(files, "find_content", read)
    monkeypatch.setattr(target, "COMMAND_SECONDS", 0.0)
    status, text = run(check, site.root)
    assert status == 75
    assert "could not be read" in text


def test_words_of_strangers_do_not_reach_the_terminal_as_they_are(site, run):
    with (site.root / "failed").open("ab") as stream:
        stream.write(b"\x1b[2J \xff\r\n" + b"x" * 500 + b"\n")
    status, text = run(check, site.root)
    assert status == 1
    assert "\x1b" not in text
    assert "\r" not in text
    (line,) = [line for line in text.splitlines() if "belong to no task" in line]
    assert len(line) < 120


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["nowhere"], "no workdir nowhere"),
        (["empty"], "empty is not a workdir"),
        (["alone.txt"], "DIR --list alone.txt"),
        ([""], "is empty"),
        ([], "needs the list or its workdir after it"),
        (["tasks.txt_workdir", "--assume-idle"], "--assume-idle needs --repair"),
        (["tasks.txt_workdir", "--list", "nowhere"], "there is no such file"),
        (["tasks.txt", "--list", "tasks.txt"], "is not a directory"),
        (["tasks.txt_workdir", "--fix"], "has no option --fix"),
        (["tasks.txt_workdir", "-t", "nothing"], "nothing"),
    ],
)
@pytest.mark.parametrize("module", [check, retry])
def test_what_is_wrong_is_told_in_one_sentence_and_nothing_is_touched(
    site, run, monkeypatch, module, argv, why
):
    monkeypatch.chdir(site.root.parent)
    Path("empty").mkdir()
    Path("alone.txt").touch()
    if module is retry and "--assume-idle" in argv:
        why = "has no option --assume-idle"
    before = snapshot(site.root.parent)
    with pytest.raises(InputError, match=re.escape(why)) as raised:
        run(module, *argv)
    assert "\n" not in str(raised.value)
    assert snapshot(site.root.parent) == before


@pytest.mark.parametrize(
    ("module", "line", "told"),
    [
        (check, "x --repiar", "check has no option --repiar, did you mean --repair?"),
        (check, "x --rep=1", "check has no option --rep=1, did you mean --repair?"),
        (retry, "--id 3 x", "retry has no option --id, did you mean --ids?"),
        (
            *(retry, "x 2 3-4"),
            "'2' is one word too many for mpifarm retry: name tasks by --ids 2,3-4",
        ),
        (retry, "x y", "for mpifarm retry: name one list, in quotes if it"),
        (log, "x 3 --folow", "log has no option --folow, did you mean --follow?"),
        (check, "x \u2014repair", "\u2014repair begins with a dash that is not '-'"),
        (check, "--workdir d x", "give the workdir in place of the list"),
        (check, "x --workers 3", "mpifarm check has no option --workers ("),
        (check, "x y", "'y' is one word too many for mpifarm check"),
        (log, "", "mpifarm log needs the list or its workdir after it"),
        (log, "x --ids 3", "no option --ids: ids need none, mpifarm log LIST 3,7-9"),
        (drain, "x 3 4", "for a whole farm: mpifarm hold LIST 3,4 keeps single tasks"),
        (ls, "x 3", "for mpifarm ls: name tasks by --ids 3"),
        (
            retry,
            "x -n 8",
            "retry has no option -n: it is one of a farm, mpifarm -n ...",
        ),
        (ls, "x --watch", "ls has no option --watch; mpifarm status has one"),
        (log, "x 3 --failed", "--failed stands in place of ids"),
        (log, "x 3 --fialed", "log has no option --fialed, did you mean --failed?"),
        (ls, "x --slow 3", "ls has no option --slow, did you mean --slowest?"),
        (ls, "x --ids --json", "--json: not allowed with argument --ids"),
        (joblog, "x y", "'y' is one word too many for mpifarm joblog"),
        (check, "x --list", "--list needs a value after it"),
        (check, "x --repair=yes", "--repair takes no value"),
    ],
)
def test_a_slip_in_the_words_of_a_subcommand_is_told_with_what_is_meant(
    run, module, line, told
):
    with pytest.raises(InputError, match=re.escape(told)) as raised:
        run(module, *line.split())
    assert str(raised.value).endswith("--help tells more)")


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["help"], ["--help"]),
        (["version"], ["--version"]),
        (["help", "check"], ["check", "--help"]),
        (["help", "tasks.txt"], ["help", "tasks.txt"]),
        (["check", "help"], ["check", "help"]),
        (["run", "tasks.txt", "-n", "2"], ["tasks.txt", "-n", "2"]),
        (["run", "run"], ["run"]),
        (["run", "-n", "2", "tasks.txt"], ["-n", "2", "tasks.txt"]),
        (["run"], []),
        (["help", "run"], ["--help"]),
        ([], []),
    ],
)
def test_help_may_be_asked_for_by_a_word(tmp_path, monkeypatch, argv, meant):
    monkeypatch.chdir(tmp_path)
    assert spell_out(argv) == meant
    if "run" not in argv:
        Path("help").touch()
        Path("version").touch()
        assert spell_out(argv) == argv


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("run", "run"),
        ("run -n 2", "run -n 2"),
        ("run tasks.txt", "tasks.txt"),
        ("run -- tasks.txt", "-- tasks.txt"),
    ],
)
def test_a_list_named_run_is_a_list_unless_a_word_follows(
    tmp_path, monkeypatch, line, meant
):
    monkeypatch.chdir(tmp_path)
    Path("run").touch()
    assert spell_out(line.split()) == meant.split()


@pytest.mark.parametrize("module", [check, retry])
def test_help_tells_of_all_options(run, module):
    with pytest.raises(HelpAsked) as asked:
        run(module, "--help")
    assert "--list FILE" in asked.value.text


@pytest.fixture
def foreign_site(site):
    """The same where another user can read it and write nothing."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    shutil.copytree(site.root.parent, root, dirs_exist_ok=True)
    (root / "tasks.txt_workdir" / "lock").touch()
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield Site(root / "tasks.txt_workdir")
    shutil.rmtree(root)


@contextmanager
def as_another_user() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_another_user_may_check_and_learns_what_he_cannot_read(foreign_site, run):
    site = foreign_site
    run(check, site.root)  # imports what is imported late
    head = Head("abcdef01", "here", this_machine().boot_id, 1, 1, 1.0, ())
    start = find_process_start(os.getpid())
    assert start is not None
    living = head._replace(farm="abcdef02", pid=os.getpid(), process_start=start)
    (site.root / "claims").mkdir()
    for each in (head, living):
        (site.root / "claims" / each.farm).write_bytes(encode_head(each))
    before = snapshot(site.root)
    with as_another_user():
        status, text = run(check, site.root)
    assert status == 1
    assert "notice: read without the lock" in text
    assert f"farm abcdef02 on here (pid {os.getpid()}) is running" in text
    assert "claim of a dead farm" in text
    assert promises_of(text) == ["the tasks go back"]
    (site.root / "failed").chmod(0o600)
    before = snapshot(site.root)
    with as_another_user():
        status, text = run(check, site.root)
    assert status == 1
    assert re.search(r"1  could not be read +can't read .*", text)
    assert promises_of(text) == []
    with as_another_user(), pytest.raises(InputError, match="may not write it"):
        run(check, site.root, "--repair")
    with as_another_user(), pytest.raises(InputError, match="may not write it"):
        run(retry, site.root)
    assert snapshot(site.root) == before


# ---- retry --------------------------------------------------------------------------


def test_a_retry_says_what_it_moved_and_how_to_go_on(site, run):
    status, text = run(retry, site.root)
    assert status == 0
    assert "1 task put back to be run: 1\n" in text
    assert f"mpifarm {site.root.parent}/tasks.txt\n" in text
    assert site.ids("toprocess") == list(ALL[1:])
    assert "no task has failed" in run(retry, site.root, "--failed")[1]


def test_the_command_to_go_on_has_the_options_that_the_farm_needs(site, run, tmp_path):
    elsewhere = site.root.rename(tmp_path / "else where")
    tasklist = tmp_path / "tasks.txt"
    _, text = run(retry, elsewhere, "--list", tasklist, "--lock-area", tmp_path)
    assert (
        f"mpifarm --lock-area {tmp_path} --workdir '{elsewhere}' {tasklist}\n" in text
    )


def test_a_place_is_named_by_words_that_find_it_again():
    plain = Target("tasks.txt_workdir", "tasks.txt")
    assert words_of(plain) == ["tasks.txt_workdir"]
    assert farm_words_of(plain) == ["tasks.txt"]
    place = Target("w", "tasks.txt", "png", "mine.ini", "/locks")
    options = ["--config", "mine.ini", "-t", "png", "--lock-area", "/locks"]
    assert words_of(place) == ["w", "--list", "tasks.txt", *options]
    assert farm_words_of(place) == [*options, "--workdir", "w", "tasks.txt"]


@pytest.mark.parametrize(
    ("words", "moved"),
    [
        (["--ids", "1"], True),
        (["--ids", "1,1-1"], True),
        (["--status", "137"], True),
        (["--status", "-9"], True),
        (["--status", "1,-9"], True),
        (["--status", "-9,-15"], True),
        (["--status=-9"], True),
        (["--status", "15"], False),
        (["--status", "1"], False),
    ],
)
def test_a_retry_can_be_narrowed_down(site, run, words, moved):
    (site.root / "attempts.tsv").write_text(format_attempts(Attempt(1, status=-9)))
    _, text = run(retry, site.root, *words)
    assert ("put back" in text) == moved
    assert (1 in site.ids("toprocess")) == moved


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--ids", "3-1x"], "'3-1x' is not the id of a task"),
        (["--ids", ""], "'' is not the id of a task"),
        (["--ids", "9-1"], "the range 9-1 ends before it begins: write 1-9"),
        (["--ids", "1,9-1"], "the range 9-1 ends before it begins"),
        (["--ids", "0"], "task 0 is finished"),
        (["--status", "x"], "--status takes exit statuses"),
        (["--status", "0"], "no task fails with 0"),
        (["--status", "900"], "--status takes exit statuses"),
    ],
)
def test_what_a_retry_does_not_take_is_told(site, run, words, why):
    before = snapshot(site.root)
    with pytest.raises(InputError, match=why):
        run(retry, site.root, *words)
    assert snapshot(site.root) == before


def test_what_a_retry_leaves_is_told_with_the_reason():
    place = Target("w", "tasks.txt")
    lines = report_retry(place, Wanted(), Retried([1], [3, 4], [7]))
    assert lines == [
        "1 task put back to be run: 1",
        "if no farm is running, start one: mpifarm --workdir w tasks.txt",
        (
            "tasks 3-4 were not put back, because a farm has claimed them (if that farm"
            " is dead, run: mpifarm check --repair w --list tasks.txt)"
        ),
        (
            "task 7 was not put back, because attempts.tsv has no status for it:"
            " another farmer ran it"
        ),
    ]
    held = report_retry(place, Wanted(), Retried([1, 3], [], []), Held(frozenset({3})))
    assert held[1] == (
        "1 held (task 3): mpifarm release w --list tasks.txt lets it start"
    )
    nothing = Retried([], [], [])
    for wanted, said in (
        (Wanted(), "no task has failed"),
        (Wanted(statuses=frozenset([3])), "no failed task has exit status 3"),
        (
            Wanted(frozenset([4, 5]), frozenset([2, 137, -9])),
            "no failed task of 4-5 has one of the exit statuses 2, 137",
        ),
    ):
        assert report_retry(place, wanted, nothing) == [said]


def test_a_repair_that_is_refused_has_made_no_lock_file(site, run):
    (site.root / "remap.begun").mkdir()
    before = snapshot(site.root)
    with pytest.raises(InputError, match="--remap"):
        run(check, site.root, "--repair")
    assert snapshot(site.root) == before


def test_a_list_that_keeps_its_own_state_is_left_alone(
    site, run, tmp_path, monkeypatch
):
    (tmp_path / "ownstate.py").write_text(
        "class Own:\n"
        "    def __init__(self, path, workdir): self.tasks = ['a']\n"
        "    def __len__(self): return 1\n"
        "    def __getitem__(self, taskid): return 'a'\n"
        "    def get_finished(self): return []\n"
        "    def pop_task(self): return None\n"
        "    def record_toprocess_task(self, taskid): pass\n"
        "    def record_done_task(self, taskid, status): pass\n"
    )
    (tmp_path / "own.ini").write_text("[own]\nTaskList = ownstate.Own\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = (site.root, "-t", "own", "--config", tmp_path / "own.ini")
    (site.root / "timeline.json").write_text("{")
    before = site.files()
    for module, more in ((retry, ()), (check, ("--repair",))):
        with pytest.raises(InputError, match="keeps the state of the tasks itself"):
            run(module, *words, *more)
    _, text = run(check, *words)
    assert "keeps the state of its tasks itself" in text
    assert promises_of(text) == []
    assert site.files() == before


# ---- the command line ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "there", "meant"),
    [
        (["check", "x_workdir"], False, True),
        (["check"], False, True),
        (["check"], True, False),
        (["check", "-n", "4"], True, False),
        (["check", "x_workdir"], True, True),
        (["supervise", "--", "srun"], True, True),
        (["./check"], True, False),
        (["--verbose", "check"], False, False),
        (["tasks.txt"], False, False),
        ([], False, False),
    ],
)
def test_a_tasklist_may_bear_the_name_of_a_subcommand(
    tmp_path, monkeypatch, argv, there, meant
):
    monkeypatch.chdir(tmp_path)
    if there:
        Path(argv[0]).touch()
    assert names_subcommand(argv) == meant


def test_where_the_list_is_gone_its_name_still_finds_the_workdir(site, run):
    tasklist = site.root.parent / "tasks.txt"
    tasklist.unlink()
    status, text = run(check, tasklist)
    assert (status, "1 finished, 1 failed" in text) == (0, True)


def test_by_an_edited_list_nothing_is_counted(site, run):
    fingerprint = encode_fingerprint(take_fingerprint(site.tasks))
    (site.root / "fingerprint.json").write_bytes(fingerprint)
    tasklist = site.root.parent / "tasks.txt"
    tasklist.write_text(f"echo first\n{tasklist.read_text()}")
    status, text = run(check, tasklist)
    assert status == 1
    assert "which was edited since it was begun" in text
    assert "finished" not in text
    assert text.endswith(f", by the text of each line: mpifarm --remap {tasklist}\n")
    assert "is it the right tasklist?" not in text
    assert "nothing: the farm's --remap takes care of it\n" in text
    wait = "once the farm at work has ended, "
    with pytest.raises(InputError, match=f"no retry: mpifarm --remap {tasklist} runs"):
        run(retry, tasklist)
    write_claim(WorkdirPaths(str(site.root)), "c1a10000", [])
    _, text = run(check, tasklist)
    assert text.endswith(f"text of each line: {wait}mpifarm --remap {tasklist}\n")
    with pytest.raises(InputError, match=f"no retry: {wait}mpifarm --remap {tasklist}"):
        run(retry, tasklist)


def damage(site: Site, *, line: str = "", in_file: str = "finished") -> None:
    """Damage the fingerprint, and the state of a task; add a `line` to a file."""
    (site.root / "fingerprint.json").write_text("{")
    site.write("toprocess", [0, *ALL[2:]])
    write_claim(WorkdirPaths(str(site.root)), "dead0000", [0], is_dead=True)
    with open(site.root / in_file, "a") as file:
        file.write(line)


def test_what_only_a_start_mends_is_promised_where_all_lines_are_of_the_list(site, run):
    damage(site)
    _, text = run(check, site.root)
    assert "is written anew" in promises_of(text)
    assert "the tasks go back" in promises_of(text)
    assert run(check, site.root, "--repair")[0] == 0


@pytest.mark.parametrize("in_file", ["finished", "toprocess"])
def test_what_a_line_of_another_list_keeps_from_a_repair_is_not_promised(
    site, run, in_file
):
    damage(site, line="no id at all\n", in_file=in_file)
    _, text = run(check, site.root)
    in_queue = ["taken out of toprocess"] if in_file == "finished" else []
    assert promises_of(text) == in_queue
    assert text.count("nothing: is it the right tasklist?") == 4 - len(in_queue)
    _, told = run(check, site.root, "--repair")
    assert "repair: no farm can start here yet" in told
    assert ("taken out what has finished" in told) == bool(in_queue)
    assert promises_of(run(check, site.root)[1]) == []


def test_where_a_repair_is_refused_no_line_of_the_table_promises_one(
    site, run, tmp_path
):
    damage(site, line="2 another command\n")
    status, text = run(check, site.root)
    assert (status, promises_of(text)) == (1, [])
    assert text.count("nothing: the farm's --remap comes first") == 3
    with pytest.raises(InputError, match="was edited since"):
        run(check, site.root, "--repair")
    (tmp_path / "tasks.txt").write_text("true\n#BARRIER CHEK\n")
    assert promises_of(run(check, site.root)[1]) == []
    with pytest.raises(InputError, match="line 2 of"):
        run(check, site.root, "--repair")


def test_a_list_that_can_not_be_read_is_not_in_order(site, run, tmp_path):
    assert run(check, site.root)[0] == 0
    (tmp_path / "tasks.txt").write_text("true\n#BARRIER CHEK\n")
    status, text = run(check, site.root, "--list", tmp_path / "tasks.txt")
    assert (status, "line 2 of" in text) == (1, True)
