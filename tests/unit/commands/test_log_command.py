"""``mpifarm log``: what it shows of a directory, and what it says where it can't."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mpifarm.audit.audit import ClaimView
from mpifarm.audit.snapshot import examine
from mpifarm.commands import log
from mpifarm.commands.log import explain as explain_module
from mpifarm.commands.log import follow, follow_many
from mpifarm.commands.sink import Sink
from mpifarm.errors import InputError
from mpifarm.output.reader import (
    OutputReader,
    find_outputs,
    find_sources,
    split_log,
)
from mpifarm.output.records import RankFiles, Record, encode_record, encode_slot
from mpifarm.store.farm_liveness import FarmLiveness
from mpifarm.system.console import Console

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


def again(attempt: int, second: int = 0) -> bytes:
    when = f"2026-11-23 12:00:{second:02}"
    return (
        f"=== mpifarm: started again, attempt {attempt} of farm f00dcafe, {when}, "
        "host n1 ===\n"
    ).encode()


class Site:
    """A tasklist of four tasks, of which a PyTaskFarmer has run the first two."""

    def __init__(self, directory: Path) -> None:
        self.tasklist = directory / "list"
        self.tasklist.write_text("echo a\necho b\necho c\necho d\n")
        self.root = directory / "list_workdir"
        self.logs = self.root / "logs"
        self.logs.mkdir(parents=True)
        (self.root / "toprocess").write_text("2 echo c\n")
        (self.root / "finished").write_text("0 echo a\n")
        (self.root / "failed").write_text("1 echo b\n")

    def pack(
        self,
        taskid: int,
        content: bytes,
        started: float = 1e9,
        directory: str = "packed",
    ) -> None:
        """An output of a farm that has ended."""
        (self.logs / directory).mkdir(exist_ok=True)
        rank_files = RankFiles(str(self.logs / directory), "f00dcafe", 0)
        offset = 0
        with open(rank_files.pack, "ab") as pack:
            offset = pack.tell()
            pack.write(content)
        with open(rank_files.index, "ab") as index:
            record = Record(taskid, 1, 0, started, None, offset, len(content))
            index.write(encode_record(record))

    def main(self, *words: str) -> int:
        return log.main([str(self.root), *words], Console(prints=True), {})


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def shown(capfd):
    """What has been written to standard output since."""
    return lambda: capfd.readouterr().out


# ---- one log with several attempts --------------------------------------------------


def test_a_log_is_split_where_attempts_begin(tmp_path):
    path = tmp_path / "log_0"
    path.write_bytes(b"one\n" + again(2, 1) + b"two\nmore\n" + again(3, 2))
    first, second, third = split_log(str(path))
    pieces = [OutputReader(each).read() for each in (first, second, third)]
    assert pieces == [b"one\n", b"two\nmore\n", b""]
    assert (second.head, second.attempt, third.attempt) == (again(2, 1), 2, 3)
    assert first.started == second.started < third.started


@pytest.mark.parametrize("shift", range(0, 200, 7))
def test_attempts_are_found_wherever_a_large_log_is_cut(tmp_path, monkeypatch, shift):
    monkeypatch.setattr("mpifarm.output.reader.MAX_READ", 400)
    monkeypatch.setattr("mpifarm.output.reader._LONGEST_LINE", 150)
    path = tmp_path / "log_0"
    parts = [b"x" * (500 + shift) + b"\n", b"y" * 300 + b"\n", b"z\n" * shift]
    path.write_bytes(parts[0] + again(2) + parts[1] + again(3) + parts[2])
    assert [read_all(output) for output in split_log(str(path))] == parts


def read_all(output) -> bytes:
    reader, parts = OutputReader(output), []
    while part := reader.read():
        parts.append(part)
    return b"".join(parts)


def test_outputs_stand_in_the_order_of_their_starts(site):
    site.pack(0, b"second\n", started=2e9)
    site.pack(0, b"first\n", started=1e9)
    (site.logs / "log_0").write_bytes(b"last\n")
    os.utime(site.logs / "log_0", (3e9, 3e9))
    outputs = find_outputs(str(site.logs), 0, split=True)
    assert [read_all(each) for each in outputs] == [b"first\n", b"second\n", b"last\n"]


# ---- what is shown ------------------------------------------------------------------


def test_a_log_of_its_own_is_shown_as_it_is(site, shown):
    (site.logs / "log_0").write_bytes(b"one\n" + again(2) + b"two")
    assert site.main("0") == 0
    assert shown() == (b"one\n" + again(2) + b"two").decode()


@pytest.mark.parametrize("kind", ["a link", "a fifo"])
@pytest.mark.parametrize("words", [["0"], ["0", "1"], ["0", "--attempt", "1"]])
def test_what_stands_in_the_place_of_a_log_hides_no_packed_one(
    site, capfd, kind, words
):
    site.pack(0, b"packed\n")
    site.pack(1, b"other\n")
    victim, odd = site.root / "victim", site.logs / "log_0"
    victim.write_text("precious")
    if kind == "a link":
        odd.symlink_to(victim)
    else:
        os.mkfifo(odd)
    assert site.main(*words) == 0
    shown, told = capfd.readouterr()
    assert "packed\n" in shown
    assert "precious" not in shown
    assert f"{odd} is {kind}, and is not shown" in told


def test_attempts_are_numbered_over_all_farms(site, shown):
    site.pack(0, b"first", started=1e9)
    site.pack(0, b"second\n", started=1e9 + 5)
    for number, text in (("1", "first"), ("2", "second\n"), ("-2", "first")):
        assert site.main("0", "--attempt", number) == 0
        assert shown() == text
    assert site.main("0") == 0
    first, line, second = shown().splitlines()
    assert (first, second) == ("first", "second")
    assert line.startswith("=== mpifarm: started again, attempt 1 of farm f00dcafe, ")
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1e9 + 5)) in line


def test_several_tasks_get_a_heading_each_and_missing_ones_a_word(site, capfd):
    site.pack(0, b"a")
    site.pack(1, b"b\n")
    assert site.main("0-2") == 1
    out, err = capfd.readouterr()
    assert out == "==> task 0 <==\na\n==> task 1 <==\nb\n"
    assert "task 2 has not started yet" in err


def test_a_scratch_that_its_worker_goes_on_with_is_not_anothers_output(site):
    """Between the look at the slot and the reading the next task has begun."""
    (site.logs / "packed").mkdir()
    rank_files = RankFiles(str(site.logs / "packed"), "f00dcafe", 0)
    scratch, slots = Path(rank_files.scratch(0, 0)), Path(rank_files.running)
    scratch.write_bytes(b"of task 0, at length\n")
    record = Record(0, 1, 0, 1e9, 0, 0, None)
    slots.write_bytes(encode_slot(record))
    (output,) = find_outputs(str(site.logs), 0, split=False)
    reader = OutputReader(output)
    assert reader.read() == b"of task 0, at length\n"
    site.pack(0, b"of task 0, at length\nits end\n")
    scratch.write_bytes(b"of task 1, which is much longer than that of task 0 was\n")
    slots.write_bytes(encode_slot(record._replace(taskid=1, started=2e9)))
    assert reader.read() == b"its end\n"
    assert reader.read() == b""


def test_an_output_of_which_nothing_is_kept_ends_with_its_slot(site):
    (site.logs / "unkept").mkdir()
    rank_files = RankFiles(str(site.logs / "unkept"), "f00dcafe", 0)
    scratch, slots = Path(rank_files.scratch(0, 0)), Path(rank_files.running)
    scratch.write_bytes(b"of task 0\n")
    record = Record(0, 1, 0, 1e9, 0, 0, None)
    slots.write_bytes(encode_slot(record))
    (output,) = find_outputs(str(site.logs), 0, split=False)
    reader = OutputReader(output)
    scratch.write_bytes(b"of task 1\n")
    slots.write_bytes(encode_slot(record._replace(taskid=1, started=2e9)))
    assert reader.read() == b""


# ---- what can't be shown ------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("4",), "there is no task 4: .*list has 4 tasks, from 0 on"),
        (("x",), "'x' is not the id of a task: write a number"),
        (("",), "'' is not the id"),
        (("3-1",), "the range 3-1 ends before it begins: write 1-3"),
        (("0-9999999",), "names 10000000 tasks, and 4000000 at a time are the most"),
        (("-1",), "'-1' is not the id of a task"),
        (("0", "--attempt", "0"), "--attempt takes 1, 2, ... or -1"),
        (("0", "--attempt", "x"), "--attempt takes"),
        (("0", "-f", "--attempt", "1"), "leave out --attempt, or -f"),
        (("0", "-f", "--last", "1"), "leave out --last"),
        (("-f", "--failed"), "failed ones have ended: leave out --failed"),
        (("0", "--failed"), "--failed stands in place of ids"),
        (("0", "--last", "0"), "--last takes a number of lines, 1 or more, not '0'"),
        (("0", "--last", "x"), "--last takes"),
        (("0",), "task 0 has finished, and has no output$"),
        (("1",), "task 1 has failed, and has no output"),
        (("2",), "task 2 has not started yet: it waits to be run"),
        (("2", "-f"), "task 2 has not started yet: it waits to be run"),
        (("3",), "task 3 has no log, and is in no file"),
        (("9" * 5000,), "is not the id"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_sentence(site, words, told):
    with pytest.raises(InputError, match=told) as caught:
        site.main(*words)
    assert "\n" not in str(caught.value)


def test_a_finished_task_of_a_farm_that_kept_nothing_says_why(site):
    (site.logs / "unkept").mkdir()
    with pytest.raises(InputError, match=r"\(--logs failed keeps nothing of what comp"):
        site.main("0")


def test_a_task_that_is_held_may_just_have_completed_where_nothing_is_kept(
    site, monkeypatch
):
    def look(*args, **others):
        view = ClaimView(
            "f00d", "on n1", FarmLiveness.HOLDS_LOCK, *[frozenset({2})] * 2
        )
        return examine(*args, **others)._replace(claims=(view,), toprocess=b"")

    monkeypatch.setattr("mpifarm.commands.log.explain.examine_whole", look)
    (site.logs / "unkept").mkdir()
    with pytest.raises(InputError, match="has taken it; or it has just completed"):
        site.main("2")


def test_a_place_that_is_no_workdir_is_told(tmp_path):
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"no workdir|not a workdir"):
            log.main([str(directory), "0"], Console(prints=True), {})


def test_a_task_that_a_farm_has_taken_is_told_from_one_that_it_lost(site, monkeypatch):
    def claimed(liveness):
        def look(*args, **others):
            view = ClaimView("f00d", "on n1 (pid 7)", liveness, *[frozenset({2})] * 2)
            return examine(*args, **others)._replace(claims=(view,), toprocess=b"")

        return look

    monkeypatch.setattr(
        "mpifarm.commands.log.explain.examine_whole", claimed(FarmLiveness.HOLDS_LOCK)
    )
    with pytest.raises(InputError, match=r"yet: farm f00d on n1 \(pid 7\) has taken"):
        site.main("2")
    monkeypatch.setattr(
        "mpifarm.commands.log.explain.examine_whole", claimed(FarmLiveness.DEAD)
    )
    with pytest.raises(InputError, match="farm f00d had taken it and died"):
        site.main("2", "-f")


def test_an_output_that_is_gone_is_told(site):
    site.pack(0, b"a\n")
    (site.logs / "packed" / "f00dcafe.0.pack").unlink()
    with pytest.raises(InputError, match=r"\.pack is gone, with the output of task 0"):
        site.main("0")


def test_an_output_that_may_not_be_read_is_told(site, monkeypatch):
    def refuse(logs, taskid, *, split, sources):
        raise PermissionError(errno.EACCES, "Permission denied", f"{logs}/log_{taskid}")

    monkeypatch.setattr("mpifarm.commands.log.printer.find_outputs", refuse)
    with pytest.raises(InputError, match=r"can't read .*/log_0: Permission denied"):
        site.main("0")


def test_an_attempt_that_is_not_there_is_told(site):
    site.pack(0, b"a\n")
    for number in ("2", "-2"):
        with pytest.raises(InputError, match="only 1 attempt of task 0"):
            site.main("0", "--attempt", number)


def test_without_a_reader_the_sink_stops():
    read_end, write_end = os.pipe()
    os.close(read_end)
    sink = Sink(write_end)
    with pytest.raises(BrokenPipeError):
        sink.wait(10)
    with pytest.raises(BrokenPipeError):
        sink.write(b"x")
    os.close(write_end)


def test_a_place_may_be_named_by_its_tasklist(site, shown):
    site.pack(0, b"a\n")
    assert log.main([str(site.tasklist), "0"], Console(prints=True), {}) == 0
    assert shown() == "a\n"


# ---- many tasks ---------------------------------------------------------------------


def test_several_ids_may_be_several_words(site, shown):
    site.pack(0, b"a\n")
    site.pack(1, b"b\n")
    for words in (("0", "1"), ("0,", "1"), ("0, 1",), ("0-1", "0")):
        assert site.main(*words) == 0
        assert shown() == "==> task 0 <==\na\n==> task 1 <==\nb\n"


@pytest.fixture
def looks(monkeypatch):
    """What has been asked for in the indexes, one entry for each reading of them."""
    asked: list[object] = []
    find = find_sources

    def count(logs, wanted=None):
        asked.append(wanted)
        return find(logs, wanted)

    monkeypatch.setattr("mpifarm.commands.log.printer.find_sources", count)
    monkeypatch.setattr("mpifarm.output.reader.find_sources", count)
    return asked


def test_indexes_are_not_read_for_each_of_many_tasks(site, shown, looks):
    for taskid in range(4):
        site.pack(taskid, b"%d\n" % taskid)
    assert site.main("0-3") == 0
    assert shown().splitlines()[1::2] == ["0", "1", "2", "3"]
    assert len(looks) == 1


def test_a_pack_that_is_gone_costs_one_more_look_at_the_indexes(site, capfd, looks):
    for taskid in range(50):
        site.pack(taskid, b"x")
    site.tasklist.write_text("echo\n" * 50)
    (site.logs / "packed" / "f00dcafe.0.pack").unlink()
    assert site.main("0-49") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "gone, with the output of each of the tasks 0-49" in line
    assert len(looks) == 2


def test_many_tasks_with_one_reason_get_one_sentence(site, capfd):
    site.tasklist.write_text("echo\n" * 300)
    lines = [f"{taskid} echo\n" for taskid in range(0, 300, 2)]
    (site.root / "toprocess").write_text("".join(lines))
    for name in ("finished", "failed"):
        (site.root / name).write_text("")
    assert site.main("0-310") == 1
    beyond, waits, nowhere = capfd.readouterr().err.splitlines()
    assert "there are no tasks 300-310: " in beyond
    assert "each of 150 tasks (0, 2, 4," in waits
    assert "waits to be run, and no farm is running: give the farm's" in waits
    assert "each of 150 tasks (1, 3, 5," in nowhere
    assert max(map(len, (waits, nowhere))) < 300


def test_a_pack_that_is_gone_is_told_once_for_all_tasks(site, capfd):
    for taskid in range(4):
        site.pack(taskid, b"x")
    (site.logs / "packed" / "f00dcafe.0.pack").unlink()
    assert site.main("0-3") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(".pack is gone, with the output of each of the tasks 0-3")
    assert site.main("0-3", "--attempt", "1") == 1


def test_what_ends_while_many_are_shown_is_shown_as_well(site, shown, monkeypatch):
    site.pack(0, b"a\n")

    def end_meanwhile(*args, **others):
        site.pack(1, b"b\n")
        return examine(*args, **others)

    monkeypatch.setattr("mpifarm.commands.log.explain.examine_whole", end_meanwhile)
    assert site.main("0,1") == 0
    assert shown() == "==> task 0 <==\na\n==> task 1 <==\nb\n"


def test_an_attempt_whose_output_moves_while_others_are_shown_is_not_left_out(
    site, shown, monkeypatch
):
    site.pack(1, b"failed first\n", started=1e9)
    rank_files = RankFiles(str(site.logs / "packed"), "f00dcafe", 0)
    scratch = Path(rank_files.scratch(0, 0))
    scratch.write_bytes(b"second\n")
    record = Record(1, 2, 0, 2e9, 0, 0, None)
    Path(rank_files.running).write_bytes(encode_slot(record))

    def end_after(logs, wanted=None):
        found = find_sources(logs, wanted)
        if scratch.exists():
            site.pack(1, b"second\n", started=2e9)
            scratch.unlink()
            Path(rank_files.running).unlink()
        return found

    monkeypatch.setattr("mpifarm.commands.log.printer.find_sources", end_after)
    assert site.main("0,1") == 1
    heading, first, _, second = shown().splitlines()
    assert (heading, first, second) == ("==> task 1 <==", "failed first", "second")


def test_what_tasks_have_left_that_the_list_has_no_more_is_shown(site, capfd):
    for taskid in (5, 6):
        (site.logs / f"log_{taskid}").write_text(f"{taskid}\n")
    assert site.main("5") == 0
    capfd.readouterr()
    assert site.main("5-7") == 1
    out, err = capfd.readouterr()
    assert out == "==> task 5 <==\n5\n==> task 6 <==\n6\n"
    assert "there is no task 7: " in err


# ---- remarks ------------------------------------------------------------------------


def test_what_went_wrong_before_a_task_finished_is_shown_with_a_remark(site, capfd):
    (site.logs / "unkept").mkdir()
    (site.logs / "log_0").write_text("before\n")
    assert site.main("0") == 0
    out, err = capfd.readouterr()
    assert out == "before\n"
    assert "task 0 has finished; what is shown may be from before" in err
    site.pack(0, b"the end\n")
    assert site.main("0") == 0
    assert capfd.readouterr().err == ""


def test_what_a_farm_that_keeps_little_has_of_a_finished_task_is_from_before(
    site, capfd
):
    site.pack(0, b"killed\n", directory="unkept")
    assert site.main("0") == 0
    assert "what is shown is from before" in capfd.readouterr().err


@pytest.mark.parametrize("liveness", [FarmLiveness.DEAD, None])
def test_following_a_task_whose_farm_is_gone_says_what_to_do(
    site, capfd, monkeypatch, liveness
):
    (site.logs / "log_2").write_text("half\n")

    def look(*args, **others):
        view = ClaimView("f00d", "on n1", FarmLiveness.DEAD, *[frozenset({2})] * 2)
        contents = examine(*args, **others)
        return (
            contents._replace(claims=(view,), toprocess=b"") if liveness else contents
        )

    monkeypatch.setattr("mpifarm.commands.log.explain.examine_whole", look)
    assert site.main("2", "-f") == 0
    out, err = capfd.readouterr()
    assert out == "half\n"
    assert "task 2 has not ended: " in err
    assert "given again, runs it" in err or "again to run it" in err


# ---- failed tasks, last lines -------------------------------------------------------


def test_failed_shows_the_outputs_of_all_failed_tasks(site, shown):
    (site.root / "failed").write_text("1 echo b\n3 echo d\n")
    for taskid in range(4):
        site.pack(taskid, f"{taskid}\n".encode())
    assert site.main("--failed") == 0
    assert shown() == "==> task 1 <==\n1\n==> task 3 <==\n3\n"


def test_one_failed_task_has_its_heading_too(site, shown):
    site.pack(1, b"x\n")
    assert site.main("--failed") == 0
    assert shown() == "==> task 1 <==\nx\n"


def test_a_failed_task_without_output_is_told(site, capfd):
    assert site.main("--failed") == 1
    assert capfd.readouterr() == ("", "mpifarm: task 1 has failed, and has no output\n")


def test_where_no_task_has_failed_that_is_said(site, capfd):
    (site.root / "failed").unlink()
    assert site.main("--failed", "--last", "3") == 0
    assert capfd.readouterr() == ("", "mpifarm: no task has failed\n")


@pytest.mark.parametrize(
    ("output", "count", "end"),
    [
        ("a\nb\nc\n", "2", "b\nc\n"),
        ("a\nb\nc", "2", "b\nc"),
        ("a\n\n\n", "1", "\n"),
        ("a\n", "5", "a\n"),
        ("", "5", ""),
        ("10 %\r20 %\rend", "1", "10 %\r20 %\rend"),
        ("a\nb", "999999999", "a\nb"),
    ],
)
def test_last_shows_the_last_lines(site, shown, output, count, end):
    site.pack(0, b"another\n")
    site.pack(1, output.encode())
    assert site.main("1", "--last", count) == 0
    assert shown() == end
    site.logs.joinpath("log_2").write_text(output)
    assert site.main("2", "--last", count) == 0
    assert shown() == end


def test_last_shows_the_last_attempt_alone(site, shown):
    site.pack(1, b"1\n2\n", started=1e9)
    site.pack(1, b"3\n4\n5\n", started=2e9)
    assert site.main("--failed", "--last", "2") == 0
    assert shown() == "==> task 1 <==\n4\n5\n"
    assert site.main("1", "--last", "1", "--attempt", "1") == 0
    assert shown() == "2\n"


def test_of_a_huge_output_only_the_end_is_read(site, shown, monkeypatch):
    log_of_2 = site.logs / "log_2"
    with log_of_2.open("wb") as stream:
        stream.truncate(1 << 32)
        stream.seek(0, os.SEEK_END)
        stream.write(b"\nend\n")
    pread, sizes = os.pread, list[int]()

    def count(*where: int) -> bytes:
        piece = pread(*where)
        sizes.append(len(piece))
        return piece

    monkeypatch.setattr(os, "pread", count)
    assert site.main("2", "--last", "1") == 0
    assert 0 < sum(sizes) < 10 << 20
    assert shown() == "end\n"


# ---- all tasks, and tags ------------------------------------------------------------


def test_without_ids_all_tasks_are_shown_and_those_without_output_are_told(site, capfd):
    (site.logs / "log_0").write_bytes(b"one\n")
    (site.logs / "log_1").write_bytes(b"two")
    assert site.main() == 0
    shown, told = capfd.readouterr()
    assert shown == "==> task 0 <==\none\n==> task 1 <==\ntwo"
    assert "task 2 has not started yet: it waits to be run" in told


def test_without_ids_an_output_that_is_gone_gives_another_status(site, capfd):
    site.pack(0, b"one\n")
    (site.logs / "packed" / "f00dcafe.0.pack").unlink()
    assert site.main() == 1
    assert "is gone, with the output of task 0" in capfd.readouterr().err


def test_an_empty_list_is_told(site, capfd):
    site.tasklist.write_text("")
    for name in ("toprocess", "finished", "failed"):
        (site.root / name).write_text("")
    assert site.main() == 0
    assert "the list has no task yet" in capfd.readouterr().err


def test_a_tag_begins_each_line(site, shown):
    (site.logs / "log_0").write_bytes(b"one\n\n" + again(2) + b"two")
    (site.logs / "log_1").write_bytes(b"three\n")
    assert site.main("1,0", "--tag") == 0
    first, second, third, fourth, fifth = shown().split("\n")
    assert (first, second, third) == ("1\tthree", "0\tone", "0\t")
    assert fourth.startswith("0\t=== mpifarm: started again, attempt 2")
    assert fifth == "0\ttwo"


def test_a_tag_of_one_task_and_of_failed_ones(site, shown):
    (site.logs / "log_1").write_bytes(b"one\ntwo\nthree")
    assert site.main("1", "--tag", "--last", "2") == 0
    assert shown() == "1\ttwo\n1\tthree"
    assert site.main("--failed", "--tag") == 0
    assert shown() == "1\tone\n1\ttwo\n1\tthree"


def test_a_line_without_its_end_does_not_swallow_the_next_tag(site, shown):
    (site.logs / "log_0").write_bytes(b"one")
    (site.logs / "log_1").write_bytes(b"two")
    assert site.main("--tag") == 0
    assert shown() == "0\tone\n1\ttwo"


# ---- following several tasks --------------------------------------------------------


class Farm:
    """A farm of the site, which holds `held` and is alive until `end`."""

    def __init__(self, site, monkeypatch) -> None:
        self.held, self.is_alive = frozenset[int](), True
        self.turns: list[Callable[[], object]] = []
        """What happens while the command waits, one after the other."""
        self.pauses: list[float] = []
        self.site = site
        monkeypatch.setattr(explain_module, "examine_whole", self._look)
        monkeypatch.setattr(Sink, "wait", self._wait)
        self.now = 0.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(follow_many, "time", clock)

    def _look(self, *args, **others):
        liveness = FarmLiveness.HOLDS_LOCK if self.is_alive else FarmLiveness.DEAD
        view = ClaimView("f00d", "on n1", liveness, self.held, self.held)
        claims = (view,) if self.is_alive or self.held else ()
        return examine(*args, **others)._replace(claims=claims)

    def _wait(self, seconds):
        assert self.turns, "the command waits for ever"
        self.pauses.append(seconds)
        self.turns.pop(0)()
        self.now += follow.TASK_SECONDS

    def begin(self, taskid: int, text: bytes) -> None:
        self.held |= {taskid}
        waiting = self.site.root / "toprocess"
        lines = waiting.read_text().splitlines(keepends=True)
        waiting.write_text("".join(x for x in lines if x[0] != str(taskid)))
        self.write(taskid, text)

    def write(self, taskid: int, text: bytes) -> None:
        with open(self.site.logs / f"log_{taskid}", "ab") as log:
            log.write(text)

    def finish(self, taskid: int) -> None:
        self.held -= {taskid}
        with open(self.site.root / "finished", "a") as finished:
            finished.write(f"{taskid} echo {'abcd'[taskid]}\n")

    def end(self) -> None:
        self.is_alive = False


@pytest.fixture
def farm(site, monkeypatch) -> Farm:
    (site.root / "toprocess").write_text("2 echo c\n3 echo d\n")
    (site.logs / "log_0").write_bytes(b"a\n")
    (site.logs / "log_1").write_bytes(b"b\n")
    return Farm(site, monkeypatch)


def test_all_tasks_are_followed_line_by_line_until_no_farm_lives(site, farm, shown):
    farm.begin(2, b"half ")
    farm.turns = [
        lambda: farm.begin(3, b"d1\nd"),
        lambda: farm.write(2, b"line\n"),
        lambda: farm.write(3, b"2"),
        lambda: (farm.finish(2), farm.finish(3)),
        lambda: None,
        farm.end,
    ]
    assert site.main("-f", "--tag") == 0
    assert shown() == "0\ta\n1\tb\n3\td1\n2\thalf line\n3\td2\n"


def test_several_tasks_are_followed_until_they_have_ended(site, farm, shown):
    farm.begin(2, b"one\n")
    farm.turns = [
        lambda: farm.begin(3, b"two\n"),
        lambda: farm.write(2, b"three"),
        lambda: farm.finish(3),
        lambda: farm.finish(2),
    ]
    assert site.main("-f", "2,3") == 0
    assert shown() == (
        "==> task 2 <==\none\n==> task 3 <==\ntwo\n==> task 2 <==\nthree\n"
    )


def test_what_began_and_ended_between_two_looks_is_followed_too(site, farm, shown):
    farm.turns = [lambda: (farm.begin(2, b"fast\n"), farm.finish(2)), farm.end]
    assert site.main("-f", "--tag") == 0
    assert shown() == "0\ta\n1\tb\n2\tfast\n"


def test_following_says_what_it_waits_for_and_what_has_not_run(site, farm, capfd):
    farm.turns = [farm.end]
    assert site.main("-f", "2-3") == 0
    told = capfd.readouterr().err
    assert (
        "each of the tasks 2-3 has not started yet: it waits to be run; this waits"
        in told
    )
    assert (
        "each of the tasks 2-3 has not ended: it waits to be run, and no farm is"
        " running: give the farm's command again" in told
    )


def test_following_tasks_of_a_farm_that_died_ends(site, farm, capfd):
    farm.begin(2, b"half")
    farm.turns = [farm.end]
    assert site.main("-f") == 0
    shown, told = capfd.readouterr()
    assert shown.endswith("==> task 2 <==\nhalf\n")
    assert "task 2 has not ended: farm f00d had it and died" in told


def test_no_more_tasks_are_open_than_files_may_be(site, farm, capfd, monkeypatch):
    monkeypatch.setattr(follow_many, "MAX_OPEN", 1)
    monkeypatch.setattr(follow_many, "MAX_FULL_LOOKS", 2)
    farm.begin(2, b"c\n")
    farm.begin(3, b"d\n")
    nothing: Callable[[], object] = lambda: None  # noqa: E731
    farm.turns = [nothing, nothing, lambda: farm.finish(2), lambda: farm.finish(3)]
    farm.turns.append(farm.end)
    assert site.main("-f", "--tag") == 0
    shown, told = capfd.readouterr()
    assert shown.splitlines()[2:] == ["2\tc", "3\td"]
    assert told.count("tasks are followed at once") == 1


def test_tasks_that_print_all_the_time_are_polled_with_pauses(
    site, farm, monkeypatch, shown
):
    """Each poll reads files of a shared disk."""
    took = [0.0, 0.5, 3600.0]
    print_new = follow.Following.print_new

    def poll(following):
        if took:
            farm.now += took.pop(0)
        return print_new(following)

    monkeypatch.setattr(follow.Following, "print_new", poll)
    farm.begin(2, b"1\n")
    farm.turns = [
        lambda: farm.write(2, b"2\n"),
        lambda: farm.write(2, b"3\n"),
        lambda: farm.finish(2),
    ]
    assert site.main("-f", "1,2") == 0
    assert shown() == "==> task 1 <==\nb\n==> task 2 <==\n1\n2\n3\n"
    assert farm.pauses == [follow.OUTPUT_SECONDS, 2.0, 4.0]


def test_a_task_that_the_list_has_not_is_not_followed(site, farm, capfd):
    farm.end()
    assert site.main("-f", "1,7") == 1
    shown, told = capfd.readouterr()
    assert shown == "==> task 1 <==\nb\n"
    assert "there is no task 7" in told
