"""What the user is told when a farm begins: what it is, and what may go wrong.

Rules of this file: it finds out and words.  A list that would silently run wrongly is
an `InputError`, before anything is changed.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mpifarm import __version__
from mpifarm.batch.job import BATCH_SYSTEMS, find_job
from mpifarm.coordinator.state import RankRecord
from mpifarm.errors import InputError
from mpifarm.farm.context import RankContext
from mpifarm.farm.directory import (
    explain_not_found,
    go_on_there,
    is_other,
    runs_anywhere,
    warn_of_other,
)
from mpifarm.farm.leader import Leader
from mpifarm.farm.unused_options import find_unused
from mpifarm.model.host_names import fold_hosts
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import RunnerDefinition, Settings
from mpifarm.model.wording import agree, counted, held_in_words
from mpifarm.order.frontier import Frontier
from mpifarm.plugins.registry import (
    find_idle_sections,
    find_search_path_of,
    find_untrusted,
)
from mpifarm.runners import has_shell
from mpifarm.store.held_file import Held
from mpifarm.system.cpus import (
    binding_warning,
    cpus_of_machine,
    cpus_of_rank,
    find_sharers,
)
from mpifarm.system.files import is_there
from mpifarm.tasklists import ListTaskList, TaskList, is_plain

MAX_HOSTS = 500
"""Characters of the line of hosts: names without numbers can't be folded."""


def describe_farm(context: RankContext, leader: Leader) -> Sequence[str]:
    """Return the first lines: this process, the list, the ranks, the lock."""
    definition = leader.coordinator.definition
    workers = context.settings.workers
    total = len(leader.coordinator.commands)
    finished, failed = leader.store.recorded
    before = f", {finished} finished and {failed} failed before"
    what = (
        f"farm {definition.farm}: {counted(total)} of "
        f"{context.settings.tasklist}{before if finished or failed else ''}"
    )
    ranks = f"{counted(context.size, 'rank')} of {counted(workers, 'worker')}"
    where = f"{ranks}, workdir {definition.workdir}"
    who = _describe_process(context, definition.directory)
    return who, what, where, leader.lock.describe()


def _describe_process(context: RankContext, directory: str) -> str:
    job = find_job(context.process.environ)
    in_job = f", {BATCH_SYSTEMS[job[0]]} job {job[1]}" if job else ""
    return f"version {__version__} on {os.uname().nodename}{in_job}, in {directory}"


def describe_ranks(ranks: Iterable[RankRecord]) -> str:
    """Return the ranks by host: ``ranks: n[1-8] × 4 ranks × 16 workers``."""
    by_host = defaultdict[str, list[int]](list)
    for record in ranks:
        by_host[record.host].append(record.workers)
    missing = len(by_host.pop("", ()))
    alike = defaultdict[str, list[str]](list)
    for host, workers in by_host.items():
        alike[_describe_workers(workers)].append(host)
    groups = [f"{fold_hosts(hosts)} {times}" for times, hosts in alike.items()]
    rest = f"; {counted(missing, 'rank has', 'ranks have')} not joined yet"
    return f"ranks: {_shorten('; '.join(groups))}{rest if missing else ''}"


def _describe_workers(workers: Sequence[int]) -> str:
    """Return the words for the workers of the ranks on one host."""
    if len(workers) == 1:
        return f"× {counted(workers[0], 'worker')}"
    each = {*workers}
    if len(each) > 1:
        return f"× {len(workers)} ranks, {sum(workers)} workers"
    return f"× {len(workers)} ranks × {counted(each.pop(), 'worker')}"


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_HOSTS else f"{text[: MAX_HOSTS - 1]}…"


def describe_memory(settings: Settings) -> str:
    """Return how ``--task-memory`` bounds a task on this host, "" if it is not given.

    It can still be that no cgroup can be made, here or on another host.
    """
    limit = settings.limits.memory
    if limit is None:
        return ""
    from mpifarm.pool.out_of_memory import readable_size
    from mpifarm.system.cgroups import NoCgroupError, find_delegated

    size = readable_size(limit)
    try:
        _, directory = find_delegated()
    except NoCgroupError as why:
        return (
            f"--task-memory {size}: the kernel bounds each process of a task, and all"
            f" together are looked at each second, because no cgroup can be made: {why}"
        )
    return (
        f"--task-memory {size}: the kernel bounds each task as a whole, by a cgroup as"
        f" in {directory} on this host; where none can be made, it bounds each process,"
        " and all together are looked at each second"
    )


def describe_limit(leader: Leader) -> str:
    """Tell the coordinator how many tasks failed before; describe its limit, or ""."""
    _, failed_before = leader.store.recorded
    return leader.coordinator.note_failed_before(failed_before)


def warn_of_order(frontier: Frontier | None, place: str) -> str:
    """Return the warning of tasks that wait for one that has failed before, or "".

    `place` names the workdir to a subcommand.
    """
    taskids = frontier.find_not_to_run() if frontier is not None else []
    if frontier is None or not taskids:
        return ""
    found = map(frontier.find_awaited, taskids)
    # One that was not run is no reason: it waits for another itself.
    awaited = {each for each in found if each is not None}.difference(taskids)
    task = agree(len(awaited), "task", "tasks")
    return (
        f"WARNING: {counted(len(taskids))} will not run ({name_ids(taskids)}), because"
        f" {task} {name_ids(awaited)} failed before: mpifarm retry {place} puts all of"
        " them back"
    )


def describe_held(held: Held, frontier: Frontier | None, total: int) -> str:
    """Return what users hold, and whether other tasks wait for it; "" for nothing.

    `total` is the number of tasks.
    """
    words = held_in_words(len(held.tasks), held.holds_all)
    if not words:
        return ""
    known = (each for each in held.tasks if each < total)
    holds_up = frontier is not None and any(map(frontier.holds_up, known))
    rest = "; others wait for what is held, by the order of the list"
    return (
        f"{words} (mpifarm hold was given; mpifarm release lets them start)"
        f"{rest if holds_up and not held.holds_all else ''}"
    )


def warn_of_unused(
    settings: Settings, environ: Mapping[str, str], runner: RunnerDefinition
) -> Iterator[str]:
    """Yield a warning for each option or INI section that changes nothing.

    So does an INI file that a stranger could have written, unless the user has typed
    it.
    """
    yield from find_unused(settings, runner, environ)
    search_path = find_search_path_of(settings, environ)
    yield from find_untrusted(search_path, settings.runner, settings.handler)
    names = settings.runner, settings.handler, settings.hooks.names
    yield from find_idle_sections(search_path, *names)


def warn_of_binding(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return the warning of more workers than CPUs on this rank, or "".

    Other ranks are taken to be alike.
    """
    return binding_warning(
        environ,
        len(cpus_of_rank()),
        settings.workers,
        cpus_of_machine(),
        find_sharers(environ),
    )


def warn_of_directory(leader: Leader) -> str:
    """Note where commands run; return a warning if the list was begun elsewhere, or "".

    With a warning, the first tasks are a trial: the farm stops if no command is found.
    """
    definition = leader.coordinator.definition
    if runs_anywhere(definition.runner):
        return ""
    begun = leader.store.note_place(definition.directory)
    if not begun or not is_other(begun, definition.directory):
        return ""
    leader.coordinator.try_place(
        lambda count: explain_not_found(count, begun), go_on_there(begun)
    )
    return warn_of_other(begun, definition.directory)


def check_list(context: RankContext, runner: RunnerDefinition, tasks: TaskList) -> None:
    """Raise `InputError` for a list that would silently run wrongly.

    A fault that is not certain is only told, and so is each fault in a workdir that was
    begun: no chain of jobs breaks.  ``--as-is``, a handler's own list, and a runner
    without a shell are not checked.
    """
    settings = context.settings
    faults = find_list_faults(
        settings,
        runner,
        tasks,
        lambda: context.environment,
        lambda: holds_cpus_for_tasks(context.process.environ),
    )
    for sentence in faults:
        context.process.output.say(sentence)


def find_list_faults(
    settings: Settings,
    runner: RunnerDefinition,
    tasks: TaskList,
    environment: Callable[[], Mapping[bytes, bytes]],
    holds_all_cpus: Callable[[], bool],
) -> Iterator[str]:
    """Yield the warnings of a list; raise `InputError` as `check_list`.

    `environment` returns that of the commands, and `holds_all_cpus` whether an srun in
    a task would wait for CPUs of the farm's own step.
    """
    if settings.as_is or type(tasks) is not ListTaskList or not has_shell(runner):
        return
    texts = tasks.tasks
    if not isinstance(texts, PackedTexts) or is_plain(texts):
        return
    from mpifarm.lists.foreign_lists import AS_IS, RUNS
    from mpifarm.lists.foreign_lists import check_list as check_texts
    from mpifarm.lists.line_faults import LineChecker

    given = [name for name, _ in settings.id_variables]
    checker = LineChecker.of_runner(
        runner.options, environment(), given, holds_all_cpus
    )
    for sentence, is_certain in check_texts(texts, settings.tasklist, checker):
        if is_certain and not _is_begun(settings):
            raise InputError(f"{sentence}; {AS_IS}")
        yield f"WARNING: {sentence}; {RUNS}"


def holds_cpus_for_tasks(environ: Mapping[str, str]) -> bool:
    """Return whether an srun in a task would wait for CPUs of the farm's own step."""
    from mpifarm.batch.launch_lines import find_farm_words
    from mpifarm.batch.step_cpus import holds_all_cpus, is_overlapping
    from mpifarm.system.processes import command_lines

    if not holds_all_cpus(environ):
        return False
    return not is_overlapping(command_lines("srun"), find_farm_words(sys.orig_argv))


def _is_begun(settings: Settings) -> bool:
    """Return whether a list goes on: there is a fingerprint, or a status file."""
    if settings.again:
        return False
    paths = WorkdirPaths(os.path.abspath(settings.workdir))
    files = (paths.fingerprint, paths.toprocess, paths.finished, paths.failed)
    return any(map(is_there, files))
