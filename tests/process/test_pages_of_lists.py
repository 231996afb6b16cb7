"""The examples of the pages on lists, databases and checks, typed as they stand there.

Rules of this file: those of test_pages.py.
"""

import re
from shlex import split

from tests.farm_driver import assert_ends
from tests.pages import take_block, without_varying
from tests.process.stand_ins import SRUN
from tests.process.test_databases import INI
from tests.process.test_pages import WAITS
from tests.process.typed_page import HOST, Page
from tests.required import need_launcher


def test_what_a_check_finds(create_place):
    (example,) = take_block("check-and-repair.md", "$ mpifarm check").typed
    place = create_place([WAITS] * 1000)
    gone = {*range(204, 208)}
    finished, failed = {*range(704)} - gone, {704, 705, 706}
    left = {*range(1000)} - gone - finished - failed

    def write(name, ids):
        lines = "".join(f"{each} {place.tasks[each]}\n" for each in sorted(ids))
        (place.workdir / "new").write_text(lines)
        (place.workdir / "new").rename(place.workdir / name)

    place.workdir.mkdir()
    write("finished", finished)
    write("failed", failed)
    write("toprocess", left)
    (place.workdir / "logs").mkdir()
    for each in finished | failed:
        (place.workdir / "logs" / f"log_{each}").touch()
    page = Page(place, take_block("check-and-repair.md", "$ mpifarm check"))
    farm = page.type("mpifarm -n 4 tasks.txt")
    place.wait_for_marks("started", 4)
    write("toprocess", {*place.to_process()} | {17, 31})
    check = page.start("mpifarm check")
    assert_ends(check, 1)
    shown = re.sub(r"pid \d+", "pid", "\n".join(example.printed))
    printed = re.sub(r"pid \d+", "pid", check.text())
    assert without_varying(printed.splitlines(), HOST) == without_varying(
        shown.splitlines()
    )
    farm.end()


def test_a_database_is_made_farmed_and_printed(create_place):
    need_launcher()
    place = create_place(["echo one", "exit 3", "echo three"])
    page = Page(place, "databases.md", "mpifarm", "srun")
    place.write_program("bin/srun", SRUN)
    page.run("import tasks.txt tasks.db")
    farm = page.start("srun")
    assert_ends(farm, 1)
    page.run("ls tasks.db --failed", "--state failed       ")
    page.leave("import LIST FILE.db")
    page.run("export tasks.db > tasks.txt")
    assert place.tasklist.read_text().splitlines() == place.tasks
    page.run("-o again.txt")
    assert (place.directory / "again.txt").read_text() == "exit 3\n"
    place.finish(status=1)
    page.run("--sqlite out.db")


def test_the_syntax_of_an_import_is_that_of_its_example():
    (syntax,) = take_block("databases.md", "mpifarm import LIST").lines
    example = take_block("databases.md", "mpifarm import tasks.txt").lines[0]
    typed = syntax.replace("LIST", "tasks.txt").replace("FILE", "tasks")
    assert split(typed) == split(example, comments=True)


def test_pytaskfarmer_is_told_of_databases_as_the_page_says():
    assert take_block("databases.md", "[sqlite]").text() == INI


def without_numbers(lines):
    """Return one line, for a page breaks long ones, and each number as N."""
    return re.sub(r"\d+([ -]\d+)*", "N", " ".join(" ".join(lines).split()))


def test_what_is_told_of_an_edited_list(create_place):
    first, second, others = (
        [f"true {each}" for each in part] for part in ("ab", "cd", "ef")
    )
    place = create_place([*first, *second, "false", "false"])
    place.finish(status=1)
    place.write_list(["false", "false", *second, *others])
    for block in (
        take_block("edited-lists.md", "$ mpifarm --remap"),
        take_block("edited-lists.md", "$ mpifarm --again"),
    ):
        page, (example,) = Page(place, block), block.typed
        farm = page.start("mpifarm")
        assert_ends(farm, 1)
        text = farm.text().replace(str(place.directory), "/home/ada/study")
        shown = without_numbers(example.printed[1:])
        assert shown in without_numbers(text.splitlines())


def test_lists_of_other_tools_run_as_the_page_says(create_place):
    disbatch = create_place(name="disbatch")
    tasks = take_block("lists-from-other-tools.md", "#DISBATCH").text()
    (disbatch.directory / "Tasks").write_text(tasks)
    page = Page(disbatch, "lists-from-other-tools.md", "mpifarm --tasklist disbatch")
    page.run("Tasks")
    assert (disbatch.directory / "sum").read_text() == "100\n225\n400\n625\n"
    content = take_block("lists-from-other-tools.md", "# Line 1").text().encode()
    greasy = create_place(content=content, name="greasy")
    page = Page(greasy, "lists-from-other-tools.md", "mpifarm --tasklist greasy")
    page.run("tasks.txt")
    assert (greasy.directory / "lines").read_text().split() == ["5"]


def test_the_first_command_of_the_pages_farms_on_eight_ranks(create_place):
    need_launcher()
    place = create_place(["true"])
    for page in (Page(place, "design.md", "srun"), Page(place, "index.md", "srun")):
        place.write_program("bin/srun", SRUN)
        page.run("-N 8")
        assert place.result()["this_farm"]["ranks"] == 8
        place.assert_all_finished()
