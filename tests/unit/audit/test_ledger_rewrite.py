"""A ledger that is rewritten: which lines stay, and at which bytes."""

import pytest

from mpifarm.audit.ledger_rewrite import LedgerRewrite, rewrite_ledger

TASKS = ["echo a", "echo b", "echo c", "echo d"]


def lines(*taskids: int) -> bytes:
    return b"".join(b"%d %s\n" % (each, TASKS[each].encode()) for each in taskids)


def blank(count: int = 1) -> bytes:
    """So many lines of tasks, with nothing left of them."""
    return b"\n" * (count * len(lines(0)))


@pytest.mark.parametrize(
    ("content", "rewrite", "kept"),
    [
        (b"", LedgerRewrite(), b""),
        (lines(2, 0), LedgerRewrite(), lines(2, 0)),
        (lines(0, 1, 0), LedgerRewrite(), lines(0, 1) + blank()),
        (lines(0, 1, 0), LedgerRewrite(keep_last=True), blank() + lines(1, 0)),
        (lines(0, 1, 0), LedgerRewrite(keep_length=False), lines(0, 1)),
        (
            lines(0, 1, 0),
            LedgerRewrite(keep_length=False, keep_last=True),
            lines(1, 0),
        ),
        (lines(0, 1, 2), LedgerRewrite(drop={1}), lines(0) + blank() + lines(2)),
        (lines(0, 1, 2), LedgerRewrite(drop={1}, keep_length=False), lines(0, 2)),
        (lines(1, 1), LedgerRewrite(drop={1}), blank(2)),
    ],
)
def test_one_line_of_each_task_stays(content, rewrite, kept):
    assert rewrite_ledger(content, TASKS, rewrite) == kept


@pytest.mark.parametrize("keep_length", [True, False])
def test_a_last_line_without_an_end_gets_one(keep_length):
    rewrite = LedgerRewrite(keep_length=keep_length)
    assert rewrite_ledger(lines(0, 1)[:-1], TASKS, rewrite) == lines(0, 1)


@pytest.mark.parametrize("keep_length", [True, False])
@pytest.mark.parametrize("list_is_same", [True, False])
def test_a_line_of_another_list_goes_only_where_the_list_is_the_same(
    keep_length, list_is_same
):
    alien = b"7 rm x\n"
    rewrite = LedgerRewrite(keep_length=keep_length, list_is_same=list_is_same)
    kept = rewrite_ledger(lines(0) + alien + lines(1), TASKS, rewrite)
    if not list_is_same:
        assert kept == lines(0) + alien + lines(1)
    elif keep_length:
        assert kept == lines(0) + b"\n" * len(alien) + lines(1)
    else:
        assert kept == lines(0, 1)


@pytest.mark.parametrize("keep_length", [True, False])
def test_a_torn_line_goes_and_what_stands_behind_it_in_its_line_stays(keep_length):
    torn = b"2 ech"
    rewrite = LedgerRewrite(keep_length=keep_length)
    content = lines(0) + torn + lines(1)
    kept = rewrite_ledger(content, TASKS, rewrite)
    if keep_length:
        assert kept == lines(0) + b"\n" * len(torn) + lines(1)
        assert len(kept) == len(content)
    else:
        assert kept == lines(0, 1)


@pytest.mark.parametrize("list_is_same", [True, False])
def test_a_torn_end_goes_whatever_the_list_is(list_is_same):
    rewrite = LedgerRewrite(list_is_same=list_is_same)
    kept = rewrite_ledger(lines(0) + b"2 ech", TASKS, rewrite)
    assert kept == lines(0) + b"\n" * 6


def test_two_fused_lines_are_parted_unless_no_byte_may_move():
    fused = lines(0)[:-1] + lines(1)
    parted = rewrite_ledger(fused, TASKS, LedgerRewrite(keep_length=False))
    assert parted == lines(0, 1)
    assert rewrite_ledger(fused, TASKS, LedgerRewrite()) == fused


def test_of_parted_lines_the_last_or_first_of_a_task_stays():
    content = lines(0)[:-1] + lines(1) + lines(0)
    rewrite = LedgerRewrite(keep_length=False)
    assert rewrite_ledger(content, TASKS, rewrite) == lines(0, 1)
    rewrite = rewrite._replace(keep_last=True)
    assert rewrite_ledger(content, TASKS, rewrite) == lines(1, 0)


def test_blank_lines_stay_where_no_byte_may_move():
    content = b"\n" + lines(0) + b"\n\n"
    assert rewrite_ledger(content, TASKS, LedgerRewrite()) == content
    rewrite = LedgerRewrite(keep_length=False)
    assert rewrite_ledger(content, TASKS, rewrite) == lines(0)
