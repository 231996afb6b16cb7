"""Options that files and variables set, in real farms: rank 0 reads them for all."""

import json
from configparser import ConfigParser

import pytest

from tests.farm_driver import MPIFARM, FarmDriver, assert_ends
from tests.pages import take_block
from tests.required import need_launcher
from tests.support import Child, find_launcher

EACH = """\
#!/bin/sh
rank=$PMI_RANK$OMPI_COMM_WORLD_RANK
[ "$rank" = 0 ] || { unset MPIFARM_GRACE; export HOME=/nowhere MPIFARM_PROC=7; }
exec "$@"
"""
"""Rank 0 alone has the user's file, and variables that count."""

CONFIG = ".config/mpifarm/config.ini"


@pytest.fixture
def place(create_place):
    """A place whose directory is the home of rank 0."""
    need_launcher()
    place = create_place(["sleep 0.05"] * 12)
    place.environment["HOME"] = str(place.directory)
    place.write_program("each", EACH)
    (place.directory / CONFIG).parent.mkdir(parents=True)
    (place.directory / CONFIG).write_text("[options]\nproc = 3\nverbose = yes\n")
    return place


def start(place: FarmDriver, *options: str, **variables: str) -> Child:
    """Start two ranks, each with its own environment."""
    launcher = find_launcher()
    assert launcher is not None
    each = str(place.directory / "each")
    argv = [each, *MPIFARM, *options, str(place.tasklist)]
    return place.start_command(
        launcher(place.environment, 2, *argv), env=variables, name="farm"
    )


def workers_of(place: FarmDriver) -> list[int]:
    """The workers of all ranks of all farms."""
    states = [
        json.loads(path.read_text()) for path in place.workdir.glob("farms/*.json")
    ]
    return sorted(rank["workers"] for state in states for rank in state["ranks"])


def test_all_ranks_have_what_rank_0_has_read(place):
    farm = start(place, "--retries", "1", MPIFARM_GRACE="5")
    assert_ends(farm, 0)
    place.assert_all_finished()
    assert workers_of(place) == [3, 3]
    said = farm.text()
    ini = f"{place.directory}/{CONFIG}"
    assert f"set by default: --proc 3, --verbose yes ({ini}); --grace 5" in said
    assert "task 11 " in said
    assert "out of use" not in said


def test_what_is_typed_wins_on_each_rank(place):
    farm = start(place, "--proc", "2", "--no-verbose")
    assert_ends(farm, 0)
    assert workers_of(place) == [2, 2]
    assert "set by default" not in farm.text()


def test_a_wrong_value_ends_all_ranks_with_one_sentence_and_2(place):
    (place.directory / CONFIG).write_text("[options]\nprok = 3\n")
    farm = start(place)
    assert_ends(farm, 2)
    assert farm.text().count("config.ini, line 2: there is no option prok, did") == 1
    assert not place.workdir.exists()


def test_ranks_that_see_no_other_read_for_themselves(place):
    farm = start(place, "--mpi", "off")
    assert_ends(farm, 0)
    assert workers_of(place) == [3, 7]


def test_a_file_that_everyone_may_write_is_told_and_not_read(create_place):
    place = create_place(["true"])
    path = place.directory / "mpifarm.ini"
    path.write_text("[options]\nproc = nonsense\n")
    path.chmod(0o666)
    farm = place.start()
    assert_ends(farm, 0)
    assert f"WARNING: the options of {path} are left out: everyone" in farm.text()


def test_what_the_page_for_site_staff_sets_holds_for_a_farm_of_a_user(create_place):
    block = take_block("site-staff.md", "[options]")
    place = create_place(["echo done"])
    place.directory.chmod(0o755)
    locks, told = place.directory / "locks", place.directory / "told"
    for directory in (locks, told):
        directory.mkdir()
    text = block.text().replace("/home/locks", str(locks))
    text = text.replace("/var/lib/node_exporter", str(told))
    site = place.directory / "site.ini"
    site.write_text(text)
    site.chmod(0o644)
    farm = place.start(env={"MPIFARM_SITE_CONFIG": str(site)})
    assert_ends(farm, 0)
    options = ConfigParser()
    options.read_string(text)
    said = [f"--{name} {value}" for name, value in options["options"].items()]
    assert f"set by default: {', '.join(said)} ({site})" in farm.text()
    assert [*locks.iterdir()]
    (written,) = told.iterdir()
    assert written.read_text()
    assert not (place.workdir / "logs" / "log_0").exists(), "they are packed"
