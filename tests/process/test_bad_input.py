"""Wrong input: exit status 2, one sentence, nothing touched."""

import os
import re
import shutil
import subprocess

import pytest

from mpifarm.commands import SUBCOMMANDS
from tests.farm_driver import MPIFARM
from tests.support import snapshot

LIST = ["true", "echo b", "echo c"]
LOCK = "tasks.txt_workdir/lock"

UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Root that permissions hold for."""


def without_privileges():
    """What is put in front of a command so that permissions hold for it."""
    if os.getuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root without setpriv can't be refused anything")
    return UNPRIVILEGED


def complaint(place, *options, argv=None, but=(LOCK,), **others):
    """What it says; it must say one sentence, exit with 2, and touch nothing."""
    before = snapshot(place.directory, but=but)
    command = argv or [*MPIFARM, *options, str(place.tasklist)]
    ended = subprocess.run(
        [*others.pop("before", ()), *command],
        env={**place.environment, **others.pop("env", {})},
        cwd=place.directory,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=60,
        check=False,
    )
    said = ended.stderr
    assert ended.returncode == 2, said + ended.stdout
    assert ended.stdout == ""
    assert said.startswith("mpifarm: ")  # without a time, though it is a log
    assert said.endswith("\n")
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    assert snapshot(place.directory, but=but) == before
    return said


def begun(create_place, finished=0, **others):
    """A place whose farm has run; its task 1 has failed."""
    place = create_place(["true", "exit 1 # b", "true # c"], **others)
    assert place.run() == 1
    assert place.finished() == [0, 2]
    return place


# ---- what is no file -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["finished", "attempts.tsv", "logs", "lock"])
def test_a_fifo_in_place_of_a_file(create_place, name):
    place = create_place(LIST)
    place.workdir.mkdir()
    os.mkfifo(place.workdir / name)
    assert f"{place.workdir}/{name}" in complaint(place)
    words = [*MPIFARM, "check", str(place.tasklist)]
    if name != "attempts.tsv":
        assert f"{place.workdir}/{name}" in complaint(place, argv=words)


def test_a_tasklist_that_is_a_fifo(create_place):
    place = create_place(LIST)
    place.tasklist.unlink()
    os.mkfifo(place.tasklist)
    assert "it is a fifo, and has to be a file" in complaint(place)


# ---- escape sequences ----------------------------------------------------------------

CLEAR = "\x1b[2J\x07"
TOLD = r"\x1b[2J\x07"


def test_no_escape_sequence_of_a_task_is_in_what_an_edited_list_is_told(create_place):
    place = begun(create_place)
    place.tasklist.write_text(f"true {CLEAR}\nexit 1 # b\ntrue # c\n")
    said = complaint(place)
    assert TOLD in said
    assert said.strip().isprintable()


def test_no_escape_sequence_of_a_name_is_told(create_place):
    place = create_place(LIST)
    config = place.directory / f"{CLEAR}.ini"
    config.write_text("nonsense")
    for options in (["--config", str(config)], ["-t", "mine"], ["-r", CLEAR]):
        said = complaint(place, *options)
        assert TOLD in said or options == ["-t", "mine"]
        assert said.strip().isprintable()
    place.tasklist = place.directory / f"{CLEAR}.txt"
    assert TOLD in complaint(place)


def test_garbage_in_finished_is_put_right_by_the_remedy_that_is_told(create_place):
    place = begun(create_place)
    with (place.workdir / "finished").open("ab") as finished:
        finished.write(b"no line at all\n")
    said = complaint(place)
    assert "--remap" not in said
    remedy = re.search(r"mpifarm (check --repair \S+) takes it out", said)
    assert remedy is not None
    place.run_words(*remedy[1].split())
    assert place.run() == 1


# ---- the current directory -----------------------------------------------------------

IN_ONE_THAT_IS_GONE = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'


def said_where_all_is_gone(place, *words, status=2):
    argv = ["bash", "-c", IN_ONE_THAT_IS_GONE, "bash", *MPIFARM, *words]
    child = place.start_command(argv)
    assert child.wait(60) == status, child.text()
    assert "Traceback" not in child.text()
    return child.text()


BESIDE_THE_LIST = {
    "add": ["true"],
    "cancel": ["0"],
    "import": ["x.db"],
    "retry": ["--failed"],
    "timeline": ["-o", "x"],
}
WITHOUT_A_LIST = {"completion", "config", "doctor", "jobs", "selftest", "supervise"}


@pytest.mark.parametrize("command", sorted(SUBCOMMANDS.keys() - WITHOUT_A_LIST))
def test_a_list_in_a_directory_that_is_gone_is_refused_with_the_remedy(
    create_place, command
):
    place = begun(create_place)
    front = ["--print"] if command == "submit" else []
    for name in ("tasks.txt", "../tasks.txt"):
        words = [command, *front, name, *BESIDE_THE_LIST.get(command, [])]
        said = said_where_all_is_gone(place, *words)
        assert "the current directory is gone: go to one that is there" in said


def test_no_other_subcommand_breaks_in_a_directory_that_is_gone(create_place):
    place = begun(create_place)
    said = said_where_all_is_gone(place, "doctor", "here", status=1)
    assert "bad   file system: the current directory is gone\n" in said
    for words in (["completion", "bash"], ["config"], ["jobs"]):
        said_where_all_is_gone(place, *words, status=0)
    said_where_all_is_gone(place, "jobs", "--to", "x")
    said_where_all_is_gone(place, "selftest")
    said_where_all_is_gone(place, "timeline", str(place.tasklist), "-o", "x.json")
    for words in (["supervise", "--", *MPIFARM, "t.txt"], ["submit", "--print", "-"]):
        assert "directory is gone: go to" in said_where_all_is_gone(place, *words)
    said_where_all_is_gone(place, "status", str(place.tasklist), status=0)


# ---- the tasklist --------------------------------------------------------------------


def test_a_tasklist_that_is_not_there(create_place):
    place = create_place(LIST)
    place.tasklist.unlink()
    said = complaint(place)
    assert str(place.tasklist) in said
    assert "no such file" in said


def test_a_tasklist_in_a_directory_that_is_not_there(create_place):
    place = create_place(LIST)
    path = str(place.directory / "no" / "tasks.txt")
    assert path in complaint(place, argv=[*MPIFARM, path])


def test_a_tasklist_that_is_a_directory(create_place):
    place = create_place(LIST)
    said = complaint(place, argv=[*MPIFARM, str(place.directory)])
    assert "is a directory" in said


@pytest.mark.parametrize("name", ["", "/failed"])
def test_a_tasklist_that_is_a_workdir_or_a_file_of_one(create_place, name):
    place = begun(create_place)
    named = f"{place.workdir.name}{name}"
    said = complaint(place, argv=[*MPIFARM, named])
    assert f"mpifarm: {named} is " in said
    assert "mpifarm tasks.txt goes on" in said
    assert "mpifarm retry tasks.txt_workdir puts back what failed" in said


def test_a_tasklist_that_is_not_readable(create_place):
    place = create_place(LIST)
    place.tasklist.chmod(0)
    said = complaint(place, before=without_privileges())
    assert str(place.tasklist) in said
    assert "permission" in said


def test_a_nul_byte_names_its_line_in_the_file(create_place):
    place = create_place(content=b"# comment\n\ntrue\necho a\0b\nfalse\n")
    said = complaint(place)
    assert re.search(r"\bline 4\b", said)
    assert "NUL" in said


def test_a_nul_byte_in_a_list_whose_farm_has_begun(create_place):
    place = begun(create_place)
    place.tasklist.write_bytes(place.tasklist.read_bytes() + b"a\0\n")
    assert re.search(r"\bline 4\b", complaint(place))


def test_a_list_in_utf_16_is_told_as_such(create_place):
    place = create_place(content="true\n".encode("utf-16"))
    assert "UTF-8" in complaint(place)


def test_a_list_that_became_empty_was_edited_and_nothing_is_touched(create_place):
    place = begun(create_place)
    place.tasklist.write_bytes(b"")
    assert "has no tasks" in complaint(place)


# ---- the command line ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--proc", "0"], "--proc 0"),
        (["--proc", "many"], "many"),
        (["--timeout", "-1"], "--timeout"),
        (["--timeout", "soon"], "soon"),
        (["--timeout", "nan"], "--timeout"),
        (["--grace", "-1"], "--grace"),
        (["--mpi", "yes"], "--mpi"),
        (["--workdir", ""], "--workdir"),
        (["--nosuch"], "--nosuch"),
        (["another.txt"], "one word too many"),
    ],
)
def test_a_wrong_option_is_named_with_where_to_find_help(create_place, options, named):
    said = complaint(create_place(LIST), *options)
    assert named in said
    assert "--help" in said


def test_no_tasklist_at_all(create_place):
    assert "tasklist" in complaint(create_place(LIST), argv=list(MPIFARM))


def test_an_unknown_runner_is_told_with_those_that_there_are(create_place):
    said = complaint(create_place(LIST), "--runner", "shifter")
    assert "shifter" in said
    assert "default" in said


def test_an_unknown_handler_is_told_with_those_that_there_are(create_place):
    said = complaint(create_place(LIST), "--tasklist", "athena")
    assert "athena" in said
    assert "default" in said


# ---- the workdir ---------------------------------------------------------------------


def test_a_workdir_whose_parent_is_not_there(create_place):
    place = create_place(LIST)
    path = str(place.directory / "no" / "workdir")
    assert path in complaint(place, "--workdir", path)


def test_a_workdir_that_is_a_file(create_place):
    place = create_place(LIST)
    path = place.directory / "file"
    path.write_text("precious\n")
    said = complaint(place, "--workdir", str(path))
    assert str(path) in said
    assert "not a directory" in said


def test_a_workdir_that_can_not_be_created(create_place):
    place = create_place(LIST)
    closed = place.directory / "closed"
    closed.mkdir(mode=0o555)
    path = str(closed / "workdir")
    said = complaint(place, "--workdir", path, before=without_privileges())
    assert path in said
    assert "ermission" in said


def test_a_new_workdir_that_can_not_be_written(create_place):
    place = create_place(LIST)
    place.workdir.mkdir(mode=0o555)
    said = complaint(place, before=without_privileges())
    assert str(place.workdir) in said


def test_a_begun_workdir_that_can_not_be_written(create_place):
    place = begun(create_place)
    place.workdir.chmod(0o555)
    said = complaint(place, before=without_privileges())
    assert str(place.workdir) in said


@pytest.mark.parametrize("name", ["toprocess", "finished", "failed", "lock"])
def test_a_status_file_of_another_user_is_named(create_place, name):
    place = begun(create_place)
    (place.workdir / name).chmod(0)
    said = complaint(place, before=without_privileges(), but=())
    assert str(place.workdir / name) in said
    assert "ermission" in said


@pytest.mark.parametrize(
    "name", ["finished", "failed", "timeline.json", "attempts.tsv", "logs", "claims"]
)
def test_a_file_that_can_be_read_but_not_written_is_named(create_place, name):
    place = begun(create_place)
    (place.workdir / "toprocess").write_text("1 exit 1 # b\n")
    (place.workdir / name).chmod(0o555 if name in ("logs", "claims") else 0o444)
    said = complaint(place, before=without_privileges())
    assert str(place.workdir / name) in said


@pytest.mark.parametrize("name", ["toprocess", "finished", "failed", "lock"])
def test_a_directory_in_place_of_a_status_file_is_named(create_place, name):
    place = create_place(LIST)
    (place.workdir / name).mkdir(parents=True)
    said = complaint(place)
    assert str(place.workdir / name) in said


@pytest.mark.parametrize("name", ["logs", "claims"])
def test_a_file_in_place_of_a_directory_is_named(create_place, name):
    place = create_place(LIST)
    place.workdir.mkdir()
    (place.workdir / name).write_text("")
    said = complaint(place)
    assert str(place.workdir / name) in said


# ---- a list and a workdir that don't belong together ---------------------------------


def edit(place, *commands):
    place.tasklist.write_text("".join(f"{command}\n" for command in commands))


@pytest.mark.parametrize("name", ["finished", "failed", "toprocess"])
def test_an_edited_task_is_told_with_what_it_was_and_is(create_place, name):
    place = begun(create_place)
    (place.workdir / "toprocess").write_text("1 exit 1 # b\n")
    commands = place.tasks
    number = {"finished": 2, "failed": 1, "toprocess": 1}[name]
    if name == "toprocess":
        (place.workdir / "failed").unlink()
    was = commands[number]
    commands[number] = "echo now"
    edit(place, *commands)
    said = complaint(place)
    assert f"task {number} " in said
    assert f"'{was}'" in said
    assert "'echo now'" in said
    assert name in said
    assert "--workdir" in said


def test_a_reordered_list_is_told(create_place):
    place = begun(create_place)
    edit(place, "exit 1 # b", "true", "true # c")
    said = complaint(place)
    assert "task 0 " in said
    assert "'true'" in said
    assert "'exit 1 # b'" in said


def test_a_shortened_list_is_told(create_place):
    place = begun(create_place)
    edit(place, "true", "exit 1 # b")
    said = complaint(place)
    assert "task 2 " in said
    assert "only 2 tasks" in said


def test_an_edit_of_a_task_that_stands_in_no_file_is_found(create_place):
    place = begun(create_place)
    for name in ("finished", "failed", "toprocess"):
        (place.workdir / name).write_bytes(b"")
    edit(place, "true", "echo changed", "true # c")
    assert "edited" in complaint(place)


def test_a_workdir_of_a_plain_farmer_with_another_list_is_told(create_place):
    place = create_place(LIST)
    place.workdir.mkdir()
    (place.workdir / "finished").write_text("0 true\n1 other\n")
    (place.workdir / "toprocess").write_text("2 echo c\n")
    said = complaint(place)
    assert "task 1 " in said
    assert "'other'" in said
    assert "'echo b'" in said


def test_a_file_that_is_no_status_file_at_all_is_told(create_place):
    place = create_place(LIST)
    place.workdir.mkdir()
    (place.workdir / "finished").write_text("Dear diary,\n")
    assert "'Dear diary,'" in complaint(place)


def test_an_edit_in_a_long_text_shows_where_the_texts_differ(create_place):
    # the first 80 characters of both are the same
    place = create_place(["echo " + "a" * 200 + " one"])
    assert place.run() == 0
    edit(place, "echo " + "a" * 200 + " two")
    said = complaint(place)
    assert "one" in said
    assert "two" in said


def test_an_edited_list_is_told_beside_a_farm_that_works(create_place):
    place = create_place(["until [ -e go ]; do sleep 0.02; done; exit 0", "true"])
    farm = place.start()
    before = place.tasklist.read_bytes()
    while not place.ids("finished"):
        assert not farm.has_ended()
    edit(place, "echo else", "true")
    files = [place.content(name) for name in ("toprocess", "finished", "failed")]
    other = place.start(name="other")
    assert other.wait() == 2
    assert "edited" in other.text()
    assert files == [place.content(n) for n in ("toprocess", "finished", "failed")]
    place.tasklist.write_bytes(before)
    place.allow()
    assert farm.wait() == 0


# ---- the lock ------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["SCRATCH", "TMP", "TMPDIR"])
def test_a_lock_area_that_is_not_there_is_told_with_its_variable(
    create_place, variable
):
    place = create_place(LIST)
    path = str(place.directory / "none")
    said = complaint(place, env={variable: path})
    assert path in said
    assert variable in said
    assert "--lock-area" in said


def test_a_lock_area_that_can_not_be_written(create_place):
    place = create_place(LIST)
    area = place.directory / "area"
    area.mkdir(mode=0o555)
    said = complaint(place, "--lock-area", str(area), before=without_privileges())
    assert str(area) in said
