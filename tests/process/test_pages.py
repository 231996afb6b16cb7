"""The examples of pages of the documentation, typed as they stand there.

Rules of this file: what is typed is read from the page, never repeated here
(`typed_page`).
"""

import gzip
import json
import re
import shutil
import signal

from tests.farm_driver import assert_ends
from tests.pages import (
    find_missing,
    read_page,
    take_block,
    tutorial,
    without_varying,
)
from tests.process.typed_page import HOST, Page
from tests.support import try_rounds, wait_until

WAITS = "touch started.$PROC_NUMBER; until [ -e go ]; do sleep 0.02; done"


def counts_of_farms(place, what):
    """A count of each farm, by what it says of itself."""
    states = [
        json.loads(path.read_text()) for path in place.workdir.glob("farms/*.json")
    ]
    return [state["counts"][what] for state in states]


def running(place):
    """How many tasks run, by what the farms say of themselves."""
    return sum(counts_of_farms(place, "running"))


def test_what_a_running_farm_is_told(create_place):
    place = create_place([WAITS] * 14)
    page = Page(place, "telling-a-farm.md")
    farm = page.type("mpifarm -n 2 tasks.txt")
    place.wait_for_marks("started", 2)
    page.run("cancel tasks.txt 3,7-9", "cancel tasks.txt 0,4")
    assert place.failed() == [0, 3, 4, 7, 8, 9]
    page.run("hold tasks.txt   ", "hold tasks.txt 12   ")
    held = json.loads(place.content("held"))
    assert (held["all"], held["tasks"]) == (True, "12")
    page.run("release tasks.txt  ")
    page.run("drain tasks.txt")
    place.allow()
    assert_ends(farm, 75)
    page.run("hold tasks.txt 12")
    page.run("release tasks.txt 12")
    place.assert_sound()


def test_what_is_added_while_farms_wait_for_more(create_place):
    place = create_place(["true"] * 1000)
    page = Page(place, "adding-tasks.md")
    place.write_program("simulate", '#!/bin/sh\necho "seed $2 is done"\n')
    place.script("generate", "seq -f './simulate --seed %.0f' 0 5")
    (place.directory / "out").mkdir()
    farms = [page.start("--follow tasks.txt")]
    wait_until(lambda: [*place.workdir.glob("farms/*.json")])
    page.run("mpifarm add")
    farms.append(page.start("--follow 10m"))
    wait_until(lambda: len(place.claims()) == 2)
    wait_until(lambda: len(place.finished()) == 1001)
    assert place.notes("out/3.txt") == ["seed 3 is done"]
    # One may have done what was added before the other has seen it, which would then
    # leave it.
    wait_until(lambda: counts_of_farms(place, "total") == [1001] * 2)
    (place.workdir / "drain").touch()
    for farm in farms:
        assert_ends(farm, 0)
    place.assert_all_finished()
    page.run("generate | mpifarm")
    page.run("log run1 3")
    page.leave("srun")  # tests/slurm types it


def test_what_is_shown_of_tasks_that_wait_while_workers_are_free(create_place):
    place = create_place()
    tasks = take_block("what-is-going-on.md", "./mesh")
    shown = take_block("what-is-going-on.md", "$ mpifarm status")
    page = Page(place, shown)
    place.tasklist.write_text(tasks.text())
    for name in ("mesh", "solve", "collect", "plot"):
        place.script(name, "until [ -e go ]; do sleep 0.02; done")
    before = " ".join(tasks.before.split())
    command = "mpifarm --limit licence=1 -n 4 tasks.txt"
    assert f"`{command}`" in before
    farm = page.type(command)
    wait_until(lambda: running(place) == 2)
    hold = "mpifarm hold tasks.txt 5"
    assert f"`{hold}`" in read_page("what-is-going-on.md")
    assert_ends(page.type(hold), 0)
    page.run("status", "ls")
    farm.end()


def test_the_pace_of_a_list_and_the_seats_of_its_kinds(create_place):
    place = create_place(["true"] * 4)
    page = Page(place, "pace.md", "mpifarm")
    page.run("--start-rate 20")
    place.write_list(["true"] * 6)
    page.run("--start-rate 90/m")
    assert place.result()["this_farm"]["seconds"] >= 0.6, "2 starts, one in 2/3 s"
    tasks = take_block("pace.md", "./simulate 1")
    other = create_place(content=tasks.text().encode(), name="there")
    page_there = Page(other, "pace.md", "mpifarm --limit")
    (other.directory / "out").mkdir()
    (other.directory / "out" / "1").touch()
    other.script("simulate", "exit 0")
    other.script("solve", "echo solved $1")
    page_there.run("--limit")
    assert other.log(1) == "solved 1.mesh\n"
    assert (other.directory / "1.tar").exists()
    page.leave("--limit")


def test_the_number_of_a_task_has_the_name_that_another_tool_gives_it(create_place):
    variables = {"LAUNCHER_JID", "SLURM_ARRAY_TASK_ID"}
    for variable in variables:
        place = create_place([f"echo ${variable}"] * 2, name=variable)
        page = Page(place, "lists-from-other-tools.md", "mpifarm --id-variable")
        page.run(variable)
        page.leave(*variables - {variable})
        assert [place.log(0), place.log(1)] == ["1\n", "2\n"]


def test_what_a_farm_that_is_done_has_left(create_place):
    place = create_place(["echo $PROC_NUMBER"] * 18)
    place.finish()
    page = Page(place, "logs.md", "mpifarm log")
    page.run("log tasks.txt_workdir 17")
    timeline = Page(place, "timeline.md", "mpifarm timeline")
    timeline.run("-o all.json", "all.json.gz")
    merged = (place.directory / "all.json").read_bytes()
    assert len(json.loads(merged)) > 18
    assert gzip.decompress((place.directory / "all.json.gz").read_bytes()) == merged


def test_what_may_be_done_with_an_edited_list(create_place):
    place = create_place(["true"])
    page = Page(place, "edited-lists.md", "mpifarm", "echo")
    page.leave("why")
    place.script("simulate", 'echo "seed $2"')
    (place.directory / "out").mkdir()
    place.finish()
    page.run("echo")
    page.run("mpifarm tasks.txt")
    assert place.notes("out/3.txt") == ["seed 3"]
    place.tasklist.write_text("true first\n" + place.tasklist.read_text())
    assert_ends(page.start("--remap"), 0)  # test_pages_of_lists.py compares
    place.assert_all_finished()
    assert_ends(page.start("--again"), 0)
    assert len([*place.directory.glob("tasks.txt_workdir.before-*")]) == 1
    place.assert_all_finished()


def test_what_is_said_of_a_line_that_was_wrong(create_place):
    place = create_place([*["true"] * 3, "simulatte --seed 3"])
    page = Page(place, "edited-lists.md", "mpifarm why")
    assert_ends(page.type("mpifarm tasks.txt"), 1)
    page.run("mpifarm why tasks.txt")


def test_what_is_checked_and_put_back(create_place):
    causes = {3: "exit 3", 4: "ls /no", 5: "ls /no", 10: "kill -9 $$", 11: "nothing"}
    causes[12] = "kill -SEGV $$"
    causes |= dict.fromkeys([7, 8, 9], "exit 3")
    place = create_place([causes.get(each, "true") for each in range(13)])
    page = Page(place, "check-and-repair.md", "mpifarm")
    place.finish(status=1)
    for word, back in [
        ("--why 2", {4, 5}),
        ("--ids 3,7-9", {3, 7, 8, 9}),
        ("--status 137", {10}),
        ("--why signal", {12}),
        ("all that failed", {11}),
    ]:
        before = {*place.to_process()}
        page.run(word)
        assert {*place.to_process()} == before | back
    assert_ends(page.start("mpifarm check tasks"), 0)  # test_pages_of_lists.py compares
    page.run("check --repair tasks", "--assume-idle")
    place.assert_sound()


def test_what_tasks_that_save_and_limits_are_started_with(create_place):
    place = create_place(["[ -e saved ] || { touch saved; exit 75; }"])
    page = Page(place, "when-tasks-fail.md", "mpifarm")
    page.run("--requeue-status 75")
    assert [each.status for each in place.attempts()] == [75, 0]
    saver = take_block("when-tasks-fail.md", "#!/bin/bash")
    place.write_list(["[ -e saved ] || { touch saved; exit 75; }", "./save"])
    place.write_program("save", saver.text())
    place.script("one-step", 'echo "$1"')
    page.run("--checkpoint-signal USR1")
    assert place.log(1).split() == [str(each) for each in range(1, 101)]
    assert place.notes("step.1") == ["101"]
    place.assert_all_finished()


KILLED = -signal.SIGKILL
OF_THE_INSTALLATION = ("python3 -m venv", ". ~", "cd mpifarm", "pip install", "mkdir")


def status_of(typed):
    """The exit status that the page shows a command to have."""
    ends = re.compile(r"^mpifarm: exit status (\d+): ", re.MULTILINE)
    shown = ends.search("\n".join(typed.printed))
    return KILLED if " KILL " in typed.command else int(shown[1]) if shown else 0


def without_counts(lines):
    return [re.sub(r"\d+", "N", line) for line in lines]


def test_the_tutorial_on_a_laptop_word_by_word(create_place):
    place = create_place()
    page = Page(place, "tutorial.md")
    program, laptop, cluster = tutorial()
    left = page.take_rest()
    for typed in (*laptop, *cluster):  # tests/slurm types the second part
        left.remove(typed)
    assert [typed.command for typed in left] == program.splitlines()
    (place.directory / "simulate").write_text(program)
    steps = [
        each for each in laptop if not each.command.startswith(OF_THE_INSTALLATION)
    ]

    def type_until_it_began(typed):
        def run(_number):
            child = page.type(typed.command)
            assert_ends(child, status_of(typed))
            # killed before its first word, on a machine that stalls
            return None if " KILL " in typed.command and not child.text() else child

        return try_rounds(run)

    for number, typed in enumerate(steps):
        child = type_until_it_began(typed)
        text = child.text().replace(str(place.directory), "/home/ada/study")
        printed = without_varying(text.splitlines(), HOST)
        shown = without_varying(typed.printed)
        if " KILL " in steps[number - 1].command:  # who knows how far it came
            shown, printed = without_counts(shown), without_counts(printed)
        assert find_missing(shown, printed) == "", text
    place.assert_sound()


def test_a_command_and_its_arguments(create_place):
    place = create_place(["true"])
    page = Page(place, "arguments.md", "mpifarm", "find")
    place.write_program("convert", '#!/bin/sh\necho "$1" > "$2"\n')
    place.script("simulate", 'echo "$@"')
    place.script("reduce", 'echo "$1" > "$2"')
    for name in ("data/x.nc", "out/made", "a b.jpg", "c.jpg"):
        path = place.directory / name
        path.parent.mkdir(exist_ok=True)
        path.touch()

    def begin_another_list():
        shutil.rmtree(place.directory / "mpifarm_workdir")

    page.run("convert")
    assert (place.directory / "a b.png").read_text() == "a b.jpg\n"
    begin_another_list()
    page.run("--retries 1 './simulate --seed")
    page.run("status")
    page.run("mpifarm add")
    page.run("log mpifarm_workdir --failed")
    made = (place.directory / "mpifarm_workdir" / "stdin.txt").read_text().splitlines()
    assert made[1:3] == [
        "./simulate --seed 1 --model large",
        "./simulate --seed 2 --model small",
    ]
    assert made[6:] == ["./simulate --long 4", "./simulate --long 5"]
    begin_another_list()
    page.run("find data")
    page.run("./reduce")
    assert place.notes("out/x.h5") == ["data/x.nc"]
    page.leave("submit")


def test_lists_with_an_order(create_place):
    place = create_place(["true"])
    page = Page(place, "order.md", "mpifarm")
    for number, (tasks, made, lines) in enumerate(
        [
            (take_block("order.md", "# One part"), "both.txt", ["300"]),
            (
                *(take_block("order.md", "seq 200000"), "all.txt"),
                ["17984", "200000", "2000"],
            ),
        ]
    ):
        there = create_place(content=tasks.text().encode(), name=f"there{number}")
        there.finish()
        assert there.notes(made) == lines
    page.run("mpifarm tasks.txt --shuffle")
    page.run("--shuffle 42")
    page.run("longest-first")


def test_what_is_looked_for_in_a_workdir(create_place):
    place = create_place(["true", "echo wrong; exit 3", "echo three"])
    page = Page(place, "looking-in.md", "mpifarm")
    place.finish(status=1)
    for word in ("mpifarm status tasks.txt", "mpifarm ls tasks.txt", "mpifarm why"):
        child = page.start(word)
        assert_ends(child, 0)
        assert "failed" in child.text()
    failed = page.start("--failed --last 5")
    assert_ends(failed, 0)
    assert failed.text().splitlines() == ["==> task 1 <==", "wrong"]
    page.run("--slowest 3")
    page.run("joblog")
    log = (place.directory / "joblog").read_text().splitlines()
    assert {line.split("\t")[-1] for line in log[1:]} == {*place.tasks}
    (typed,) = page.take_rest()
    assert "--host n18" in typed.command
    assert_ends(page.type(typed.command.replace("n18", HOST)), 0)
    assert place.to_process() == [1]


def test_the_cpus_and_the_gpu_of_a_task(create_place):
    place = create_place(["echo $CUDA_VISIBLE_DEVICES"] * 8)
    page = Page(place, take_block("cpus-and-gpus.md", "echo 'grep Cpus"))
    gpus = take_block("cpus-and-gpus.md", "export CUDA_VISIBLE")
    child = page.type("; ".join(typed.command for typed in page.take_rest()))
    assert_ends(child, 0)
    assert child.text().splitlines()[-1].startswith("Cpus_allowed_list:\t")
    child = page.type("\n".join(typed.command for typed in gpus.typed))
    assert_ends(child, 0)
    assert {place.log(each) for each in range(8)} == {"3\n", "5\n"}
