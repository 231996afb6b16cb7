"""Hooks beside real farms: what they get, and that bad ones cost nobody else anything.

Rules of this file: the examples of docs/hooks.md are read from there.
"""

import json
import os
import re
import signal
from dataclasses import fields
from typing import get_args

import pytest

from mpifarm.model import events
from tests.farm_driver import Part, assert_ends
from tests.pages import read_page, take_block
from tests.support import wait_until

PAGE = read_page("hooks.md")
LONG = "touch started.$PROC_NUMBER; exec sleep 1000"


def read_events(place, name="events.jsonl"):
    return [json.loads(line) for line in place.notes(name)]


def test_the_page_lists_each_event_with_its_keys():
    rows = dict(re.findall(r"^\| `(\w+)` \| .*\|(.*) \|$", PAGE, re.MULTILINE))
    expected = {
        each.event: [field.name for field in fields(each)]
        for each in get_args(events.Event)
    }
    expected[events.BROKE_OFF] = []
    listed = {name: re.findall(r"`(\w+)`", keys) for name, keys in rows.items()}
    ended = listed["task_finished"]
    for name in ("task_failed", "task_retried", "task_cancelled"):
        listed[name] = ended
    assert listed == expected


def test_ready_hooks_get_all_of_two_farms(create_place):
    place = create_place(["true", "exit 3", "true"])
    options = ("--events", "events.jsonl", "--metrics", "farm.prom")
    place.script(
        "mail", 'echo "$MPIFARM_EVENT $MPIFARM_FAILED of $MPIFARM_TOTAL" >> sent'
    )
    told = (
        "--on-failure",
        "./mail",
        "--on-end",
        "./mail; echo $MPIFARM_EXIT_STATUS >> sent",
    )
    place.finish(*options, *told, status=1)
    assert sorted(place.notes("sent")) == [
        "1",
        "farm_ended 1 of 3",
        "task_failed 1 of 3",
    ]
    place.finish(*options, status=1)
    found = read_events(place)
    names = [each["event"] for each in found]
    assert names.count("farm_began") == names.count("farm_ended") == 2
    assert names.count("task_finished") == 2
    assert names.count("task_failed") == 1
    first = [each for each in found if each["farm"] == found[0]["farm"]]
    assert [each["n"] for each in first] == [*range(1, len(first) + 1)]
    assert first[-1]["exit_status"] == 1
    assert 'state="failed"} 1' in "\n".join(place.notes("farm.prom"))
    place.assert_sound()


BAD_HOOKS = """\
import os, sys, time
class Sleeps:
    def on_event(self, event): time.sleep(1000)
class Dies:
    def on_event(self, event):
        open("died", "w").close()
        os._exit(3)
class Floods:
    def on_event(self, event):
        for _ in range(1000):
            os.write(1, b"x" * 65536)
            print("y" * 65536, file=sys.stderr)
"""


def test_hooks_that_sleep_die_and_flood_cost_their_own_output_alone(create_place):
    place = create_place(["until [ -e died ]; do sleep 0.02; done"] * 20)
    (place.directory / "bad.py").write_text(BAD_HOOKS)
    names = ("Sleeps", "Dies", "Floods", "Missing")
    config = "".join(f"[{name}]\nHook = bad.{name}\n" for name in names)
    (place.directory / "bad.ini").write_text(config)
    refused = place.start("--config", "bad.ini", "--hook", "Missing")
    assert_ends(refused, 2)
    assert "--hook Missing: the class bad.Missing can't be imported" in refused.text()
    hooks = [word for name in names[:3] for word in ("--hook", name)]
    farm = place.start("--config", "bad.ini", *hooks, "--events", "events.jsonl")
    assert_ends(farm, 0)
    place.assert_all_finished()
    assert read_events(place)[-1]["event"] == "farm_ended"
    said = farm.text()
    assert "the hook Sleeps (bad.Sleeps) had not ended 5 s after the farm" in said
    assert (
        "the hook Dies (bad.Dies) has ended before the farm: it did not get all" in said
    )
    assert "xxx" not in said
    assert "yyy" not in said
    place.wait_until_gone()


SITE_HOOKS = """\
from mpifarm.hooks import Hook
class Accounting(Hook):
    def __init__(self, server): self.server = server
    def on_event(self, event):
        with open("accounted", "a") as file:
            print(self.server, event["event"], file=file)
"""


def test_a_site_switches_hooks_on_and_users_see_it(create_place):
    place = create_place(["true"])
    place.directory.chmod(0o755)
    text = take_block("hooks.md", "[hooks]").text()
    for path in ("/var/log/mpifarm", "/var/lib/node_exporter", "/opt/site/python"):
        text = text.replace(path, str(place.directory))
    (place.directory / "site_hooks.py").write_text(SITE_HOOKS)
    place.script("logger", 'echo "$@" >> logged')
    place.environment["PATH"] = f"{place.directory}:{place.environment['PATH']}"
    site = place.directory / "site.ini"
    site.write_text(text)
    site.chmod(0o644)
    env = {"MPIFARM_SITE_CONFIG": str(site)}
    farm = place.start("--quiet", env=env)
    assert_ends(farm, 0)
    assert f"switched on by {site}" in farm.text()
    (written,) = place.directory.glob("*.jsonl")
    assert read_events(place, written.name)[-1]["event"] == "farm_ended"
    (metrics,) = place.directory.glob("mpifarm-*.prom")
    assert 'state="finished"} 1' in metrics.read_text()
    assert place.notes("logged")[-1].endswith(" 0")
    assert place.notes("accounted")[-1] == "https://accounts.example.org farm_ended"
    site.chmod(0o666)
    farm = place.start(env=env)
    assert_ends(farm, 0)
    assert f"are left out: everyone may write {site}" in farm.text()


def test_the_hook_of_the_page_counts_the_outcomes(create_place):
    place = create_place(["true", "false", "true"])
    code = take_block("hooks.md", "from mpifarm")
    section = take_block("hooks.md", "[count]")
    (place.directory / "my_hooks.py").write_text(code.text())
    (place.directory / "hooks.ini").write_text(section.text())
    place.finish("--config", "hooks.ini", "--hook", "count", status=1)
    (line,) = place.notes("outcomes.txt")
    assert line == "task_failed: 1, task_finished: 2"


STRANGER = 54321
"""A uid and gid that nobody has."""

RUNS = """\
open("ran", "w").close()
class Watch:
    def on_event(self, event): pass
"""


def test_a_hook_whose_module_everyone_may_write_is_refused(create_place):
    place = create_place(["true"])
    module = place.directory / "my_hooks.py"
    module.write_text(RUNS)
    module.chmod(0o666)
    (place.directory / "hooks.ini").write_text("[watch]\nHook = my_hooks.Watch\n")
    farm = place.start("--config", "hooks.ini", "--hook", "watch")
    assert_ends(farm, 2)
    why = f"the module my_hooks is not used: everyone may write {module}"
    assert f"--hook watch: {why}" in farm.text()
    assert f"as you: chmod go-w {module}" in farm.text()
    assert not (place.directory / "ran").exists()
    assert not place.workdir.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")
@pytest.mark.parametrize("has_path", [True, False])
def test_a_hook_of_the_site_that_a_stranger_could_have_written_is_left_out(
    create_place, has_path
):
    """Without ``path``, the module is in the current directory, which is no place."""
    place = create_place(["true"])
    place.directory.chmod(0o755 if has_path else 0o1777)
    module = place.directory / "strange_hooks.py"
    module.write_text(RUNS)
    module.chmod(0o666)
    os.chown(module, STRANGER, STRANGER)
    site = place.directory / "site.ini"
    path = f"path = {place.directory}\n" if has_path else ""
    site.write_text(f"[hooks]\n{path}[watch]\nHook = strange_hooks.Watch\n")
    site.chmod(0o644)
    farm = place.start(env={"MPIFARM_SITE_CONFIG": str(site)})
    assert_ends(farm, 0)
    place.assert_all_finished()
    assert (
        "WARNING: the hook watch (strange_hooks.Watch) fails and is left out"
    ) in farm.text()
    why = f"{module} belongs to user {STRANGER}" if has_path else "No module named"
    assert why in farm.text()
    assert not (place.directory / "ran").exists()


def test_a_bad_input_ends_the_farm_before_anything_begins(create_place):
    place = create_place(["true"])
    for options, words in (
        (["--events", "no/where"], "--events"),
        (["--hook", "none"], "there is no hook 'none'"),
        (["--on-end", ""], "the COMMAND of --on-end is empty"),
    ):
        farm = place.start(*options)
        assert farm.wait() == 2
        assert words in farm.text()
    assert not place.workdir.exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_farm_that_is_stopped_or_killed_says_so_at_last(create_place, signum):
    place = create_place([LONG])
    place.launch("--events", "events.jsonl", "--on-end", "echo $MPIFARM_EVENT > end")
    place.wait_for_marks("started", 1)
    place.await_notes("events.jsonl", 2)
    if signum == signal.SIGKILL:
        (pid,) = place.pids(Part.RANK)
    else:
        pid = place.find_rank(0)
    os.kill(pid, signum)
    last = "farm_ended" if signum == signal.SIGTERM else "farm_broke_off"
    wait_until(lambda: place.notes("end") == [last])
    wait_until(lambda: read_events(place)[-1]["event"] == last)
    place.wait_until_gone()
