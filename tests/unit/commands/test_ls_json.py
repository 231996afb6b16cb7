"""``mpifarm ls --json``: all at once, each object is as if it was encoded alone."""

import json
import os
import random
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.commands import ls, ls_json
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.attempts import FIRST_HEADER, HEADER, Attempt, read_last_attempts
from mpifarm.system.console import Console
from tests.unit.store_fakes import Site

KEYS = Attempt._fields[1:-1]
TEXTS = ["echo one", 'say "two" \\', "echo \udcff", "ünï\x1b", "a\tb"]

USUAL = {
    1: ["1", "2"],
    2: ["completed", "completed", "failed", "timed out", "not run: task 3 failed"],
    3: ["0", "1", "137"],
    4: ["0", "9"],
    5: ["n1", "n2.site", ""],
    6: ["0", "3"],
    7: ["0", "5", ""],
    8: ["4711"],
    9: [f"2026-03-01T17:20:11.{ms}Z" for ms in ("000", "120", "500", "007")],
    10: ["0.000000", "6.918721", "120.500000", "0.000012", "0.000120", "10.000000"],
    11: ["0.940913", "0.000000", "0.000100", ""],
    12: ["0.039300", "0.000099", ""],
    13: ["57071829", ""],
    14: ["0", "6139", ""],
    15: ["0123abcd"],
    16: ["echo one", "\\xff", 'say "two"'],
}
"""What mpifarm writes into the columns behind the id."""

ODD = [
    *("", "x", "007", "1_0", " 5", "-1", "0.5", "1e-7", "nan", "1e999", "é", 'a"b'),
    *("1969-12-31T23:59:59.250Z", "2026-03-01T17:20:11+02:00", "2026-03-01"),
    *("12345678901234567.000000", "123456789012345678901", "inf"),
]


def write_attempts(site: Site, draw: random.Random, odd: float) -> None:
    """Write attempts of both formats; `odd` is the share of lines with an odd field."""
    lines = []
    for taskid in draw.sample(range(40), 34) + draw.sample(range(40), 5):
        fields = [str(taskid), *(draw.choice(each) for each in USUAL.values())]
        if draw.random() < odd:
            fields[draw.randrange(1, 17)] = draw.choice(ODD)
        if draw.random() < 0.1:
            fields = [str(taskid), *("1", draw.choice(["0", "-9", "x"]), "3", "77")]
            fields += ["1000000000.250000", "0.500000", "0123abcd"]
        lines.append("\t".join(fields) + "\n")
    heads = HEADER.decode() + FIRST_HEADER.decode()
    (site.root / "attempts.tsv").write_bytes(os.fsencode(heads + "".join(lines)))


def expect(site: Site, states: list[str]) -> list[dict[str, Any]]:
    """Return the objects, from attempts that are parsed one by one."""
    attempts = read_last_attempts(WorkdirPaths(str(site.root)))
    return [
        {"id": taskid, "state": state}
        | dict.fromkeys(KEYS)
        | shown(attempts.find(taskid), state)
        | {"claimed_by": None, "command": site.tasks[taskid]}
        for taskid, state in enumerate(states)
    ]


def shown(attempt: Attempt | None, state: str) -> dict[str, Any]:
    """Return the keys of an attempt that are shown of a task in a state."""
    if attempt is None or (state == "finished" and attempt.outcome != "completed"):
        return {}
    if attempt.outcome.startswith("not run: "):
        return {"outcome": attempt.outcome} if state == "failed" else {}
    if state == "failed" and attempt.outcome == "completed":
        return {}
    known = attempt._asdict()
    return {key: known[key] for key in KEYS} | {"host": attempt.host or None}


@pytest.mark.parametrize("odd", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("seed", range(15))
def test_each_object_is_as_if_it_was_encoded_alone(
    tmp_path, monkeypatch, capfdbinary, seed, odd
):
    draw = random.Random(seed)
    tasks = [draw.choice(TEXTS) for _ in range(40)]
    site = Site(tmp_path / "tasks.txt_workdir", tasks)
    (tmp_path / "tasks.txt").write_bytes(os.fsencode("\n".join([*tasks, ""])))
    site.root.mkdir(exist_ok=True)
    for name, ids in (
        ("finished", range(25)),
        ("failed", range(25, 33)),
        ("toprocess", range(33, 40)),
    ):
        (site.root / name).write_bytes(os.fsencode(site.lines(ids)))
    write_attempts(site, draw, odd)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mpifarm.store.attempts._TASKS_AT_ONCE", draw.choice([1, 7]))
    console = Console(prints=True)
    assert ls.main(["tasks.txt", "--json"], console, {}) == 0
    console.close()
    objects = capfdbinary.readouterr().out.decode("ascii").split("\n")[1:-2]
    states = ["finished"] * 25 + ["failed"] * 8 + ["waiting"] * 7
    assert [each.removesuffix(",") for each in objects] == [
        json.dumps(each, allow_nan=False) for each in expect(site, states)
    ]


def test_a_command_that_the_list_does_not_have_is_that_of_the_attempt():
    texts = ["echo one", "", ""]
    view: Any = SimpleNamespace(
        texts=lambda taskids: texts[: len(taskids)], encoded_texts=lambda _: []
    )
    nothing: Any = None
    objects = ls_json._Objects(view, nothing, 0.0)
    fields = [b"not this", rb"a\tb \\", b""]
    assert objects._encode_commands([0, 1, 2], fields) == [
        *(b'"echo one"', rb'"a\tb \\"', b'""'),
    ]
