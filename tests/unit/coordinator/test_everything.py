"""All that can happen to a list at once: order, growth, requests, losses, failures.

Rules of this file: a seed is a run, the same each time.  What users do and what befalls
ranks is drawn beforehand; the judge looks at starts, at what stands on disk and at the
answers, and asks neither the coordinator nor the frontier why.
"""

import math
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest

from mpifarm.coordinator.coordinator import Effect, Phase, Reply
from mpifarm.model.requests import Answer, Fate, Request, RequestKind
from mpifarm.model.settings import Policy
from mpifarm.model.task import Lease, Outcome
from mpifarm.order.constraints import Constraints
from tests.unit.fakes import FakeDisk, FakeRank
from tests.unit.ordered_farm import (
    OrderedFarm,
    find_needed,
    find_stage,
    make_constraints,
)

SEEDS = range(100)

ACTS_UNTIL = 20.0
"""Seconds in which users act, and ranks are lost; fewer if tasks are short."""

MOST_TASKS = 200
"""No list gets longer."""

SEATS = 2
"""Tasks of the kind `seat` that may run at a time."""


HEARD_BY = 0.01
"""Seconds in which a message is heard for sure, unless messages were lost."""

LOCATED_BY = 3.0
"""Seconds in which ranks have told what they have, after messages were lost."""

CANCELLED_BY = 2.0
"""Seconds in which a cancel is done; a task may take longer."""


class Asked(NamedTuple):
    """A request, the last `number` so far."""

    request: Request
    number: int
    at: float
    known: int
    """How many tasks the farm knew."""


class BusyFarm(OrderedFarm):
    """A farm of which users ask things; its judge is told what they were answered."""

    def __init__(
        self, constraints: Constraints, disk: FakeDisk, follow: float | None, **more
    ) -> None:
        super().__init__(constraints, disk, **more)
        self.follow = follow
        self.asked: dict[str, Asked] = {}
        """All requests, by name."""
        self.cancelled: set[int] = set()
        """Tasks that somebody has asked to cancel."""
        self.barred: dict[int, float] = {}
        """Since when a task is held for sure: the hold was heard, or answered."""
        self.all_barred: float = math.inf
        """Since when all are."""
        self.released: Counter[int | None] = Counter()
        """The number of the last release of a task; of all for None."""
        self.holds_all = False
        self.lost_messages_at = -math.inf
        self.last_start: dict[int, float] = {}
        self.begin_to_lead()

    def begin_to_lead(self) -> None:
        """Tell the coordinator what a leader reads from the list and the disk."""
        coordinator = self.coordinator
        coordinator.expect_growth(self.follow)
        coordinator.share_seats(self.constraints.kinds)

    # ---- what befalls it -------------------------------------------------------------

    def lose_messages(self) -> None:
        self.lost_messages_at = self.now
        super().lose_messages()

    def lose_coordinator(self) -> None:
        if self.ended_at is not None or len(self.find_alive()) < 2:
            return
        super().lose_coordinator()
        self.begin_to_lead()
        held = self.disk.held_by_users
        self.coordinator.hold_from_start(held, holds_all=self.holds_all)
        for request in self.find_unanswered():
            self.coordinator.on_request(request, self.now)

    def lose_rank(self, pick: float) -> None:
        own = self.coordinator.rank_set.own
        others = [each for each in self.find_alive() if each != own]
        if others and self.ended_at is None:
            self.kill(others[int(pick * len(others))])

    def lose_worker(self, rank: int) -> None:
        self.ranks[rank].lose_worker()

    def find_alive(self) -> list[int]:
        return [each.rank for each in self.ranks if not (each.silent or each.left)]

    def find_unanswered(self) -> list[Request]:
        answered = {each.request for each in self.replies}
        left = self.asked.keys() - answered
        return [each.request for name, each in self.asked.items() if name in left]

    # ---- what users ask --------------------------------------------------------------

    def ask(self, kind: RequestKind, picks: list[float] | None) -> None:
        """Ask for something; `picks` are tasks as shares of the list, None for all."""
        if self.ended_at is not None or self.coordinator.phase is Phase.LEAVING:
            return
        length = len(self.commands) + self.unseen
        ids = None if picks is None else sorted({int(each * length) for each in picks})
        number = len(self.asked) + 1
        request = Request(f"r{number}", kind, None if ids is None else (*ids,))
        asked = Asked(request, number, self.now, len(self.commands))
        self.asked[request.name] = asked
        if kind is RequestKind.CANCEL:
            self.cancelled.update(ids or ())
        elif kind is RequestKind.HOLD:
            self.hold(ids)
            self.after(HEARD_BY, partial(self.bar_heard, asked))
        elif kind is RequestKind.RELEASE:
            self.release(ids, number)
        self.coordinator.on_request(request, self.now)

    def hold(self, ids: list[int] | None) -> None:
        self.holds_all |= ids is None
        self.disk.held_by_users.update(ids or ())

    def bar_heard(self, asked: Asked) -> None:
        """Bar what is held though the request may not be answered yet."""
        if asked.at - self.lost_messages_at > LOCATED_BY:
            self.bar(asked)

    def bar(self, asked: Asked) -> None:
        """Bar what a request holds, unless it was released since."""
        if asked.request.tasks is None:
            if self.released[None] < asked.number:
                self.all_barred = min(self.all_barred, self.now)
            return
        for taskid in asked.request.tasks:
            if self.released[taskid] < asked.number:
                self.barred.setdefault(taskid, self.now)

    def release(self, ids: list[int] | None, number: int) -> None:
        if ids is None:
            self.holds_all, self.all_barred = False, math.inf
            ids = [*range(MOST_TASKS)]
            self.released[None] = number
        self.disk.held_by_users.difference_update(ids)
        for taskid in ids:
            self.released[taskid] = number
            self.barred.pop(taskid, None)

    def _perform(self, effect: Effect) -> None:
        super()._perform(effect)
        if isinstance(effect, Reply):
            self.judge_answer(effect.answer)

    # ---- the judge -------------------------------------------------------------------

    def note_start(self, lease: Lease, rank: FakeRank) -> None:
        super().note_start(lease, rank)
        taskid = lease.taskid
        self.last_start[taskid] = self.now
        assert taskid not in self.barred, f"{lease} is held"
        assert self.all_barred == math.inf, f"{lease}: all are held"
        kinds = self.constraints.kinds
        if taskid in kinds:
            running = [
                t for each in self.ranks for t in each.running if not each.silent
            ]
            seated = {each.taskid for each in running if each.taskid in kinds}
            assert len(seated | {taskid}) <= SEATS, f"{seated} run beside {lease}"

    def judge_answer(self, answer: Answer) -> None:
        asked = self.asked[answer.request]
        assert not answer.refusal
        match asked.request.kind:
            case RequestKind.HOLD:
                self.bar(asked)
                self.judge_fates(asked, answer)
            case RequestKind.CANCEL:
                assert self.now - asked.at < CANCELLED_BY, f"{answer} comes late"
                self.judge_fates(asked, answer)

    def judge_fates(self, asked: Asked, answer: Answer) -> None:
        request, records = asked.request, self.disk.records
        fates = {taskid: fate for fate, _, ids in answer.fates for taskid in ids}
        if request.tasks is not None:
            known = {each for each in request.tasks if each < asked.known}
            assert known <= fates.keys() <= {*request.tasks}
        for taskid, fate in fates.items():
            record = records.get(taskid)
            if fate is Fate.NOT_HERE:
                assert record or taskid >= len(self.commands), f"{taskid} is nowhere"
            elif request.kind is RequestKind.CANCEL and fate is not Fate.ENDED_BEFORE:
                assert record, f"the cancelled {taskid} is not recorded"
                assert record.result.outcome is Outcome.CANCELLED

    def judge_end(self, fails: Callable[[int], bool], *, drained: bool) -> None:
        """Judge what stands on disk when the farm has ended, or only held tasks are
        left."""
        disk, records = self.disk, self.disk.records
        left = Counter(disk.toprocess)
        assert disk.held == set()
        assert disk.find_unaccounted() == []
        places = {each: left[each] + (each in records) for each in self.all_ids()}
        assert {*places.values()} <= {1}, f"not in one place: {places}"
        assert left.keys() | records.keys() == places.keys()
        assert self.find_unanswered() == []
        assert self.counts.spins == 0
        for taskid in records:
            self.judge_record(taskid, fails)
        if not (drained or self.holds_all):
            for taskid in left:
                self.judge_left(taskid, left)
        for taskid in left:
            if taskid in self.barred:
                assert self.last_start.get(taskid, 0.0) <= self.barred[taskid]

    def all_ids(self) -> range:
        return range(len(self.commands))

    def judge_record(self, taskid: int, fails: Callable[[int], bool]) -> None:
        result = self.disk.records[taskid].result
        outcome, ran = result.outcome, (taskid, result.attempt) in self.ends
        if self.is_doomed(taskid):
            assert outcome in (Outcome.NOT_RUN, Outcome.CANCELLED), (taskid, outcome)
            assert taskid not in self.last_start, f"{taskid} ran, and was not to"
            return
        assert outcome is not Outcome.NOT_RUN, f"{taskid} was not run for no reason"
        if outcome is Outcome.CANCELLED:
            assert taskid in self.cancelled
        else:
            assert ran, f"{taskid} never ran, and is recorded: {result}"
        if outcome is Outcome.COMPLETED:
            assert not fails(taskid)
        elif outcome is Outcome.FAILED:
            assert fails(taskid)

    def is_doomed(self, taskid: int) -> bool:
        """Return whether a task that this one needs did not complete, or is doomed."""
        records = self.disk.records
        return any(
            records[each].result.outcome is not Outcome.COMPLETED
            if each in records
            else self.is_doomed(each)  # it is held, or the farm has drained
            for each in find_needed(self.constraints, taskid)
        )

    def judge_left(self, taskid: int, left: Counter[int]) -> None:
        """A task that is left is held, or it waits for one that is left."""
        if taskid in self.disk.held_by_users:
            return
        stage = range(find_stage(self.constraints, taskid))
        waits_for = {*stage, *self.constraints.after.get(taskid, ())}
        assert waits_for & left.keys(), f"{taskid} is left, and waits for nothing"


def make_order(luck: random.Random) -> Constraints:
    """Return an order for a list and for all that may be added to it."""
    constraints = make_constraints(MOST_TASKS, luck)
    constraints.barriers = [
        each for each in constraints.barriers if luck.random() < 0.6
    ]
    if luck.random() < 0.4:
        kinds = (each for each in range(MOST_TASKS) if luck.random() < 0.3)
        constraints.kinds = dict.fromkeys(kinds, "seat")
    return constraints


def plan_requests(farm: BusyFarm, luck: random.Random, until: float) -> None:
    """Let users ask for this and that; what is held as a whole is released again."""

    def at(moment: float, kind: RequestKind, picks: list[float] | None) -> None:
        farm.after(moment, partial(farm.ask, kind, picks))

    for _ in range(luck.randint(3, 12)):
        moment = luck.uniform(0.0, until)
        picks = [luck.random() for _ in range(luck.choice([1, 3, 8]))]
        kinds = ["cancel", "hold", "hold, then", "release", "hold all"]
        kind = luck.choices(kinds, [3, 4, 5, 2, 1])[0]
        match kind:
            case "hold, then":
                at(moment, RequestKind.HOLD, picks)
                pause = luck.choice([0.0, 0.0005, 0.01, 0.2, 1.0])
                then = luck.choice([RequestKind.RELEASE, RequestKind.CANCEL])
                at(moment + pause, then, picks)
            case "hold all":
                at(moment, RequestKind.HOLD, None)
                at(moment + luck.uniform(0.0, 3.0), RequestKind.RELEASE, None)
            case _:
                at(moment, RequestKind(kind), picks)


def plan_losses(farm: BusyFarm, luck: random.Random, until: float) -> None:
    """Let some ranks be lost, but one."""
    for _ in range(luck.randint(0, 2)):
        lose = partial(farm.lose_rank, luck.random())
        farm.after(luck.uniform(0.1, until), lose)
    for _ in range(luck.randint(0, 3)):
        lose = partial(farm.lose_worker, luck.randrange(len(farm.ranks)))
        farm.after(luck.uniform(0.1, until), lose)
    if luck.random() < 0.3:
        farm.after(luck.uniform(0.1, until), farm.lose_messages)
    if luck.random() < 0.4:
        farm.after(luck.uniform(0.1, until), farm.lose_coordinator)


def make_farm(seed: int) -> tuple[BusyFarm, Callable[[int], bool], str]:
    """Return the farm of a seed, which tasks of it fail, and how it ends."""
    luck = random.Random(seed)
    constraints = make_order(luck)
    total = luck.randint(1, 90)
    retries = luck.choice([0, 0, 1])
    # Only short tasks wait on ranks.
    speed = luck.choice([1, 1, 20])
    lengths = [each / speed for each in (0.001, 0.3, 1.0, 4.0)]
    until = ACTS_UNTIL / speed
    farm = BusyFarm(
        *(constraints, FakeDisk(total, constraints), luck.choice([None, 25.0])),
        ranks=4,
        workers=luck.randint(1, 2),
        seconds=lambda _: luck.choice(lengths),
        seed=seed,
        disk_seconds=luck.choice([0.0, 0.02, 0.3]),
        survives_rank_loss=True,
        policy=Policy(
            quarantine=0,
            retries=retries,
            retry_delay=luck.choice([0.0, 0.5]),
            seats=(("seat", SEATS),) if constraints.kinds else (),
        ),
    )
    share = luck.choice([0.0, 0.01, 0.05])
    failing = {each for each in range(MOST_TASKS) if luck.random() < share}
    shaky = {each for each in range(MOST_TASKS) if retries and luck.random() < 0.1}

    def find_status(lease: Lease) -> int:
        fails = shaky | failing if lease.attempt == 1 else failing
        return int(lease.taskid in fails)

    farm.status_of = find_status
    for _ in range(luck.randint(1, 6)):
        count = luck.randrange(1, 15)
        farm.after(luck.uniform(0.0, until), partial(farm.add_lines, count))
    plan_requests(farm, luck, until)
    plan_losses(farm, luck, until)
    end = luck.choice(["release", "release", "hold", "drain"])
    if end == "release":
        farm.after(until + 4, partial(farm.ask, RequestKind.RELEASE, None))
    elif end == "drain":
        farm.after(until, partial(farm.ask, RequestKind.DRAIN, None))
    return farm, failing.__contains__, end


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_at_once_each_task_ends_once_and_in_its_order(seed):
    farm, fails, end = make_farm(seed)
    farm.run(600.0)
    if farm.ended_at is None:
        assert end == "hold", "it does not end, and nothing is held"
        assert farm.disk.held_by_users & {*farm.disk.toprocess}
    farm.judge_end(fails, drained=end == "drain")
    if end == "release" and farm.unseen == 0:
        assert [*farm.disk.toprocess] == []
