"""Lists of disBatch and GREASY, as people have them, run to the right result.

Rules of this file: the structure of each list is that of a public one, its words are
ours.  A list is run once, by one farm with four workers; its order shows in what its
commands leave.
"""

import re

import pytest

from tests.farm_driver import FarmDriver
from tests.pages import take_block
from tests.process.test_bad_input import complaint

NOTE = 'note() { echo "$1" >> order; }'
"""A shell function that says when a task has ended; a short append is never torn."""


def order_of(place: FarmDriver) -> list[str]:
    return (place.directory / "order").read_text().split()


# ---- disBatch ------------------------------------------------------------------------


def test_stages_that_each_have_a_prefix_and_a_suffix(create_place):
    """Convert the light cones of a simulation, sum, remove the old, rename the new."""
    content = """\
#DISBATCH PREFIX cd cones; ../convert \n\
#DISBATCH SUFFIX  > ../${DISBATCH_NAMETASKS}_${DISBATCH_TASKID}.log 2>&1 \n\
Step1/a_heal
Step1/a_pid
Step2/b_heal
#DISBATCH BARRIER CHECK
#DISBATCH PREFIX cd new/
#DISBATCH SUFFIX ; ../../sums > ../../${DISBATCH_NAMETASKS}_${DISBATCH_TASKID}.log
heal/
pid/
#DISBATCH BARRIER CHECK
#DISBATCH PREFIX \n\
#DISBATCH SUFFIX \n\
rm -r cones
#DISBATCH BARRIER CHECK
mv new final
"""
    place = create_place(content=content.encode())
    for name in ("Step1/a_heal", "Step1/a_pid", "Step2/b_heal"):
        path = place.directory / "cones" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    place.write_program(
        "convert",
        "#!/bin/sh\nsleep 0.2\nmkdir -p ../new/${1##*_}\n"
        "cp $1 ../new/${1##*_}/${1%%/*} && echo did $1\n",
    )
    place.write_program("sums", "#!/bin/sh\nsleep 0.1\ncat Step* > sums\n")
    assert place.run("-t", "disbatch", "-n", "4") == 0
    final = place.directory / "final"
    assert (final / "heal" / "sums").read_text() == "Step1/a_heal\nStep2/b_heal\n"
    assert (final / "pid" / "sums").read_text() == "Step1/a_pid\n"
    assert not (place.directory / "cones").exists()
    # A barrier has a number of disBatch's, too: that of the first is 3.
    logs = sorted(path.name for path in place.directory.glob("*.log"))
    assert logs == [f"tasks.txt_{each}.log" for each in (0, 1, 2, 4, 5)]
    assert "did Step1/a_pid" in (place.directory / logs[1]).read_text()


def test_a_repeat_that_draws_samples_by_its_index(create_place):
    """Read settings, then draw with a seed; the last line has no newline."""
    content = """\
#DISBATCH PREFIX . ./settings ; use x ; export N=2 ; ./draw ${DISBATCH_REPEAT_INDEX} \n\
#DISBATCH SUFFIX &> logs/s${DISBATCH_REPEAT_INDEX}.log
#DISBATCH REPEAT 4 start 32"""
    place = create_place(content=content.encode())
    (place.directory / "logs").mkdir()
    (place.directory / "settings").write_text("use() { export CHOSEN=$1; }\n")
    place.write_program("draw", '#!/bin/sh\necho "$CHOSEN $N $@"\n')
    assert place.run("-t", "disbatch") == 0
    said = {path.name: path.read_text() for path in place.directory.glob("logs/s*")}
    assert said == {f"s{each}.log": f"x 2 {each}\n" for each in range(32, 36)}


def test_a_check_that_fails_ends_the_list_until_a_retry(create_place):
    """Commands in parentheses, one of which fails in front of a check."""
    content = """\
( echo 23 ; sleep 0.1 ; )
( echo 24 ; sleep 0.1 ; )

# this one fails
( echo 25 ; [ -e mended ] || exit 13 )
#DISBATCH BARRIER CHECK
( echo 26 )
#DISBATCH BARRIER
( echo 27 )
"""
    place = create_place(content=content.encode())
    assert place.run("-t", "disbatch") == 1
    assert sorted(place.ids("failed")) == [2, 3, 4]
    outcomes = {each.taskid: each.outcome for each in place.attempts()}
    assert outcomes[2] == "failed"
    assert outcomes[3] == outcomes[4] == "not run: task 2 failed"
    (place.directory / "mended").touch()
    assert place.run_words("retry", str(place.tasklist), "-t", "disbatch") == 0
    assert place.run("-t", "disbatch") == 0
    assert [place.log(each).strip() for each in (3, 4)] == ["26", "27"]


# ---- GREASY --------------------------------------------------------------------------


def test_chains_of_steps_of_which_one_breaks(create_place):
    """For each seed five steps, each after the one above it; the first only enters."""
    lines = []
    for seed in (1, 2):
        lines.append("cd runs")
        steps = [f"{NOTE}; sleep 0.05; note {seed}{step}" for step in "abcd"]
        if seed == 1:
            steps[2] = "false"
        lines += [f"[# -1 #] {step}" for step in steps]
    place = create_place(lines)
    (place.directory / "runs").mkdir()
    assert place.run("-t", "greasy", "-n", "4") == 1
    order = order_of(place)
    assert [each for each in order if each[0] == "1"] == ["1a", "1b"]
    assert [each for each in order if each[0] == "2"] == ["2a", "2b", "2c", "2d"]
    assert sorted(place.ids("failed")) == [3, 4]
    outcomes = {each.taskid: each.outcome for each in place.attempts()}
    assert outcomes[4] == "not run: task 3 failed"


def test_directories_and_numbers_of_lines(create_place):
    """A manual's example: comments have numbers, too, and marks stand in any order."""
    content = f"""\
# this line is a comment
{NOTE}; note 2
  # the next line has the number 4

{NOTE}; sleep 0.1; note 5
[# 5 #]\t{NOTE}; sleep 0.1; note 6
[#2, 5 - 6 #] {NOTE}; note 7
[@ there @] {NOTE}; sleep 0.3; note 8
[@ there @][# -1 #] {NOTE}; note 9
[# 7,8 #] [@ $PWD @] pwd
"""
    place = create_place(content=content.encode())
    (place.directory / "there").mkdir()
    assert place.run("-t", "greasy", "-n", "4") == 0
    order = order_of(place)
    assert sorted(order) == ["2", "5", "6", "7"]
    assert [each for each in order if each != "2"] == ["5", "6", "7"]
    assert order[-1] == "7"
    assert (place.directory / "there" / "order").read_text() == "8\n9\n"
    assert place.log(6) == f"{place.directory}\n"


# ---- pages and mistakes --------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "options", "made"),
    [
        (take_block("order.md", "# One part"), (), {"both.txt": "300\n"}),
        (
            *(take_block("order.md", "seq 200000"), ()),
            {"all.txt": "17984\n200000\n2000\n"},
        ),
        (
            take_block("lists-from-other-tools.md", "#DISBATCH"),
            ("-t", "disbatch"),
            {"sum": "100\n225\n400\n625\n"},
        ),
        (
            take_block("lists-from-other-tools.md", "# Line 1"),
            ("-t", "greasy"),
            {"all": "1\n2\n3\n4\n5\n1\n2\n3\n4\n5\n6\n7\n"},
        ),
    ],
)
def test_the_lists_of_the_pages_do_what_the_pages_say(
    create_place, tasks, options, made
):
    place = create_place(content=tasks.text().encode())
    assert place.run("-n", "4", *options) == 0
    found = {name: (place.directory / name).read_text() for name in made}
    assert {name: re.sub(r"(?m)^\s+", "", text) for name, text in found.items()} == made


@pytest.mark.parametrize(
    ("options", "line", "told"),
    [
        ((), "#AFTER 3", "lets task 1 wait for task 3, but"),
        (("-t", "disbatch"), "#DISBATCH PERENGINE START x", "has #DISBATCH PERENGINE,"),
        (("-t", "greasy"), "[# 3 #] true", "waits for line 3, but"),
    ],
)
def test_what_is_not_understood_is_told_before_anything_starts(
    create_place, options, line, told
):
    place = create_place(["true", line, "true"])
    said = complaint(place, *options, but=())
    assert f"line 2 of {place.tasklist} {told} " in said
