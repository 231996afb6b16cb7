"""Messages as bytes: what goes in comes out, and the frequent ones are no pickles."""

import pickle
from dataclasses import fields

import pytest

from mpifarm.model.messages import (
    Alive,
    Assign,
    Cancel,
    Committed,
    Drain,
    Join,
    Ping,
    PoolLost,
    RankUnusable,
    Recall,
    Rejoin,
    Report,
    Running,
    Shutdown,
    SignalReceived,
    Stop,
    Stopped,
    ToCoordinator,
    ToRank,
    Welcome,
    Withdraw,
    Withdrawn,
)
from mpifarm.model.settings import FarmDefinition, RunnerDefinition
from mpifarm.model.task import Lease, Outcome, Result, RunningTask
from mpifarm.transport.mpi import encode_message, parse_message

ODD = "\udcff\udc80 no UTF-8, \u00a0, \x01, 𝄞 and ' \" \\ $HOME"

LEASES = tuple(
    Lease(taskid, attempt, text)
    for taskid, attempt, text in [(2**40, 1, ODD), (0, 7, ""), (1, 1, "x" * 100_000)]
)

RESULTS = tuple(
    Result(taskid, 2, outcome, -taskid, 4711, 1.7e9 + 0.25, 0.125, 12345.75, "a note")
    for taskid, outcome in enumerate(Outcome)
)

ASSIGN = Assign(LEASES)
REPORT = Report(1.5, RESULTS, ((1, 2),), ((3, 4), (2**40, 1)), True, 1.25)
"""Each field says something."""

FREQUENT = [
    ASSIGN,
    REPORT,
    Assign(()),
    Assign(LEASES[:1]),
    Report(1.5),
    Report(1.5, RESULTS[:1]),
    Report(1.5, RESULTS),
    Report(1.5, (), ((1, 2),)),
]

OTHERS = [
    Welcome(FarmDefinition("f0", "/w", RunnerDefinition(), 2.0), 8),
    Drain(),
    Stop(2.0, by_signal=True),
    Ping(),
    Recall(3),
    Withdraw(((1, 2), (3, 4))),
    Cancel(((1, 2),)),
    Shutdown(ranks_lost=True),
    Committed(((1, 2),)),
    Join("host", 17, 8),
    Running((RunningTask(2**40, 1, 127, 1.7e9 + 0.25),)),
    Rejoin("host", 17, 8, True, ((1, 2),), REPORT),
    SignalReceived(10, 1.25),
    Alive(),
    RankUnusable(ODD),
    PoolLost(),
    Stopped(),
    Withdrawn(((1, 2),)),
]


@pytest.mark.parametrize("message", [*FREQUENT, *OTHERS], ids=repr)
def test_a_message_comes_out_as_it_went_in(message):
    tag, content = encode_message(message)
    parsed = parse_message(tag, bytearray(content))
    assert parsed == message
    assert type(parsed) is type(message)


def test_each_kind_of_message_is_among_these():
    kinds = {type(message) for message in (*FREQUENT, *OTHERS)}
    assert kinds == {*ToRank.__args__, *ToCoordinator.__args__}


def test_leases_and_results_come_out_as_what_they_are():
    assign = parse_message(*encode_message(ASSIGN))
    report = parse_message(*encode_message(REPORT))
    assert isinstance(assign, Assign)
    assert isinstance(report, Report)
    assert {type(lease) for lease in assign.leases} == {Lease}
    assert {type(result) for result in report.results} == {Result}
    # outcomes are compared by identity
    assert [result.outcome for result in report.results] == [*Outcome]
    assert all(type(each) is tuple for each in (*report.returned, *report.lost))


@pytest.mark.parametrize("message", FREQUENT, ids=repr)
def test_what_is_sent_for_each_task_is_no_pickle(message):
    tag, content = encode_message(message)
    assert tag != encode_message(Ping()).tag
    assert len(content) < len(pickle.dumps(message))


def test_no_field_of_an_assignment_is_left_behind():
    # encode_message sends its leases, and nothing else
    assert [each.name for each in fields(Assign)] == ["leases"]


def test_a_report_with_a_word_in_each_field_is_among_these():
    nothing = Report(0.0)
    names = [each.name for each in fields(Report)]
    assert all(getattr(REPORT, name) != getattr(nothing, name) for name in names)
