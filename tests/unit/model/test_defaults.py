"""The values that fields have where nobody gives one: farms are made of them.

Rules of this file: a default of the command line stands in its help and in docs/, too;
one of a message is what a rank means that says nothing of it.
"""

import math
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from typing import Any

import pytest

from mpifarm.model import settings

DEFAULTS: dict[str, dict[str, Any]] = {
    "model.settings.TaskLimits": {
        "timeout": None,
        "memory": None,
        "checkpoint_signal": None,
    },
    "model.settings.Policy": {
        "retries": 0,
        "retry_delay": 0.0,
        "max_failures": None,
        "max_failed_share": None,
        "requeue_status": None,
        "quarantine": 10,
        "canary": 0,
        "deadline": None,
        "task_time": None,
        "rank_timeout": 60.0,
        "start_rate": None,
        "seats": (),
    },
    "model.settings.HookSettings": {
        "events": None,
        "metrics": None,
        "on_end": None,
        "on_failure": None,
        "names": (),
        "left_out": (),
    },
    "model.settings.Default": {
        "line": 0,
    },
    "model.settings.Settings": {
        "workers": 8,
        "timeout": None,
        "verbose": False,
        "quiet": False,
        "progress": "auto",
        "runner": "default",
        "handler": "default",
        "grace": 2.0,
        "lock_area": None,
        "mpi": "auto",
        "config": None,
        "bind": False,
        "gpus": "none",
        "logs": "all",
        "span_nodes": False,
        "as_is": False,
        "id_variables": (),
        "chdir": None,
        "remap": False,
        "durations": None,
        "follow": None,
        "in_array": False,
        "limits": settings.TaskLimits(),
        "policy": settings.Policy(),
        "hooks": settings.HookSettings(),
        "defaults": (),
    },
    "model.settings.RunnerDefinition": {
        "name": "default",
        "python_class": "mpifarm.runners.BasicRunner",
        "source": "",
    },
    "model.settings.HandlerDefinition": {
        "name": "default",
        "python_class": "mpifarm.tasklists.ListTaskList",
        "source": "",
    },
    "model.settings.FarmDefinition": {
        "limits": settings.TaskLimits(),
        "logs": "all",
        "id_variables": (),
        "directory": "",
        "verbose": False,
    },
    "model.messages.Welcome": {
        "report_seconds": 0.02,
        "running_seconds": 5.0,
        "max_running": 10000,
    },
    "model.messages.Stop": {
        "by_signal": False,
    },
    "model.messages.Shutdown": {
        "ranks_lost": False,
        "aborts": False,
        "farm_goes_on": False,
    },
    "model.messages.Report": {
        "results": (),
        "returned": (),
        "lost": (),
        "is_recall": False,
        "sure": -math.inf,
    },
    "model.messages.SignalReceived": {
        "sure": -math.inf,
    },
    "model.task.Result": {
        "note": "",
        "worker_index": None,
        "user_seconds": None,
        "system_seconds": None,
        "peak_memory": None,
        "output_bytes": None,
    },
    "coordinator.effects.Transact": {
        "pull": (),
    },
    "coordinator.effects.NoteRank": {
        "why": "",
    },
    "store.types.Transacted": {
        "not_run": (),
        "pulled": (),
        "reopened": (),
        "more_may_come": False,
        "some_wait": False,
    },
    "store.types.Survey": {
        "added": None,
        "waiting": None,
        "in_array": frozenset(),
    },
    "store.types.Counts": {
        "in_array": 0,
        "held_up": 0,
        "lost": (),
        "barrier": None,
    },
    "store.claim_journal.Head": {
        "array": "",
        "requests": 0,
    },
    "store.claim_journal.Event": {
        "take": (),
        "put": (),
        "done": (),
        "giving": (),
        "step": None,
        "failed": 0,
    },
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_of_a_class_are_these(name):
    module, _, class_name = name.rpartition(".")
    found: Any = vars(import_module(f"mpifarm.{module}"))[class_name]
    if is_dataclass(found):
        defaults = {each.name: each.default for each in fields(found)}
        given = {name: each for name, each in defaults.items() if each is not MISSING}
    else:
        given = found._field_defaults
    # A new field has a default that its own tests hold.
    assert {each: given.get(each, MISSING) for each in DEFAULTS[name]} == DEFAULTS[name]
