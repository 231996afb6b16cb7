"""How farms are started and told what to do, as pages type it.

Rules of this file: what is typed, and what it prints, is read from the page.  A path of
a page that only root may write is replaced by one of the test.
"""

import json
import re
import shutil
import signal
import sqlite3
from contextlib import closing

import pytest

from tests.farm_driver import assert_ends
from tests.pages import take_block
from tests.process.page_desk import SRUN, Desk, assert_has, assert_prints
from tests.required import need_launcher
from tests.support import ROOT


@pytest.fixture
def desk(create_place):
    return Desk(create_place())


@pytest.fixture
def ranks(desk):
    """A desk with an srun that starts ranks."""
    need_launcher()
    desk.install("srun", SRUN)
    return desk


# ---- runners.md, handlers.md, hooks.md -----------------------------------------------


def test_a_runner_of_a_section(desk):
    desk.install("module", 'echo "$@" >> loaded')
    desk.place.write_list(["echo $OMP_PROC_BIND"])
    section = take_block("runners.md", "[quiet]").text()
    (desk.place.directory / "mine.ini").write_text(section)
    desk.type("mpifarm --config mine.ini --runner quiet tasks.txt")
    assert desk.place.log(0) == "close\n"
    assert desk.place.notes("loaded") == ["load gcc/13"]


def test_what_would_run(desk):
    (typed,) = take_block("runners.md", "mpifarm --dry-run").typed
    (desk.place.directory / "env.sh").touch()
    here, printed = str(desk.place.directory), desk.type(typed.command)
    printed = [line.replace(here, "/home/ada/study") for line in printed]
    assert_prints(printed, typed.printed)


def test_the_example_of_a_runner_that_tries_again(desk):
    examples = desk.place.directory / "docs" / "examples"
    shutil.copytree(ROOT / "docs" / "examples", examples)
    (examples / "tasks.txt").write_text("test -s once || ! date > once\n")
    desk.type(take_block("runners.md", "cd docs/examples").text())
    log = examples / "tasks.txt_workdir" / "logs" / "log_0"
    assert log.read_text() == "try 1 of 3 ended with status 1\n"


def test_the_containers_of_a_farm_are_ended_by_its_label(desk):
    (line,) = take_block("runners.md", "podman kill").lines
    desk.install("podman", '[[ $1 == ps ]] && echo "$4" || echo "$@" >> ended')
    desk.type(line)
    assert desk.place.notes("ended") == ["kill label=mpifarm.farm=1a2b3c4d"]


def test_a_handler_of_a_section(desk):
    place = desk.place
    desk.install("convert", 'echo "from $1" > "$2"')
    (place.directory / "files.txt").write_text("a photo.jpg\nb.tiff\n")
    (place.directory / "mine.ini").write_text(take_block("handlers.md", "[png]").text())
    desk.type(take_block("handlers.md", "mpifarm files.txt").text())
    assert place.notes("a photo.png") == ["from a photo.jpg"]
    assert place.notes("b.png") == ["from b.tiff"]


def test_hooks_that_are_typed(desk):
    place = desk.place
    place.write_list(["true", "exit 3"])
    desk.install("mail", 'echo "$@: $(cat)" >> mails')
    place.script("tell-slack", 'echo "$MPIFARM_EVENT" >> told')
    events, end, failure = take_block("hooks.md", "mpifarm --events").lines
    desk.type(events, status=1)
    assert '"event": "farm_ended"' in place.notes("events.jsonl")[-1]
    desk.type("mpifarm retry tasks.txt")
    desk.type(end, status=1)
    (mail,) = place.notes("mails")
    assert mail.startswith(f"-s farm in {place.workdir} me: nothing is left to do")
    desk.type("mpifarm retry tasks.txt")
    desk.type(failure.replace("/var/lib/node_exporter/", ""), status=1)
    assert place.notes("told") == ["task_failed"]
    assert 'state="failed"} 1' in "\n".join(place.notes("farm.prom"))


# ---- defaults.md ---------------------------------------------------------------------


def test_a_farm_names_what_files_and_variables_have_set(desk):
    place = desk.place
    place.write_list(["true"])
    options = take_block("defaults.md", "[options]\nproc").text()
    (place.directory / "mpifarm.ini").write_text(options)
    printed = desk.type("MPIFARM_GRACE=30 mpifarm tasks.txt")
    here = [each.replace(str(place.directory), "/home/ada/project") for each in printed]
    assert_has(here, take_block("defaults.md", "mpifarm: set by default").lines)


def test_what_a_site_sets(desk):
    place = desk.place
    place.write_list(["true"])
    place.directory.chmod(0o755)
    site = place.directory / "site.ini"
    text = take_block("defaults.md", "[options]\nlock-area").text()
    for path in ("/scratch/locks", "/var/log/mpifarm"):
        (place.directory / path[1:]).mkdir(parents=True)
        text = text.replace(path, f"{place.directory}{path}")
    site.write_text(text)
    site.chmod(0o644)
    place.environment["MPIFARM_SITE_CONFIG"] = str(site)
    printed = "\n".join(desk.type("mpifarm tasks.txt"))
    assert f"--grace 20 ({site})" in printed
    assert f"is flock on {place.directory}/scratch/locks/" in printed
    (events,) = place.directory.glob("var/log/mpifarm/*.jsonl")
    assert "farm_ended" in events.read_text()


# ---- submit.md, batch-systems.md -----------------------------------------------------


def test_a_job_is_submitted_and_watched(ranks):
    place = ranks.place
    place.write_list(["true"] * 201)
    ranks.install("sbatch", 'echo "$2" >> submitted; echo 4711')
    typed = take_block("submit.md", "mpifarm submit -N 8 -t 4:00:00 tasks")
    submit, status = typed.lines
    printed = ranks.type(submit)
    here = [line.replace(str(place.directory), "/home/me") for line in printed]
    assert_has(here, take_block("submit.md", "mpifarm: Slurm: one farm").lines)
    assert_ends(ranks.start(f"bash {place.workdir}/job.slurm", job="4711"), 0)
    assert "201 finished, 0 failed" in ranks.type(status)[1]
    place.tasklist.write_text("true\n" * 202)
    ranks.type(take_block("submit.md", "mpifarm submit -N 8 -t 12:00").text())
    script = place.notes("submitted")[-1]
    assert "--account=phys --partition=long" in place.content("job-2.slurm").decode()
    assert_ends(ranks.start(f"bash {script}", job="4712"), 0)
    assert (place.workdir / "logs" / "packed").exists()


def test_a_job_that_begins_when_a_list_is_finished(desk):
    place = desk.place
    desk.install("sbatch", 'echo "$@" >> submitted')
    desk.type(take_block("batch-systems.md", "sbatch --dependency").text())
    assert place.notes("submitted") == ["--dependency=afterok:JOB next.slurm"]
    begin = take_block("batch-systems.md", "grep -q").text()
    place.write_list(["true", "[ -e go ]"])
    place.finish(status=1)
    desk.type(begin, status=1)
    place.allow()
    desk.type("mpifarm retry tasks.txt && mpifarm tasks.txt")
    desk.type(begin)


# ---- when-ranks-fail.md, when-tasks-fail.md, file-systems.md -------------------------


def test_supervise_as_it_is_typed(ranks):
    place = ranks.place
    place.write_list(["true"] * 4)
    (line,) = take_block("when-ranks-fail.md", "mpifarm supervise [").lines
    ranks.type(line.replace("[--max-restarts N] ", ""))
    place.assert_all_finished()
    place.write_list(["true"] * 5)
    ranks.type(line.replace("[--max-restarts N]", "--max-restarts 1"))
    place.assert_all_finished()


SAVES = """\
#!/bin/bash
trap 'echo saved > "$2"; exit 0' USR1
[[ -e $2 ]] && exit 0
touch started.$PROC_NUMBER
while :; do sleep 0.02; done
"""


def test_a_program_that_saves_at_the_signal_is_kept_by_its_shell(desk):
    place = desk.place
    place.write_program("simulate", SAVES)
    place.tasklist.write_text(take_block("when-tasks-fail.md", "trap : USR1").text())
    farm = place.start("--checkpoint-signal", "USR1", "--grace", "60")
    place.wait_for_marks("started", 1)
    farm.send_signal(signal.SIGUSR1)
    assert_ends(farm, 75)
    assert place.notes("state.bin") == ["saved"]
    place.finish()


def test_a_file_system_is_tested_on_one_node_and_on_two(ranks):
    there = ranks.place.directory / "scratch"
    there.mkdir()
    one, two = take_block("file-systems.md", "mpifarm selftest").lines
    for line in (one, two):
        child = ranks.start(line.replace("/scratch/me", str(there)))
        assert child.wait() in (0, 1), child.text()
        assert re.search(r"\block", child.text())
    assert [*there.iterdir()] == []


# ---- timeline.md, coming-from-parallel.md --------------------------------------------


def test_perfettos_query_finds_the_attempts_that_have_not_completed(desk):
    """The table that Perfetto makes of the events of a timeline, by its manual."""
    place = desk.place
    place.write_list(["true", "true", "false"])
    place.finish(status=1)
    timeline = json.loads(place.content("timeline.json"))
    names = ("ts", "dur", "name", "cat")
    attempts = [[each[name] for name in names] for each in timeline if "dur" in each]
    (query,) = take_block("timeline.md", "  select ts").lines
    with closing(sqlite3.connect(":memory:")) as perfetto:
        perfetto.execute("create table slice (ts, dur, name, category)")
        perfetto.executemany("insert into slice values (?, ?, ?, ?)", attempts)
        found = perfetto.execute(query).fetchall()
    assert len(attempts) == 3
    assert [name for *_, name in found] == ["false"]


def test_an_option_of_parallel_is_answered(desk):
    (typed,) = take_block("coming-from-parallel.md", "mpifarm --halt").typed
    assert_prints(desk.type(typed.command, status=2), typed.printed)
