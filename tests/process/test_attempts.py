"""``attempts.tsv`` of real farms: what it says, who reads it, and an older mpifarm."""

import json
import os
import subprocess
import sys

import pytest

from tests.pages import take_block
from tests.process.page_desk import Desk
from tests.required import find_tool
from tests.support import wait_until
from tests.workdir_files import ATTEMPTS_COLUMNS, OLD_ATTEMPTS_HEAD

ODD = [
    b"true 'a\tb'",
    b'"/bin/echo" "quoted first"',
    b"'/bin/echo' 'also first'",
    rb"echo back\\slash \t \n",
    b"true \xff\x80 latin",
    "true ünïcode, ;|".encode(),
    b"true \x1b[31m",
    b"exit 7",
    b"kill -9 $$",
]


READERS = """
import json, sys
import duckdb, pandas
frame = pandas.read_csv(sys.argv[1], sep="\\t")
table = duckdb.sql(f"SELECT * FROM '{sys.argv[1]}'")
rows = [dict(zip(table.columns, row)) for row in table.fetchall()]
print(json.dumps({
    "pandas": [[*frame.columns], frame.taskid.tolist(), frame.signal.tolist(),
               frame.command.tolist(), frame.seconds.dtype.kind],
    "duckdb": [table.columns, *([row[name] for row in rows]
               for name in ("taskid", "signal", "command")),
               str(table.types[table.columns.index("started")])],
}))
"""
"""A process of its own: both take more memory than other tests let this one have."""


def test_pandas_and_duckdb_read_it_as_it_is(create_place):
    place = create_place(ODD)
    assert place.run() == 1
    expected = place.attempts()
    assert {each.taskid for each in expected} == {*range(len(ODD))}
    command = [sys.executable, "-c", READERS, str(place.workdir / "attempts.tsv")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    read = json.loads(done.stdout)
    columns = [
        ATTEMPTS_COLUMNS,
        [each.taskid for each in expected],
        [max(-each.status, 0) for each in expected],
        [each.command for each in expected],
    ]
    assert read["pandas"] == [*columns, "f"]
    assert read["duckdb"][:4] == columns
    assert read["duckdb"][4].startswith("TIMESTAMP")


DUCKDB = f"""\
# duckdb -c QUERY without the program, whose engine Python has: the rows
exec {sys.executable} -c 'import duckdb, sys
for row in duckdb.sql(sys.argv[2]).fetchall(): print(*row)' "$@"
"""


def test_the_commands_of_the_page_read_it(create_place):
    large = f"{sys.executable} -c 'bytearray(300_000_000)'"
    place = create_place([large, "sleep 0.3", "exit 7"])
    desk = Desk(place)
    desk.install("python3", f'exec {sys.executable} "$@"')
    desk.install("duckdb", DUCKDB)
    place.finish(status=1)
    attempts = place.attempts()
    host = os.uname().nodename
    by_pandas, by_duckdb, by_miller = take_block("attempts.md", "python3 -c").lines
    head, _, described = desk.type(by_pandas)[:3]
    assert head.split()[:3] == ["count", "mean", "std"]
    assert described.split()[:2] == [host, "3.0"]
    most = max(int(each.peak_memory or 0) for each in attempts)
    assert most > 300_000_000
    assert desk.type(by_duckdb) == [f"{host} 3 {most}"]
    find_tool("mlr")
    labels, *rows = map(str.split, desk.type(by_miller))
    assert labels == ["outcome", "seconds_mean", "seconds_p90"]
    means = {outcome: float(mean) for outcome, mean, _ in rows}
    done = [each.seconds for each in attempts if each.outcome == "completed"]
    assert means.keys() == {"completed", "failed"}
    assert means["completed"] == pytest.approx(sum(done) / 2)


@pytest.mark.parametrize("logs", ["all", "packed", "failed"])
def test_what_a_task_has_used_is_told(create_place, logs):
    python = sys.executable
    place = create_place(
        [
            f"{python} -c 'x = bytearray(300_000_000)'",
            f"{python} -c 'while __import__(\"time\").process_time() < 0.3: pass'",
            "printf 12345; printf 678 >&2",
            "sleep 0.3",
        ]
    )
    place.finish("--logs", logs)
    large, busy, wordy, idle = sorted(place.attempts())
    assert 300_000_000 < int(large.peak_memory) < 500_000_000
    assert 0.3 <= float(busy.user_seconds) + float(busy.system_seconds) < 3
    assert wordy.output_bytes == "8"
    assert (idle.peak_memory, idle.output_bytes) == ("", "0")
    assert float(idle.user_seconds) < 0.2
    assert idle.seconds >= 0.3
    assert {attempt.host for attempt in (large, busy)} == {os.uname().nodename}


def test_the_output_of_a_second_attempt_is_its_own(create_place):
    place = create_place(["printf abc; exit $((1 - PASS))"])
    assert place.run(env={"PASS": "0"}) == 1
    place.run_words("retry", str(place.tasklist))
    place.finish(env={"PASS": "1"})
    assert [each.output_bytes for each in place.attempts()] == ["3", "3"]


def test_a_task_whose_worker_is_killed_has_a_line_for_each_attempt(create_place):
    place = create_place(["kill -9 $PPID; sleep 60"])
    assert place.run() == 1
    attempts = place.attempts()
    assert {each.outcome for each in attempts} == {"lost"}
    assert [each.attempt for each in attempts] == [1, 2, 3]


# ---- an older mpifarm -----------------------------------------------------------


def test_a_new_farm_goes_on_after_an_old_one(create_place, old_mpifarm):
    place = create_place(["true", "true", "exit $CODE"])
    old = old_mpifarm | {"CODE": "3"}
    assert place.run(env=old) == 1
    assert place.content("attempts.tsv").decode().startswith(OLD_ATTEMPTS_HEAD)
    # its statuses are known to the commands of today
    assert place.run_words("retry", str(place.tasklist), "--status", "3") == 0
    place.finish(env={"CODE": "0"})
    assert place.content("attempts.1.tsv").decode().count("\n") == 4
    assert [each.taskid for each in place.attempts()] == [2]


def test_an_old_farm_goes_on_after_a_new_one(create_place, old_mpifarm):
    place = create_place(["true", "true", "exit $CODE"])
    assert place.run(env={"CODE": "3"}) == 1
    place.run_words("retry", str(place.tasklist))
    old = old_mpifarm | {"CODE": "0"}
    place.finish(env=old)
    lines = place.content("attempts.tsv").decode().splitlines()
    assert [line.count("\t") for line in lines] == [16, 16, 16, 16, 7]
    # and the next new one tells them apart again
    place.finish()
    assert len(place.attempts()) == 3
    assert place.content("attempts.1.tsv").decode().count("\n") == 2


def test_a_new_farm_beside_an_old_one_writes_what_the_old_one_writes(
    create_place, old_mpifarm
):
    place = create_place(
        [f"touch ran.{i}; while [ ! -e go ]; do sleep 0.05; done" for i in range(4)]
    )
    old = place.start("-n", "2", env=old_mpifarm)
    wait_until(lambda: len([*place.directory.glob("ran.*")]) == 2, 30)
    (place.workdir / "attempts.tsv").write_text(OLD_ATTEMPTS_HEAD)
    new = place.start("-n", "2")
    wait_until(lambda: len([*place.directory.glob("ran.*")]) == 4, 30)
    (place.directory / "go").touch()
    assert old.wait() == 0
    assert new.wait() in (0, 3)
    lines = place.content("attempts.tsv").decode().splitlines()
    assert [line.count("\t") for line in lines] == [7] * 5
    assert not (place.workdir / "attempts.1.tsv").exists()
