"""Lists with an order: whole farms, an older mpifarm, and the real PyTaskFarmers."""

import signal
from collections.abc import Iterable
from typing import NamedTuple

import pytest

from tests.support import wait_until

HEEDS_NOT = "begun by a farmer that does not heed what the tasklist says of its order"


class Words(NamedTuple):
    """How a list says that the stages behind its first one are not for everyone."""

    barrier: str = ""
    """The line in front of each of them."""
    prefix: str = ""
    """The beginning of their tasks, with the number of tasks in the first stage."""
    options: tuple[str, ...] = ()
    """Those of a farm that reads it."""
    is_shared: bool = True
    """Whether plain farmers may run the first stage."""
    is_ordered: bool = True


BARRIER = Words("#BARRIER")
KINDS = {
    "barrier": BARRIER,
    "disbatch": Words("#DISBATCH BARRIER", "", ("-t", "disbatch"), is_shared=False),
    "greasy": Words("", "[# 1-{} #] ", ("-t", "greasy"), is_shared=False),
    "limit": Words("", "[limit=disk] ", ("--limit", "disk=2"), is_ordered=False),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Words:
    """Each kind of list that holds something back, one after the other."""
    return KINDS[request.param]


def create_stages(
    create_place,
    *stages: int,
    waits: Iterable[int] = (),
    later: Iterable[int] = (),
    gate: str = "go",
    kind: Words = BARRIER,
):
    """Each command notes its number and what is recorded; some wait for a file.

    Those of `later` wait for the file ``later``.  Those of `waits` wait for the file
    `gate` in a farm of mpifarm, for ``go`` in others.
    """
    place = create_place()
    script = place.script(
        "mark",
        f"ended=$(cat {place.workdir}/finished {place.workdir}/failed | wc -l)",
        'echo "$1 ${MPIFARM_FARM:-plain} $ended" >> starts',
        f"gate=${{MPIFARM_FARM:+{gate}}}",
        'case " $1 " in',
        f"  {_one_of(waits)}) until [ -e ${{gate:-go}} ]; do sleep 0.02; done;;",
        f"  {_one_of(later)}) until [ -e later ]; do sleep 0.02; done;;",
        "esac",
    )
    lines, taskid, prefix = list[str](), 0, ""
    for count in stages:
        if lines:
            lines += filter(None, [kind.barrier])
            prefix = kind.prefix.format(stages[0])
        lines += [f"{prefix}{script} {each}" for each in range(taskid, taskid + count)]
        taskid += count
    place.tasklist.write_text("".join(f"{line}\n" for line in lines))
    return place


def _one_of(ids: Iterable[int]) -> str:
    """Return the pattern of a shell for these numbers."""
    return "|".join(f"' {each} '" for each in ids) or "none"


def starts(place) -> list[tuple[int, str, int]]:
    words = [line.split() for line in place.notes("starts")]
    return [(int(taskid), farm, int(ended)) for taskid, farm, ended in words]


def assert_in_order(place, *stages: int) -> None:
    """No task began before all in front of its barrier were recorded."""
    first = 0
    for count in stages:
        stage = range(first, first + count)
        assert all(ended >= first for each, _, ended in starts(place) if each in stage)
        first += count
    assert sorted(each for each, *_ in starts(place)) == [*range(first)]


def test_two_farms_do_a_list_in_its_order_and_both_stay_at_a_barrier(create_place):
    place = create_stages(create_place, 2, 30, 30, waits=(0, 1), later=range(2, 32))
    first = place.start("-n", "2")
    place.await_notes("starts", 2)
    second = place.start("-n", "2")
    wait_until(lambda: "is at work in this workdir too" in second.text())
    place.allow()
    # A farm that has got little done takes few, and leaves the others to the other.
    wait_until(lambda: len({farm for _, farm, _ in starts(place)[2:]}) == 2)
    (place.directory / "later").touch()
    # The last stage holds up nothing more: who has nothing of it leaves, with 3.
    assert {*(farm.wait() for farm in (first, second))} in ({0}, {0, 3})
    assert_in_order(place, 2, 30, 30)
    place.assert_sound()


def test_a_failed_check_and_a_retry(create_place):
    place = create_place(content=b"exit $CODE\ntrue\n#BARRIER CHECK\ntrue\ntrue\n")
    assert place.run("-n", "2", env={"CODE": "3"}) == 1
    assert place.ids("failed") == [0, 2, 3]
    outcomes = {each.taskid: each.outcome for each in place.attempts()}
    why = "not run: task 0 failed"
    assert outcomes == {0: "failed", 1: "completed", 2: why, 3: why}
    assert place.result()["this_farm"]["outcomes"]["not run"] == 2
    again = place.start("-n", "2", name="again")
    assert again.wait() == 1
    will_not = "2 tasks will not run (2-3), because task 0 failed before: mpifarm retry"
    assert will_not in again.text()
    assert place.run_words("retry", str(place.tasklist)) == 0
    assert place.ids("waiting") == [2, 3]
    place.finish(env={"CODE": "0"})
    assert place.finished() == [0, 1, 2, 3]


def test_what_is_in_no_file_keeps_its_barrier_shut(create_place):
    place = create_stages(create_place, 3, 3)
    place.finish()
    place.finished()
    (place.directory / "starts").unlink()
    texts = place.tasks
    (place.workdir / "finished").write_text(f"0 {texts[0]}\n")
    (place.workdir / "toprocess").write_text(f"2 {texts[2]}\n")
    waiting = "".join(f"{each} {texts[each]}\n" for each in (3, 4, 5))
    (place.workdir / "waiting").write_text(waiting)
    farm = place.start()
    assert farm.wait() == 3
    sentence = "3 tasks wait behind the barrier in front of task 3 for task 1, which is"
    assert sentence in farm.text()
    repair = ("check", "--repair", "--assume-idle", str(place.tasklist))
    assert place.run_words(*repair) == 0
    place.finish()
    assert sorted(each for each, *_ in starts(place)) == [1, 2, 3, 4, 5]


# ---- an older mpifarm ---------------------------------------------------------------


def test_an_older_mpifarm_and_this_one_refuse_what_the_other_has_begun(
    create_place, old_mpifarm
):
    place = create_stages(create_place, 2, 2)
    assert place.run("--timeout", "0") in (0, 75)
    before = place.content("waiting"), place.content("fingerprint.json")
    old = place.start(env=old_mpifarm)
    assert old.wait() == 2
    assert "the tasklist was edited since" in old.text()
    assert (place.content("waiting"), place.content("fingerprint.json")) == before
    place.finish()
    assert_in_order(place, 2, 2)

    place = create_stages(lambda: create_place(name="there"), 2, 2)
    assert place.run(env=old_mpifarm) == 0
    before = place.content("fingerprint.json")
    new = place.start()
    assert new.wait() == 2
    assert HEEDS_NOT in new.text()
    assert place.content("fingerprint.json") == before


# ---- plain farmers ------------------------------------------------------------------


def contents(place) -> dict[str, bytes]:
    """Return the content of each file in the workdir."""
    found = (each for each in place.workdir.rglob("*") if each.is_file())
    return {str(each.relative_to(place.workdir)): each.read_bytes() for each in found}


def test_a_workdir_that_a_plain_farmer_has_begun_is_refused(
    create_place, plain_farmer, kind
):
    place = create_stages(create_place, 6, 4, waits=range(6), kind=kind)
    plain = place.start_plain(plain_farmer, "--proc", "2")
    place.await_notes("starts", 2)
    assert_refused(place, kind)
    place.kill(plain, "plain")
    assert_refused(place, kind)
    assert {farm for _, farm, _ in starts(place)} == {"plain"}


def assert_refused(place, kind: Words) -> None:
    """A farm says why it does not start, and changes nothing."""
    before = contents(place)
    farm = place.start(*kind.options)
    assert farm.wait() == 2
    assert HEEDS_NOT in farm.text()
    assert contents(place) == before


def test_a_plain_farmer_does_a_list_that_was_refused_to_its_end(
    create_place, plain_farmer
):
    place = create_stages(create_place, 2, 4, waits=(0, 1))
    plain = place.start_plain(plain_farmer, "--proc", "2")
    place.await_notes("starts", 2)
    assert place.run() == 2
    place.allow()
    assert plain.wait() == 0
    assert sorted((each, farm) for each, farm, _ in starts(place)) == [
        (each, "plain") for each in range(6)
    ]


def test_a_plain_farmer_beside_a_farm_starts_nothing_that_may_not_run(
    create_place, plain_farmer, kind
):
    # The farm ends the first stage: for what a plain farmer has it would not wait.
    place = create_stages(create_place, 20, 4, waits=range(20), gate="go-on", kind=kind)
    farm = place.start("-n", "2", *kind.options)
    place.await_notes("starts", 2)
    plain = place.start_plain(plain_farmer, "--proc", "2")
    if kind.is_shared:
        place.await_notes("starts", 4)
        place.allow()
    assert plain.wait() == 0, plain.text()
    (place.directory / "go-on").touch()
    assert farm.wait() == 0, farm.text()
    assert_in_order(place, *((20, 4) if kind.is_ordered else (24,)))
    plainly = {each for each, farm, _ in starts(place) if farm == "plain"}
    assert bool(plainly) == kind.is_shared
    assert plainly <= {*range(20)}
    place.assert_all_finished()


def test_a_plain_farmer_starts_nothing_of_what_a_farm_has_left_behind_its_first_stage(
    create_place, plain_farmer, kind
):
    place = create_stages(create_place, 2, 4, waits=(2, 3), kind=kind)
    farm = place.start("-n", "2", *kind.options)
    place.await_notes("starts", 4)
    # What has ended just before the signal may be of the signal, and runs again.
    wait_until(lambda: place.finished() == [0, 1])
    farm.send_signal(signal.SIGTERM)
    assert farm.wait() == 75
    assert place.ids("waiting") == [2, 3, 4, 5]
    before = contents(place)
    plain = place.start_plain(plain_farmer, "--proc", "2")
    assert plain.wait() == 0, plain.text()
    assert contents(place) == before
    place.allow()
    place.finish(*kind.options)
    assert not [farm for _, farm, _ in starts(place) if farm == "plain"]
    place.assert_all_finished()


def test_what_a_farm_killed_at_a_barrier_held_runs_behind_it(create_place):
    place = create_stages(create_place, 3, 4, waits=(3, 4))
    farm = place.start("-n", "2")
    place.await_notes("starts", 5)
    place.kill(farm)
    place.allow()
    place.finish()
    numbers = [each for each, *_ in starts(place)]
    assert numbers[:3] != numbers[3:6]
    assert sorted({*numbers}) == [*range(7)]
    assert sorted(numbers) == [0, 1, 2, 3, 3, 4, 4, 5, 6]
    place.assert_sound()
