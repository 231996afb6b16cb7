"""Numbers that the pages, other farms or files rely on, as they are.

Rules of this file: no number here is right by itself.  Whoever changes one looks for it
in docs/ first (the design, protocol, signals, scale and robustness pages); a mark of a
format changes only with a way to read what is there.
"""

from importlib import import_module

import pytest

NUMBERS: dict[str, dict[str, float]] = {
    "farm.agent": {
        "SILENCE_SECONDS": 30.0,
        "JOINING_SECONDS": 1800.0,
        "TAKING_OVER_SECONDS": 300.0,
    },
    "farm.sureness": {
        "MIN_WAIT": 0.07,
        "WAIT_FOR_COMMAND": 0.014,
        "LONGEST_WAIT": 0.35,
        "MIN_WAIT_OUTSIDE": 0.02,
        "WAIT_FOR_COMMAND_OUTSIDE": 0.004,
    },
    "farm.feeding": {
        "PIPE_SECONDS": 0.12,
        "MAX_IN_PIPE": 96,
        "RECALL_SECONDS": 0.1,
        "IDLE_SECONDS": 0.01,
        "RETURN_SECONDS": 0.5,
        "REFUSED_SECONDS": 0.2,
    },
    "farm.process": {
        "FLUSH_SECONDS": 2.0,
        "ABORT_SECONDS": 10.0,
    },
    "farm.transactions": {
        "HEARTBEAT_SECONDS": 10.0,
        "IN_USE_SECONDS": 1.0,
    },
    "farm.finish": {
        "CONCLUDE_SECONDS": 10.0,
        "CONCLUDE_SECONDS_ON_BAD_DISK": 0.5,
        "MAX_FAILED_SHOWN": 10,
    },
    "farm.lock_wait": {
        "WARNING_SECONDS": 30.0,
        "SECONDS_AT_STOP": 3.0,
    },
    "farm.leader": {
        "JOIN_SECONDS": 30.0,
    },
    "coordinator.ending": {
        "ANSWER_SECONDS": 0.5,
        "ANSWER_SECONDS_AT_ONCE": 0.1,
    },
    "coordinator.commits": {
        "COMMIT_INTERVAL": 0.1,
    },
    "coordinator.failover": {
        "REJOIN_SECONDS": 10.0,
    },
    "coordinator.prefetch": {
        "TAKE_SECONDS": 2.0,
        "TAKE_COST_FACTOR": 20,
        "TAKE_INTERVAL": 0.1,
        "POLL_SECONDS": 1.0,
        "MAX_STOCK": 8,
    },
    "coordinator.ahead": {
        "ONE_AHEAD_SECONDS": 2.5,
    },
    "coordinator.pacing": {
        "REPORTS_PER_SECOND": 5000,
        "AHEAD_SECONDS": 0.5,
    },
    "coordinator.retries": {
        "MAX_LOST": 3,
        "MAX_CHECKPOINTS": 1000,
        "MAX_FAST_CHECKPOINTS": 10,
        "FAST_CHECKPOINT_SECONDS": 1.0,
    },
    "coordinator.quarantine": {
        "FAST_SECONDS": 1.0,
        "FAST_SHARE": 0.1,
        "STREAK_SECONDS": 3.0,
        "SHARE_OF_TASKS": 0.5,
        "FIRST_PAUSE": 10.0,
        "LONGEST_PAUSE": 600.0,
        "FIRST_PROBE_SECONDS": 1.0,
        "LONGEST_PROBE_SECONDS": 60.0,
    },
    "coordinator.walltime": {
        "SHARE": 0.9,
        "SHORTEST_END_SECONDS": 2.0,
        "LONGEST_END_SECONDS": 10.0,
    },
    "coordinator.stealing": {
        "PATIENCE_SECONDS": 0.01,
        "PATIENCE_FOR_DISK_SECONDS": 0.2,
    },
    "lists.growth": {
        "LOOK_SECONDS": 1.0,
    },
    "hooks.helper": {
        "ORPHAN_SECONDS": 90.0,
        "CHECK_SECONDS": 20.0,
    },
    "hooks.events_file": {
        "SYNC_SECONDS": 1.0,
    },
    "hooks.shell_commands": {
        "FIRST_SECONDS": 1.0,
        "PAUSE_SECONDS": 60.0,
        "COMMAND_SECONDS": 60.0,
        "END_SECONDS": 80.0,
    },
    "store.farm_liveness": {
        "HEARTBEAT_LIMIT": 60.0,
    },
    "store.file_store": {
        "LOCK_TIMEOUT": 60.0,
    },
    "store.membership": {
        "FAMILY": 8,
    },
    "store.old_requests": {
        "KEPT_SECONDS": 3600.0,
    },
    "store.claim_journal": {
        "FORMAT_VERSION": 1,
    },
    "store.fingerprint": {
        "FORMAT_VERSION": 1,
        "BLOCK": 1000,
    },
    "store.adding": {
        "FORMAT": 1,
    },
    "store.farm_file": {
        "FORMAT": 1,
    },
    "store.held_file": {
        "VERSION": 1,
    },
    "output.records": {
        "SLOT": 96,
    },
    "database.schema": {
        "APPLICATION_ID": 0x6D706661,
        "VERSION": 1,
        "BUSY_SECONDS": 5.0,
    },
    "model.events": {
        "SCHEMA": 1,
    },
    "model.task": {
        "LAUNCHED_WAIT": 1.35,
        "CANCELLED_STATUS": -15,
        "NOT_RUN_STATUS": 1,
    },
    "model.messages": {
        "REPORT_SECONDS": 0.02,
        "RUNNING_SECONDS": 5.0,
    },
    "runners": {
        "ARGUMENT_LIMIT": 131072,
        "NOT_FOUND": 127,
        "COULD_NOT_START": 126,
    },
    "system.file_contents": {
        "LARGE": 8388608,
    },
    "system.lock": {
        "DOUBT_SECONDS": 1.0,
        "PATIENCE_SECONDS": 0.25,
    },
    "system.patience": {
        "RETRY_SECONDS": 0.1,
        "COMMAND_SECONDS": 2.0,
    },
    "system.event_loop": {
        "MAX_SECONDS": 0.006,
        "LONGEST_SECONDS": 1.0,
    },
    "system.signals": {
        "SECOND_INT_SECONDS": 0.2,
    },
    "system.console": {
        "LIVE_SECONDS": 0.5,
        "LOG_SECONDS": 30.0,
        "FIRST_LOG_SECONDS": 5.0,
    },
    "system.task_command": {
        "STARTING": -1,
        "MEASURED_SECONDS": 0.02,
    },
    "transport.connecting": {
        "STALL_SECONDS": 10.0,
        "MAX_SECONDS": 600.0,
        "BLIND_SECONDS": 120.0,
    },
    "transport.mpi": {
        "FINALIZE_SECONDS": 10,
    },
    "commands.supervise": {
        "LONG_RUN": 60.0,
        "END_SECONDS": 30.0,
        "KILL_SECONDS": 10.0,
        "ANSWER_SECONDS": 30.0,
        "LOOK_AGAIN": 5.0,
    },
    "commands.restart_policy": {
        "BARREN_RUNS": 3,
        "CLAIM_SECONDS": 65.0,
    },
    "commands.asking": {
        "WAIT_SECONDS": 60.0,
    },
    "commands.option_values": {
        "MAX_WORKERS": 4096,
        "MIN_MEMORY": 67108864,
        "MIN_RANK_TIMEOUT": 2.0,
    },
    "commands.status.command": {
        "WATCH_SECONDS": 2.0,
    },
}


@pytest.mark.parametrize("module", NUMBERS)
def test_the_numbers_of_a_module_are_those_that_others_rely_on(module):
    found = vars(import_module(f"mpifarm.{module}"))
    assert {name: found[name] for name in NUMBERS[module]} == NUMBERS[module]
