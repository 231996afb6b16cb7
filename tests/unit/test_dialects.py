"""Lists of disBatch and GREASY: their tasks and order, a sentence for each mistake."""

import re
import subprocess

import pytest

from mpifarm import dialects
from mpifarm.dialects import DisBatchTaskList, GreasyTaskList
from mpifarm.errors import InputError
from mpifarm.order.constraints import Barrier, Constraints
from mpifarm.tasklists import UNENDED, TasklistFileError


@pytest.fixture
def disbatch(tmp_path):
    """Read a task file of disBatch."""

    def read(*lines: str) -> DisBatchTaskList:
        path = tmp_path / "Tasks"
        path.write_text("".join(f"{line}\n" for line in lines))
        return DisBatchTaskList(str(path), "workdir")

    return read


@pytest.fixture
def greasy(tmp_path):
    """Read a task file of GREASY."""

    def read(*lines: str) -> GreasyTaskList:
        path = tmp_path / "tasks.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
        return GreasyTaskList(str(path), "workdir")

    return read


def output_of(command: str) -> str:
    return subprocess.check_output(
        ["bash", "-c", command],
        env={"MPIFARM_FARM": "f1", "MPIFARM_RANK": "2", "MPIFARM_WORKER": "3"},
        text=True,
    )


@pytest.mark.parametrize(
    ("handler", "line"),
    [
        (DisBatchTaskList, "#DISBATCH BARR"),
        (DisBatchTaskList, "#DISBATCH REPEAT"),
        (DisBatchTaskList, "#DISBATCH PREFIX"),
        (GreasyTaskList, "[# 1"),
        (GreasyTaskList, "[# 1 #]"),
        (GreasyTaskList, "[@ /tmp"),
    ],
)
def test_a_wrong_line_that_nothing_ends_may_be_half_written(tmp_path, handler, line):
    path, said = tmp_path / "Tasks", list[str]()
    for end in ("\n", ""):
        path.write_text(f"true\n{line}{end}")
        with pytest.raises(TasklistFileError) as caught:
            handler(str(path), "workdir")
        said.append(str(caught.value))
        assert caught.value.is_unended == (not end)
        assert (caught.value.place, caught.value.number) == (f"line 2 of {path}", 2)
    assert said[1] == f"{said[0]}{UNENDED}"


@pytest.mark.parametrize("handler", [DisBatchTaskList, GreasyTaskList])
@pytest.mark.parametrize(
    ("content", "line"),
    [("a\nb", 2), ("a\nb\n", 0), ("a\n# b", 0), ("a\n ", 0), ("", 0)],
)
def test_the_line_of_a_task_that_nothing_ends_is_known(
    tmp_path, handler, content, line
):
    path = tmp_path / "Tasks"
    path.write_text(content)
    tasks = handler(str(path), "workdir")
    assert tasks.unended_place == (f"line {line} of {path}" if line else "")


# ---- disBatch ------------------------------------------------------------------------


def test_prefix_and_suffix_hold_until_the_next_ones(disbatch):
    tasks = disbatch(
        "first",
        "#DISBATCH PREFIX ( cd run ; ./sim ",
        "#DISBATCH SUFFIX  ) &> log.${DISBATCH_TASKID}",
        "# a comment",
        "  # another",
        "",
        "-a 0",
        "#DISBATCH prefix nice ",
        "#DISBATCH SUFFIX ",
        "  ./end  now ",
    )
    assert [*tasks.tasks] == [
        "first",
        "( cd run ; ./sim -a 0 ) &> log.${DISBATCH_TASKID}",
        "nice   ./end  now",
    ]
    assert tasks.constraints == Constraints(is_foreign=True)
    assert not tasks.constraints.is_shared(0)
    assert len(tasks) == 3


def test_a_repeat_makes_a_task_of_each_index(disbatch):
    tasks = disbatch(
        "#DISBATCH REPEAT 2 ./run ${DISBATCH_REPEAT_INDEX}",
        "#DISBATCH REPEAT 3 start 100 step 50 x",
        *("#DISBATCH REPEAT 0 y", "#DISBATCH REPEAT 0"),
        "#DISBATCH PREFIX pre ",
        "#DISBATCH SUFFIX  suf",
        "#DISBATCH REPEAT 1 start 7",
        "#DISBATCH REPEAT 1 step 9  z ",
    )
    assert [*tasks.tasks] == [
        "DISBATCH_REPEAT_INDEX=0; ./run ${DISBATCH_REPEAT_INDEX}",
        "DISBATCH_REPEAT_INDEX=1; ./run ${DISBATCH_REPEAT_INDEX}",
        "DISBATCH_REPEAT_INDEX=100; x",
        "DISBATCH_REPEAT_INDEX=150; x",
        "DISBATCH_REPEAT_INDEX=200; x",
        "DISBATCH_REPEAT_INDEX=7; pre  suf",
        "DISBATCH_REPEAT_INDEX=0; pre  z  suf",
    ]


def test_a_barrier_checks_the_stage_in_front_of_it(disbatch):
    tasks = disbatch(
        *("#DISBATCH BARRIER", "a", "#DISBATCH BARRIER", "b", "c"),
        *("#DISBATCH BARRIER CHECK", "d", "#DISBATCH BARRIER key", "e"),
        *("#DISBATCH BARRIER CHECK key", "#DISBATCH BARRIER"),
    )
    assert tasks.constraints.barriers == [
        Barrier(1, checks=False),
        Barrier(3, checks=True, since=1),
        Barrier(4, checks=False),
        Barrier(5, checks=True, since=4),
    ]
    assert tasks.constraints.barrier_words == "#DISBATCH BARRIER"


def test_a_task_gets_the_variables_of_disbatch(disbatch):
    # A barrier has a number, too.
    tasks = disbatch(
        *("#DISBATCH SUFFIX ; env", "true", "#DISBATCH BARRIER", "#", "true"),
        "#DISBATCH REPEAT 2 start 41 true",
    )

    def variables(taskid: int) -> dict[str, str]:
        pairs = re.findall(r"(?m)^DISBATCH_(\w+)=(.*)$", output_of(tasks[taskid]))
        return dict(pairs)

    shared = {"NAMETASKS": "Tasks", "JOBID": "f1", "CORES_PER_TASK": ""}
    shared |= {"ENGINE_RANK": "2", "CYLINDER_RANK": "3"}
    assert variables(1) == shared | {
        "TASKID": "2",
        "STREAM_INDEX": "5",
        "REPEAT_INDEX": "-1",
        "TASKID_ZP": "000002",
        "STREAM_INDEX_ZP": "000005",
        "REPEAT_INDEX_ZP": "-00001",
    }
    assert variables(3) == shared | {
        "TASKID": "4",
        "STREAM_INDEX": "6",
        "REPEAT_INDEX": "42",
        "TASKID_ZP": "000004",
        "STREAM_INDEX_ZP": "000006",
        "REPEAT_INDEX_ZP": "000042",
    }


def test_the_index_of_a_repeat_is_known_to_its_line(disbatch):
    tasks = disbatch("#DISBATCH REPEAT 1 start 5 echo file$DISBATCH_REPEAT_INDEX")
    assert output_of(tasks[0]) == "file5\n"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("#DISBATCH PERENGINE START x", "has #DISBATCH PERENGINE, a command for each"),
        ("#DISBATCH PERNODE x", "run it in the job script"),
        (
            "#DISBATCH FENCE",
            "a directive that disBatch does not know ('#DISBATCH FENCE",
        ),
        ("#DISBATCH", "write PREFIX, SUFFIX, BARRIER or REPEAT"),
        ("#DISBATCH  BARRIER", "that disBatch does not know"),
        ("#DISBATCHBARRIER", "that disBatch does not know"),
        ("#DISBATCH BARRIER2", "that disBatch does not know"),
        ("#DISBATCH BARRIER check", "has 'check' after BARRIER"),
        ("#DISBATCH BARRIER CHEK", "has 'CHEK' after BARRIER, which may be a name or"),
        ("#DISBATCH BARRIER CHCEK", "write #DISBATCH BARRIER CHECK if a failed task"),
        ("#DISBATCH BARRIER CHECKED", "has 'CHECKED' after BARRIER"),
        ("#DISBATCH BARRIER CHECKpoint", "has 'CHECKpoint' after BARRIER"),
        ("#DISBATCH BARRIER chek key", "has 'chek key' after BARRIER"),
        ("#DISBATCH BARRIER key CHECK", "has 'key CHECK' after BARRIER"),
        ("#DISBATCH SUFFIX", "has no blank after SUFFIX"),
        ("#DISBATCH PREFIX\tx", "has no blank after PREFIX"),
        ("#DISBATCH REPEAT x", "a REPEAT that is not understood"),
        ("#DISBATCH REPEAT", "a REPEAT that is not understood"),
        ("#DISBATCH REPEAT 5x", "a REPEAT that is not understood"),
        ("#DISBATCH REPEAT 5 step 2 start 1 x", "a REPEAT that is not understood"),
        ("#DISBATCH REPEAT 5 start x", "a REPEAT that is not understood"),
        ("#DISBATCH REPEAT 3 start 5 stp 2 x", "has 'stp 2' in its REPEAT, where"),
        ("#DISBATCH REPEAT 3 strat 5 step 2 x", "write start 5, or, if it is the"),
        ("#DISBATCH REPEAT 3 steps 2 x", "is the beginning of a command, env steps 2"),
        ("#DISBATCH REPEAT 3 Stp=2 x", "has 'Stp=2' in its REPEAT"),
        ("#DISBATCH REPEAT 3 stp 2", "has 'stp 2' in its REPEAT"),
        ("#DISBATCH REPEAT 3", "a REPEAT without a command, and there is no PREFIX"),
        ("#DISBATCH REPEAT 999999999 x", "makes more than 100000000 tasks"),
        (" #DISBATCH BARRIER", "is a comment to disBatch ('#DISBATCH BARRIER')"),
        ("# DISBATCH PREFIX x", "is a comment to disBatch"),
        ("#disbatch BARRIER", "is a comment to disBatch ('#disbatch BARRIER')"),
        ("#disbatch barrier", "begin the line with #DISBATCH and one blank"),
        ("#DISBACTH BARRIER CHECK", "is a comment to disBatch"),
        ("# DisBatch REPEAT 3 x", "is a comment to disBatch"),
        ("#BARRIER", "is a directive of a plain list ('#BARRIER'), and a comment to"),
        ("#AFTER 0", "write #DISBATCH BARRIER"),
        (
            "#BARIER",
            "seems to say what waits ('#BARIER'), and is a comment to disBatch",
        ),
        ("#AFTR 0", "as #AFTER is: write #DISBATCH BARRIER, which"),
        ("[limit=a] x", "names a kind as a plain list does ('[limit=a] x'), and to"),
        (" [Limit=a] x", "to disBatch it is a command: take [limit=…] out, or"),
        ("#DISBATCH REPEAT 3 [limit=a] x", "names a kind as a plain list does"),
    ],
)
def test_what_disbatch_would_pass_over_is_told_with_its_line(disbatch, line, what):
    with pytest.raises(InputError) as raised:
        disbatch("a", "", line, "b")
    sentence = str(raised.value)
    assert re.match(r"line 3 of \S+/Tasks (has|is|makes|names|seems) ", sentence)
    assert what in sentence


@pytest.mark.parametrize(
    "line",
    [
        *(
            "#DISBATCH BARRIER chunk",
            "#DISBATCH BARRIER key two",
            "#DISBATCH BARRIER 1",
        ),
        *("#DISBATCH BARRIER check_of_inputs", "#DISBATCH BARRIER CHECK CHECK"),
        *("#DISBATCH REPEAT 2 stat x", "#DISBATCH REPEAT 2 ./step 2"),
        *("#DISBATCH REPEAT 2 sleep 5", "#DISBATCH REPEAT 2 start 1 step 1 seq 2"),
        *("# disbatch repeats this", "# a BARRIER", "# dispatch prefix"),
    ],
)
def test_what_disbatch_understands_is_no_mistake(disbatch, line):
    assert len(disbatch("a", line, "b")) >= 2


def test_what_is_no_task_file_is_told(disbatch, tmp_path):
    with pytest.raises(InputError, match=r"can't read the tasklist .*no such file"):
        DisBatchTaskList(str(tmp_path / "none"), "workdir")
    with pytest.raises(InputError, match=r"line 2 of .* has a NUL byte in it"):
        disbatch("a", "b\0")
    with pytest.raises(InputError, match=r"line 1 of .* begins with a byte order mark"):
        disbatch("\ufeffa")
    assert len(disbatch("a", "\ufeffb")) == 2


# ---- GREASY --------------------------------------------------------------------------


def test_numbers_are_those_of_lines_comments_and_blank_lines_included(greasy):
    tasks = greasy(
        *("# comment", "a", "", "b", "\t", "  # comment", "[# 2 #] c"),
        *("[#2,4#]d", "[# -1 #]\te", "[# 7 - 8, -1 ,2, #] f", "[##] g", "[# 9-7 #] h"),
    )
    assert tasks.constraints == Constraints(
        after={2: (0,), 3: (0, 1), 4: (3,), 5: (0, 2, 3, 4), 7: (2, 3, 4)},
        is_foreign=True,
    )
    assert [tasks[each] for each in range(8)] == [*"abcdefgh"]
    assert [*tasks.tasks][2:5] == ["[# 2 #] c", "[#2,4#]d", "[# -1 #]\te"]


def test_a_task_runs_in_its_directory_or_not_at_all(greasy, tmp_path):
    (tmp_path / "there").mkdir()
    tasks = greasy(
        *("a", f"[@ {tmp_path}/there @] pwd; echo x", "[@nowhere@][# 1 #] pwd; echo x"),
        *("[# 1 #] [@ $HOME @] b", "echo a@b @] [@"),
    )
    assert tasks.constraints.after == {2: (0,), 3: (0,)}
    assert output_of(tasks[1]) == f"{tmp_path}/there\nx\n"
    assert output_of(f"({tasks[2]}) || true") == ""
    assert tasks[3] == "cd $HOME || exit; b"
    assert tasks[4] == "echo a@b @] [@"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("[# 1", 'has "[#" without "#]"'),
        ("[#1 ] x", 'has "[#" without "#]"'),
        ("[@ d x", 'has "[@" without "@]"'),
        ("[# 1 #]", "has no command behind its marks ('[# 1 #]')"),
        ("[# 1 #] [# 1 #] x", 'has "[#" twice'),
        ("x [@ d @]", 'has "[@ … @]" behind its beginning'),
        ("[@ @] x", 'has no directory in its "[@ … @]"'),
        ("[@ d #e @] x", 'has no directory in its "[@ … @]"'),
        ("[# +1 #] x", "has '+1' in its \"[# … #]\""),
        ("[# 2->6 #] x", "has '2->6' in its"),
        ("[# mistake #] x", "has 'mistake' in its"),
        ("[# 1,,1 #] x", "has '' in its"),
        ("[# 0 #] x", "has '0' in its"),
        ("[# -1-1 #] x", "has '-1-1' in its"),
        ("[# 4 #] x", "waits for itself, but a task can only wait for tasks in lines"),
        ("[# 1-5 #] x", "waits for line 5, but a task can only wait"),
        ("[# 1000 #] x", "waits for line 1000, but"),
        ("[# 1-3 #] x", "waits for line 2, which is blank or a comment"),
        ("[# -1, -2 #] x", "waits for line 2, which is blank or a comment"),
        ("[# -4 #] x", "waits for the line 4 above it, and there are 3"),
        ('x "[" && [# 1 #] x', 'has "[# … #]" behind its beginning'),
        ("x [#-1#]", "and lets no task wait: write it at the beginning of the line"),
        ("[@ d @] x [# mistake #]", 'has "[# … #]" behind its beginning'),
        ("[limit=a] x", "names a kind as a plain list does ('[limit=a] x'), and to"),
        ("[# 1 #] [limit=a] x", "to GREASY it is a command: take [limit=…] out, or"),
        ("#BARIER", "seems to say what waits ('#BARIER'), and is a comment to GREASY"),
        ("#BARRIER", "write [# … #], with the numbers of lines, before the command"),
    ],
)
def test_what_greasy_would_skip_is_told_with_its_line(greasy, line, what):
    with pytest.raises(InputError) as raised:
        greasy("a", "# b", "c", line, "d")
    assert re.match(
        r"line 4 of \S+/tasks.txt (has|is|names|seems|waits) ", str(raised.value)
    )
    assert what in str(raised.value)


@pytest.mark.parametrize(
    "line",
    [
        "sed 's/[#;].*[;#]//' f",
        "echo ${x[#]}",
        "[ -e x ] && y",
        "# BARRIER",
        "# #BARIER",
    ],
)
def test_what_only_resembles_a_mark_is_a_command_or_a_comment(greasy, line):
    assert [*greasy("a", line).tasks] == ["a", line][: 1 + (line[0] != "#")]


def test_a_list_of_greasy_may_not_have_more_pairs_than_the_memory_holds(
    greasy, monkeypatch
):
    monkeypatch.setattr(dialects, "MAX_WAITS", 3)
    greasy("a", "b", "[# 1-2 #] c", "[# 1 #] d")
    with pytest.raises(InputError, match=r"line 4 of .* wait for more than 3 others"):
        greasy("a", "b", "[# 1-2 #] c", "[# 1-2 #] d")
