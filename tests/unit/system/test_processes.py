"""Processes are ended in an order in which none of them can go on."""

import signal

from mpifarm.system import processes


def test_of_several_processes_none_runs_while_another_is_killed(monkeypatch):
    sent = []
    monkeypatch.setattr(
        processes, "kill_process", lambda pid, signum: sent.append((pid, signum))
    )
    processes.kill_together([7, 9])
    stops = [(7, signal.SIGSTOP), (9, signal.SIGSTOP)]
    assert sent == [*stops, (7, signal.SIGKILL), (9, signal.SIGKILL)]
