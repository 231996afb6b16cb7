"""Rank 0's part of a farm, put together: open it, lead it, and say how it has ended.

Rules of this file: the order of things on rank 0 stands here.  A rank that takes over
goes the same way, from its own beginning.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import replace
from functools import partial

from mpifarm.coordinator.coordinator import Coordinator, RankSet
from mpifarm.errors import ExitStatus, FarmError, FutileError, InputError
from mpifarm.farm.agent import Agent
from mpifarm.farm.context import RankContext
from mpifarm.farm.default_words import describe_defaults
from mpifarm.farm.expected import read_durations_of
from mpifarm.farm.find_growth import find_growth
from mpifarm.farm.find_hooks import check_hooks, with_hooks
from mpifarm.farm.finish import Conclusion, FarmEnd, name_workdir
from mpifarm.farm.first_words import (
    check_list,
    describe_farm,
    describe_held,
    describe_limit,
    describe_memory,
    describe_ranks,
    warn_of_binding,
    warn_of_directory,
    warn_of_order,
    warn_of_unused,
)
from mpifarm.farm.growth import check_follow, explain_unended, has_changed
from mpifarm.farm.idle_nodes import IdleNodes
from mpifarm.farm.job_end import JobEnd
from mpifarm.farm.kinds import check_kinds, warn_of_kinds
from mpifarm.farm.leader import Leader
from mpifarm.farm.opening import (
    OpenedFarm,
    Opening,
    check_not_begun,
    find_commands,
    refuse_other_handler,
)
from mpifarm.farm.standard_input import (
    KeptInput,
    NoArgumentError,
    describe_no_tasks,
    is_kept,
    is_standard_input,
    stop_check,
    take_standard_input,
)
from mpifarm.farm.summary import Tally
from mpifarm.model.messages import ToCoordinator
from mpifarm.model.settings import Policy, RunnerDefinition, Settings
from mpifarm.store.store import Store
from mpifarm.system.pipes import checking
from mpifarm.tasklists import TaskList, find_constraints

READINGS = 10
"""Readings of a list that is appended to while a farm starts."""


def lead_farm(context: RankContext) -> FarmEnd:
    """Run a whole farm from rank 0; raise InputError for what the user has to mend.

    A list without tasks is told, and the other ranks are sent away.
    """
    _refuse_faults(context)
    context = with_hooks(context)
    check_hooks(context.hooks, context.environment)
    given = context.settings
    is_input = is_standard_input(given)
    _finish_move(context)
    kept = KeptInput(given, context.process.environ)
    with kept.put_back_if_refused(), checking(stop_check(context)):
        try:
            again = partial(_begin_kept, context)
            context, feed = take_standard_input(context, again, kept)
        except NoArgumentError as error:
            return _end_without_tasks(context, str(error))
        opening = Opening(context)
        runner, tasks = opening.read_definitions()
        check_follow(context.settings, tasks)
        opening.patiently(lambda: check_list(context, runner, tasks))
        if len(tasks) == 0 and context.settings.follow is None:
            opening.patiently(lambda: check_not_begun(context.settings))
            told = describe_no_tasks(given, has_lines=kept.has_lines)
            kept.put_back()
            return _end_without_tasks(context, told)
        check_kinds(context.settings, find_constraints(tasks))
        durations = read_durations_of(context.settings)
        ordered = opening.choose_order(tasks, durations)
        runner, tasks = _reread_if_again(context, given, opening, (runner, tasks))
    settings, environ = context.settings, context.process.environ
    warnings = opening.patiently(lambda: [*warn_of_unused(settings, environ, runner)])
    with _asked_job_end(context) as job_end:
        with kept.put_back_if_refused():
            tasks, opened = _join(opening, tasks, runner)
        leader = _create_leader(
            context, tasks, opened, job_end, context.settings.policy
        )
        if leader.growth is not None and feed is not None:
            leader.growth.feed = feed
        elif is_input:
            leader.coordinator.on_list_ended()
        leader.coordinator.forecast.expect(durations)
        _mention(context, describe_farm(context, leader))
        of_options = describe_defaults(given.defaults), describe_memory(given)
        _mention(context, [*filter(None, (ordered, *of_options))])
        _say(
            context,
            *(*warnings, explain_unended(tasks), describe_limit(leader)),
            warn_of_directory(leader),
            warn_of_kinds(context.settings, find_constraints(tasks)),
            warn_of_binding(settings, environ),
            warn_of_order(opened.store.frontier, name_workdir(context.settings)),
        )
        idle_nodes = IdleNodes(context, tasks)
        _say(context, idle_nodes.warn_at_start())
        leader.watch_hosts(idle_nodes.warn_of_hosts, describe_ranks)
        leader.tell_job_end()
        agent = context.create_agent(leader.hear, time.monotonic())
        agent.lead()
        agent.join()
        return _run_to_the_end(context, leader, agent)


def _refuse_faults(context: RankContext) -> None:
    """Raise `InputError` for what can be told before anything is looked at."""
    if context.process.defaults.fault is not None:
        raise context.process.defaults.fault
    if context.fault:
        raise InputError(context.fault)
    # Before standard input is read, because that goes into the workdir.
    refuse_other_handler(context.settings)


def _end_without_tasks(context: RankContext, told: str) -> FarmEnd:
    """Say that there are no tasks, and send the other ranks away."""
    _say(context, told)
    context.dismiss()
    return FarmEnd(ExitStatus.ALL_FINISHED)


def take_over(
    context: RankContext, agent: Agent, early: Sequence[tuple[int, ToCoordinator]]
) -> FarmEnd:
    """Run the rest of a farm whose coordinator was lost: this rank is the lowest now.

    Its `agent` goes on, and its output is heard from now on.  `early`: messages that
    other ranks have sent to this one already.
    """
    context.process.output.speak_up()
    known = agent.definition
    context = _with_hooks_of_here(context)
    is_input = is_standard_input(context.settings)
    context, _ = take_standard_input(context, takes_over=True)
    if known is None and context.settings.again:
        raise FutileError(
            "rank 0 is lost, and may not have begun the list again: give the same"
            " command again"
        )
    opening = Opening(context, takes_over=known is not None)
    runner, tasks = opening.read_definitions()
    if known is not None:
        runner = known.runner
    durations: Mapping[int, float] = {}
    with suppress(InputError):  # all has been read before, and is only a help
        durations = read_durations_of(context.settings)
        opening.choose_order(tasks, durations)
    with _asked_job_end(context) as job_end:
        tasks, opened = _join(opening, tasks, runner, known.farm if known else "")
        policy = context.settings.policy
        if known is not None:
            policy = _policy_of_rest(context.settings, opened.store)
        held = sorted(opened.store.held)
        leader = _create_leader(context, tasks, opened, job_end, policy, held)
        opening.patiently(lambda: _count_failures_on(leader))
        _say(context, _describe_loss(leader, agent.host))
        if is_input:
            _end_input(context, leader)
        leader.tell_job_end()
        agent.send_through(leader.hear)
        leader.coordinator.forecast.expect(durations)
        leader.take_over(agent, early)
        return _run_to_the_end(context, leader, agent)


def _join(
    opening: Opening, tasks: TaskList, runner: RunnerDefinition, inherits: str = ""
) -> tuple[TaskList, OpenedFarm]:
    """Join the workdir; read the list again if it has changed, and may fit then.

    Another farm may have taken up lines that were added since it was read.
    """
    for _ in range(READINGS):
        try:
            return tasks, opening.join(tasks, runner, inherits)
        except InputError:
            if not has_changed(tasks):
                raise
        _, tasks = opening.read_definitions()
    return tasks, opening.join(tasks, runner, inherits)


def _finish_move(context: RankContext) -> None:
    """Finish what a killed start with ``--again`` has left, and say where it is.

    Standard input, or a handler, would make another workdir in that place.
    """
    if not context.settings.again:
        return
    from mpifarm.farm.again import finish_begun_move  # for those who ask

    patiently = Opening(context).patiently
    _say(context, patiently(lambda: finish_begun_move(context.settings)))


def _begin_kept(context: RankContext) -> None:
    """Begin again if the user asks for it, with a list that is kept in the workdir.

    It is read only after that, so that all else is checked before.
    """
    if context.settings.again:
        Opening(context).check_beginning_again()
        _begin_again(context)


def _begin_again(context: RankContext, total: int = 0) -> None:
    """Move the workdir aside if the user asks for it, and say where it is.

    `total` is the number of tasks, 0 if it is not known.
    """
    settings, process = context.settings, context.process
    if not settings.again:
        return
    from mpifarm.farm.again import begin_again, check_launch  # for those who ask

    check_launch(settings, process.environ, sees_all=context.comm is not None)
    opening = Opening(context)
    _say(
        context,
        opening.patiently(lambda: begin_again(settings, process.environ, total)),
    )


def _reread_if_again(
    context: RankContext,
    given: Settings,
    opening: Opening,
    read: tuple[RunnerDefinition, TaskList],
) -> tuple[RunnerDefinition, TaskList]:
    """Begin again if the user asks for it, with a list that is a file of its own.

    Then the list is read once more, as a handler may have made files in the workdir.
    """
    if not given.again or is_kept(given):
        return read
    _begin_again(context, len(read[1]))
    return opening.read_definitions()


def _end_input(context: RankContext, leader: Leader) -> None:
    """Tell that standard input, which is the list, is lost with the rank that read it.

    The farm does what had been read.
    """
    leader.coordinator.on_list_ended()
    _say(
        context,
        "standard input was read by the rank that is lost: what had been read stands in"
        f" {context.settings.tasklist}, and no more comes",
    )


@contextmanager
def _asked_job_end(context: RankContext) -> Iterator[JobEnd]:
    """Ask the batch system when the job ends, for as long as the farm lasts."""
    job_end = JobEnd(context.settings.policy.deadline, context.process.environ)
    try:
        yield job_end
    finally:
        job_end.close()


def _say(context: RankContext, *sentences: str) -> None:
    for sentence in sentences:
        if sentence:
            context.process.output.say(sentence)


def _mention(context: RankContext, sentences: Sequence[str]) -> None:
    for sentence in sentences:
        context.process.output.mention(sentence)


def _run_to_the_end(context: RankContext, leader: Leader, agent: Agent) -> FarmEnd:
    """Run the leader to the farm's last act, and return how the farm has ended."""
    conclusion = Conclusion(leader, context)
    with _watched(context, leader):
        leader.run(agent, conclusion.conclude)
    return conclusion.find_end()


def _watched(context: RankContext, leader: Leader) -> AbstractContextManager[None]:
    """Return the block in which hooks are told of events, if there are hooks."""
    if not context.hooks:
        return nullcontext()
    from mpifarm.farm.watched import raised_events  # for those who have hooks

    return raised_events(context, leader)


# ---- the leader ---------------------------------------------------------------------


def _create_leader(
    context: RankContext,
    tasks: TaskList,
    opened: OpenedFarm,
    job_end: JobEnd,
    policy: Policy,
    adopted: Sequence[int] = (),
) -> Leader:
    """Create the leader and its coordinator, which is told of ranks lost by now."""
    settings, store = context.settings, opened.store
    coordinator = Coordinator(
        find_commands(tasks, settings.handler),
        opened.definition,
        _find_rank_set(context),
        context.begun,
        policy=policy,
        timeout=settings.timeout,
        deadline=job_end.deadline,
        waits_for_others=context.waits_for_others,
        adopted=adopted,
    )
    coordinator.share_seats(find_constraints(tasks).kinds)
    store.unlimited.name_limits(dict(policy.seats))
    held = store.held_by_users
    if held.holds_all or held.tasks:
        coordinator.hold_from_start(held.tasks, holds_all=held.holds_all)
        total = len(coordinator.commands)
        _say(context, describe_held(held, store.frontier, total))
    if context.trace is not None:
        context.trace.watch_coordinator(coordinator)
    if context.comm:
        lost = [*context.comm.lost]
        context.comm.take_losses()
        coordinator.on_ranks_lost(lost, time.monotonic())
    if job_end.is_open:
        coordinator.expect_deadline()
    tally = Tally(context.begun, done_before=sum(store.recorded))
    leader = Leader(coordinator, store, opened.lock, tally, context, job_end)
    farm = store, opened.lock, coordinator, context.process.output
    leader.growth = find_growth(tasks, *farm)
    if leader.growth is not None:
        coordinator.expect_growth(settings.follow)
    return leader


def _find_rank_set(context: RankContext) -> RankSet:
    comm, workers = context.comm, context.settings.workers
    if comm is None:
        return RankSet((0,), 0, workers)
    return RankSet((*range(comm.size),), comm.rank, workers, comm.survives_rank_loss)


# ---- where a coordinator was lost ---------------------------------------------------


def _with_hooks_of_here(context: RankContext) -> RankContext:
    """Return the context with its hooks, or without if this node can't have them.

    The lost rank's node could: a directory or an INI file may be there alone.
    """
    try:
        return with_hooks(context)
    except FarmError as error:
        _say(context, f"WARNING: from here on the farm has no hooks: {error}")
        return context


def _policy_of_rest(settings: Settings, store: Store) -> Policy:
    """Return the policy of a farm that goes on: no canary if a task has finished."""
    if store.recorded[0]:
        return replace(settings.policy, canary=0)
    return settings.policy


def _count_failures_on(leader: Leader) -> None:
    """Tell a new coordinator how many tasks failed, if their number is limited.

    Failures of this farm, under whichever rank, count apart from those of earlier
    farms.
    """
    coordinator, store = leader.coordinator, leader.store
    if coordinator.limits_failures:
        own = store.count_failed_here(len(coordinator.commands))
        coordinator.note_failed_before(max(0, store.recorded[1] - own), own)


def _describe_loss(leader: Leader, host: str) -> str:
    own = leader.coordinator.rank_set.own
    which = f"ranks {_listed(range(own))} are" if own > 1 else "rank 0 is"
    they = "they" if own > 1 else "it"
    return (
        f"{which} lost: rank {own} on {host} leads from here, as farm "
        f"{leader.coordinator.definition.farm}; what {they} ran runs again"
    )


def _listed(ranks: Sequence[int]) -> str:
    *first, last = map(str, ranks)
    return f"{', '.join(first)} and {last}" if first else last
