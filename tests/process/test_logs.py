"""``--logs`` and ``mpifarm log`` with whole farms: what was written is what is read."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from mpifarm.output import records as logfiles
from mpifarm.output.reader import OutputReader, find_outputs
from tests.farm_driver import MPIFARM, FarmDriver
from tests.support import Child, try_rounds, wait_until


def show(place: FarmDriver, *words: str, status: int = 0) -> bytes:
    """What ``mpifarm log`` prints; with its complaints, which there are none of."""
    child = start_log(place, *words)
    assert child.wait() == status, child.text()
    return child.output.read_bytes()


def start_log(place: FarmDriver, *words: str) -> Child:
    argv = [*MPIFARM, "log", str(place.workdir), *words]
    return place.start_command(argv)


def names(place: FarmDriver, directory: str = "") -> list[str]:
    path = place.workdir / "logs" / directory
    return sorted(each.name for each in path.iterdir() if each.is_file())


# ---- byte for byte ------------------------------------------------------------------

ODD = {
    "true": b"",
    "echo out; echo err >&2": b"out\nerr\n",
    "printf 'no newline'": b"no newline",
    r"printf '\000\377\r\n'": b"\0\xff\r\n",
    "printf '@1 1 0 1764000000.123456 - 0 7.\\n'": (
        b"@1 1 0 1764000000.123456 - 0 7.\n"
    ),
    "head -c 3000000 /dev/zero | tr '\\0' x": b"x" * 3000000,
    "echo gone; echo oops > /dev/stderr; echo later": b"oops\nlater\n",
    "echo one | tee /dev/stderr > /dev/null": b"one\n",
}


@pytest.mark.parametrize("kind", ["all", "packed"])
def test_what_tasks_have_written_is_printed_byte_for_byte(create_place, kind):
    place = create_place(ODD)
    assert place.run("--logs", kind, "-n", "2") == 0
    headed = b""
    for taskid, content in enumerate(ODD.values()):
        end = b"\n" if content and not content.endswith(b"\n") else b""
        headed += b"==> task %d <==\n" % taskid + content + end
    assert show(place, f"0-{len(ODD) - 1}") == headed
    assert show(place, "2") == b"no newline"
    assert show(place, "1,2-2,0") == (
        b"==> task 1 <==\nout\nerr\n==> task 2 <==\nno newline\n==> task 0 <==\n"
    )


def test_packed_logs_are_a_few_files_and_the_workdir_is_clean(create_place):
    place = create_place(f"echo {number}" for number in range(200))
    assert place.run("--logs", "packed") == 0
    assert names(place) == []
    endings = [name.rpartition(".")[2] for name in names(place, "packed")]
    assert endings == ["index", "pack"]
    assert place.run_words("check", str(place.workdir)) == 0
    child = place.start_command([*MPIFARM, "check", str(place.workdir)])
    child.wait()
    assert "no log" not in child.text()
    assert show(place, "137") == b"137\n"


def test_with_logs_failed_there_are_those_of_failed_tasks_alone(create_place):
    place = create_place(["echo fine", "echo bad; exit 3", "false", "echo fine; true"])
    child = place.start("--logs", "failed", "-n", "2")
    assert child.wait() == 1
    assert names(place) == ["log_1", "log_2"]
    assert names(place, "unkept") == []
    assert place.log(1) == "bad\n"
    assert "exit status 3, see " in child.text()
    assert "logs/log_1" in child.text()
    assert b"--logs failed keeps nothing of what completed" in show(
        place, "0", status=2
    )
    checking = place.start_command([*MPIFARM, "check", str(place.workdir)])
    assert checking.wait() == 0
    assert "no log" not in checking.text()
    (place.workdir / "logs" / "log_1").unlink()
    checking = place.start_command([*MPIFARM, "check", str(place.workdir)])
    checking.wait()
    assert "ended, and without a log  1" in checking.text()


def test_the_summary_names_a_command_that_prints_what_a_failed_task_wrote(create_place):
    place = create_place(["true", "echo so bad; exit 3"])
    child = place.start("--logs", "packed")
    assert child.wait() == 1
    (line,) = [
        line for line in child.text().splitlines() if "exit status 3, see" in line
    ]
    words = line.partition("see mpifarm ")[2].split()
    shown = place.start_command([*MPIFARM, *words])
    assert shown.wait() == 0
    assert shown.output.read_bytes() == b"so bad\n"


# ---- several attempts ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["all", "packed"])
def test_retries_are_told_apart(create_place, kind):
    place = create_place(['printf "attempt $MPIFARM_ATTEMPT"; exit 1'])
    assert place.run("--logs", kind, "--retries", "2") == 1
    lines = show(place, "0").decode().splitlines()
    assert lines[::2] == ["attempt 1", "attempt 2", "attempt 3"]
    assert all(
        line.startswith("=== mpifarm: started again, at") for line in lines[1::2]
    )
    for number in ("1", "2", "3"):
        # In a log_<id>, the newline before the line between them is of the first.
        shown = show(place, "0", "--attempt", number).decode()
        assert shown.rstrip("\n") == f"attempt {number}"
    assert show(place, "0", "--attempt", "-1") == b"attempt 3"
    assert b"only 3 attempts of task 0" in show(place, "0", "--attempt", "4", status=2)


@pytest.mark.parametrize(
    ("first", "second"),
    [("all", "packed"), ("packed", "all")],
)
def test_farms_with_other_kinds_of_logs_go_together(create_place, first, second):
    place = create_place(["echo farm $MPIFARM_FARM; exit 1"])
    farms = []
    for kind in (first, second):
        assert place.run("--logs", kind) == 1
        farms.append(place.result()["farm"])
        assert place.run_words("retry", str(place.workdir)) == 0
    shown = show(place, "0").decode().splitlines()
    assert [shown[0], shown[2]] == [f"farm {farm}" for farm in farms]
    assert len(shown) == 3
    assert "started again" in shown[1] or "another attempt" in shown[1]


# ---- kills, stops, what goes on ------------------------------------------------------


@pytest.mark.parametrize("kind", ["packed", "failed"])
def test_what_a_killed_farm_was_at_is_still_there(create_place, kind):
    place = create_place(
        ['echo "begun by $MPIFARM_FARM"; echo >> here; test -e go || sleep 1000']
    )
    child = place.start("--logs", kind)
    place.await_notes("here", 1)
    place.kill(child)
    before = show(place, "0")
    assert before.startswith(b"begun by ")
    place.allow()
    assert place.run("--logs", kind) == 0
    after = show(place, "0")
    assert after.startswith(before)
    assert after.count(b"begun by ") == (1 if kind == "failed" else 2)
    assert place.run_words("check", str(place.workdir)) == 0


@pytest.mark.parametrize("kind", ["packed", "failed"])
def test_a_stop_keeps_what_was_written(create_place, kind):
    place = create_place(["echo begun; echo >> here; sleep 1000"])
    child = place.start("--logs", kind)
    place.await_notes("here", 1)
    child.send_signal(signal.SIGUSR1)
    assert child.wait() == 75
    assert show(place, "0").startswith(b"begun\n")
    if kind == "packed":
        assert len(names(place, "packed")) == 2


def test_what_writes_on_in_the_background_writes_into_its_own_log(create_place):
    place = create_place(
        [
            "(until test -e go; do sleep 0.02; done; echo later; touch here)& echo now",
            *["echo other"] * 20,
            "touch go; until test -e here; do sleep 0.02; done; echo last",
        ]
    )
    assert place.run("--logs", "packed", "-n", "1") == 0
    assert show(place, "0") == b"now\nlater\n"
    assert {show(place, str(taskid)) for taskid in (1, 20)} == {b"other\n"}
    assert show(place, "21") == b"last\n"


def test_a_task_that_took_too_long_says_so(create_place):
    def run(number):
        place = create_place(["printf begun; sleep 1000"], name=f"here {number}")
        options = ("--task-timeout", "0.3", "--grace", "0.1")
        assert place.run("--logs", "packed", *options) == 1
        lines = show(place, "0").decode().splitlines()
        return lines if lines[0] == "begun" else None

    lines = try_rounds(run)
    assert lines[1].startswith("=== mpifarm: ended after 0.3 s")


@pytest.mark.parametrize("kind", ["packed", "failed"])
def test_a_killed_worker_takes_no_output_along(start_pool, kind):
    driver = start_pool(1, kept_logs=kind)
    driver.submit("echo begun; exec sleep 1000", "echo next; exit 1")
    driver.collect_until(lambda: read_pool(driver, 0) == [b"begun\n"])
    (worker,) = driver.worker_pids()
    os.kill(worker, signal.SIGKILL)
    driver.collect_until(driver.losses)
    driver.run("echo next; exit 1", first=1)
    assert read_pool(driver, 0) == [b"begun\n"]
    assert read_pool(driver, 1) == [b"next\n"]


def read_pool(driver, taskid: int) -> list[bytes]:
    outputs = find_outputs(str(driver.logs), taskid, split=True)
    return [OutputReader(output).read() for output in outputs]


say = print


class PrintingRunner:
    """A user's, whose children nobody else knows."""

    def run(self, taskid, command, logfh):
        say("run", taskid)
        logfh.write("text\n")
        logfh.flush()
        subprocess.Popen(command, shell=True)  # left running, with stdout of ours
        return 0

    def terminate(self):
        pass


def test_a_users_runner_prints_into_the_log_of_its_task(start_pool, tmp_path):
    driver = start_pool(1, lambda definition: PrintingRunner(), kept_logs="packed")
    go, gone = tmp_path / "go", tmp_path / "gone"
    wait = f"until test -e {go}; do sleep 0.02; done; echo later; touch {gone}"
    driver.run(wait)
    driver.run("true", first=1)
    go.touch()
    wait_until(gone.exists)
    assert read_pool(driver, 0) == [b"run 0\ntext\nlater\n"]
    assert read_pool(driver, 1) == [b"run 1\ntext\n"]


def test_where_no_log_can_be_no_task_fails(start_pool):
    driver = start_pool(1, kept_logs="packed")
    (driver.logs / "packed").write_bytes(b"in the way")
    driver.submit("true")
    driver.collect_until(lambda: driver.events)
    (event,) = driver.events
    assert "packed" in event.reason


# ---- edited lists -------------------------------------------------------------------


def test_packed_logs_follow_their_tasks_through_an_edited_list(create_place):
    place = create_place(["echo a", "echo b", "echo c; false"])
    assert place.run("--logs", "packed") == 1
    place.tasklist.write_text("echo new\necho c; false\necho a\n")
    assert place.run("--logs", "packed", "--remap") == 1
    assert [show(place, str(taskid)) for taskid in range(3)] == [
        b"new\n",
        b"c\n",
        b"a\n",
    ]
    (kept,) = place.workdir.glob("before-remap-*")
    (index,) = (kept / "logs" / "packed").glob("*.index")
    ids = {record.taskid for record in logfiles.parse_records(index.read_bytes())}
    assert ids == {0, 1, 2}
    assert not (kept / "new").exists()


# ---- following ----------------------------------------------------------------------

COUNT = "for i in 1 2 3; do echo $i; until test -e go$i; do sleep 0.02; done; done"


@pytest.mark.parametrize("kind", ["packed", "failed"])
def test_a_task_that_runs_is_followed_until_it_ends(create_place, kind):
    place = create_place([f"{COUNT}; echo end; false"])
    farm = place.start("--logs", kind)
    wait_until(lambda: has_output(place, 0))
    log = start_log(place, "0", "-f")
    for number in (1, 2, 3):
        await_end(log, f"{number}\n")
        (place.directory / f"go{number}").touch()
    assert farm.wait() == 1
    assert log.wait() == 0
    assert log.output.read_bytes() == b"1\n2\n3\nend\n"


def await_end(log: Child, text: str) -> None:
    wait_until(lambda: log.text().endswith(text))


def await_text(log: Child, text: str) -> None:
    wait_until(lambda: text in log.text())


def has_output(place: FarmDriver, taskid: int) -> bool:
    return bool(find_outputs(str(place.workdir / "logs"), taskid, split=False))


@pytest.mark.parametrize("kind", ["all", "packed"])
def test_following_goes_on_with_the_next_attempt(create_place, kind):
    place = create_place(
        ["n=$MPIFARM_ATTEMPT; echo $n; until test -e go$n; do sleep 0.02; done; false"]
    )
    farm = place.start("--logs", kind, "--retries", "1")
    wait_until(lambda: has_output(place, 0))
    log = start_log(place, "0", "-f")
    for number in (1, 2):
        await_end(log, f"{number}\n")
        (place.directory / f"go{number}").touch()
    assert farm.wait() == 1
    assert log.wait() == 0
    first, between, second = log.text().splitlines()
    assert (first, second) == ("1", "2")
    assert "started again, attempt 2" in between


def test_a_task_that_has_not_begun_is_waited_for(create_place):
    place = create_place(["until test -e go; do sleep 0.02; done", "echo here"])
    farm = place.start("--logs", "packed", "-n", "1")
    wait_until(lambda: has_output(place, 0))
    assert b"task 1 has not started yet" in show(place, "1", status=2)
    log = start_log(place, "1", "-f")
    place.allow()
    assert farm.wait() == 0
    assert log.wait() == 0
    assert log.output.read_bytes() == b"here\n"


def test_following_ends_with_a_killed_farm(create_place):
    place = create_place(["echo begun; sleep 1000"])
    farm = place.start("--logs", "packed")
    wait_until(lambda: has_output(place, 0))
    log = start_log(place, "0", "-f")
    wait_until(lambda: log.output.read_bytes() == b"begun\n")
    place.kill(farm)
    assert log.wait() == 0


def test_all_tasks_are_followed_at_once_each_line_with_its_task(create_place):
    place = create_place(
        [f"{COUNT}; printf end", "until test -e go2; do :; done; echo b"]
    )
    farm = place.start("--logs", "packed", "-n", "2")
    wait_until(lambda: has_output(place, 0))
    log = start_log(place, "-f", "--tag")
    for number in (1, 2, 3):
        await_text(log, f"0\t{number}\n")
        (place.directory / f"go{number}").touch()
    assert farm.wait() == 0
    assert log.wait() == 0
    assert sorted(log.text().splitlines()) == ["0\t1", "0\t2", "0\t3", "0\tend", "1\tb"]


# ---- what the user may say -----------------------------------------------------------


def test_a_reader_that_has_seen_enough_is_no_error(create_place):
    place = create_place(["head -c 3000000 /dev/zero"])
    assert place.run("--logs", "packed") == 0
    words = " ".join([*MPIFARM, "log", str(place.workdir), "0"])
    script = f"{words} | head -c 5 | wc -c; echo ${{PIPESTATUS[0]}}"
    child = place.start_command(["bash", "-c", script])
    child.wait()
    assert child.text().split() == ["5", "0"]


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_the_logs_of_a_plain_farmer_are_shown(create_place, plain_farmer):
    place = create_place(["echo plain"])
    assert place.start_plain(plain_farmer).wait() == 0
    assert show(place, "0") == b"plain\n"
    assert show(place, "0", "-f") == b"plain\n"


def test_no_mpi_and_no_tasklist_is_needed(create_place, tmp_path: Path):
    place = create_place(["echo here"])
    assert place.run("--logs", "packed") == 0
    place.tasklist.unlink()
    (tmp_path / "mpi4py.py").write_text("raise SystemExit('there is no MPI')\n")
    assert show(place, "0") == b"here\n"
