"""Lists that were written for another tool: what a farm does with them."""

import pytest

from tests.process.test_bad_input import complaint

LIST = ["echo one > out-$LAUNCHER_TSK_ID", "echo two > out-$LAUNCHER_TSK_ID"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"# x\necho > out-$LAUNCHER_TSK_ID\n", "line 2 of "),
        (b"#DISBATCH REPEAT 3 echo\n", "is a directive of disBatch"),
        (b"#!/bin/sh\nexport X=3\necho $X\n", "is a script"),
        (b"sleep 300 &\n", 'ends with "&"'),
        (b"\xef\xbb\xbftrue\n", "byte order mark"),
    ],
)
def test_a_list_for_another_tool_is_refused_before_anything_is_touched(
    create_place, content, told
):
    place = create_place(content=content)
    said = complaint(place, but=())
    assert told in said
    assert said.endswith("; --as-is runs the list as it stands\n")


def test_one_option_runs_a_list_as_it_stands(create_place):
    place = create_place(LIST)
    assert place.run("--as-is", "-n", "1") == 0
    assert [path.name for path in place.directory.glob("out*")] == ["out-"]


def test_a_list_that_was_begun_goes_on_with_a_warning(create_place):
    place = create_place(LIST)
    assert place.run("--as-is") == 0
    child = place.start()
    assert child.wait() == 0
    (told,) = [line for line in child.text().splitlines() if "WARNING" in line]
    assert "WARNING: line 1 of " in told
    assert told.endswith(
        "; the list runs as it stands, and with --as-is without this WARNING"
    )


def test_a_task_gets_its_number_under_another_tools_name(create_place):
    place = create_place(
        ["echo $LAUNCHER_TSK_ID $LAUNCHER_JID $SGE_TASK_ID $MINE $PROC_NUMBER"] * 2
    )
    names = ("LAUNCHER_TSK_ID", "LAUNCHER_JID", "SGE_TASK_ID=10", "MINE")
    options = [word for name in names for word in ("--id-variable", name)]
    assert place.run(*options, env={"LAUNCHER_JID": "of the job"}) == 0
    assert [place.log(taskid) for taskid in (0, 1)] == ["0 1 10 0 0\n", "1 2 11 1 1\n"]


def test_what_tasks_leave_running_is_counted_and_told(create_place):
    # sleep holds no descriptor of the log, and the place's end kills it
    left = "sleep 300 > /dev/null 2>&1 &"
    lists = [
        left,
        "true",
        f"({left}) ; wait; exit 3",
        "true & exec sleep 0.2",
        "exit 1",
    ]
    place = create_place(lists)
    child = place.start("--as-is", "-n", "2")
    assert child.wait() == 1
    said = child.text()
    assert "2 tasks ended while processes started there still ran" in said
    assert "nothing waits: task 0, 2" in said
    assert place.result()["this_farm"]["left_processes_running"] == 2
    assert place.finished() == [0, 1, 3]


@pytest.mark.parametrize(
    "definition",
    ["Runner = mpifarm.runners.BasicRunner\nshell = never", "Runner = mine.Echo"],
)
def test_what_no_shell_reads_is_not_judged(create_place, definition):
    place = create_place(["/bin/echo $LAUNCHER_JID &"])
    (place.directory / "mine.py").write_text(
        "import os, subprocess\nfrom mpifarm.runners import Runner\n\n"
        "class Echo(Runner):\n"
        "    def run(self, taskid, command, logfh):\n"
        "        words = [*command.split(), os.environ['LAUNCHER_JID']]\n"
        "        return subprocess.run(words, stdout=logfh).returncode\n\n"
        "    def terminate(self):\n        pass\n"
    )
    (place.directory / "runners.ini").write_text(f"[mine]\n{definition}\n")
    options = ("--config", "runners.ini", "--runner", "mine")
    assert place.run(*options, "--id-variable", "LAUNCHER_JID") == 0
    number = " 1" if "Echo" in definition else ""
    assert place.log(0) == f"$LAUNCHER_JID &{number}\n"
