"""Lists that are written: what is read in them is what was to be said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.order.constraints import Barrier, Constraints
from mpifarm.order.directives import DirectiveReader, command_of
from mpifarm.order.list_text import (
    UnsayableError,
    choose_tasks,
    encode_list,
    encode_plain,
)
from mpifarm.tasklists import parse_tasks

COMMANDS = st.one_of(
    st.sampled_from([b"echo", b"#x", b"[ -e x ]", b"a\xff", b"#BARRIER", b"#AFTER 0"]),
    st.binary(min_size=1, max_size=5),
).filter(
    lambda each: (
        not {*b"\r\n\0"} & {*each}
        and (text := each.decode("utf-8", "surrogateescape")).strip() == text != ""
        and not text.startswith("[limit=")
    )
)


@st.composite
def lists(draw):
    """Commands with constraints."""
    commands = draw(st.lists(COMMANDS, max_size=8))
    constraints = Constraints()
    for place in range(len(commands) + 1):
        if place and draw(st.integers(0, 4)) == 0:
            constraints.add_barrier(place, checks=draw(st.booleans()))
        if 0 < place < len(commands) and draw(st.integers(0, 3)) == 0:
            ids = draw(st.sets(st.integers(0, place - 1), min_size=1))
            constraints.after[place] = tuple(sorted(ids))
        if place < len(commands) and draw(st.integers(0, 3)) == 0:
            constraints.kinds[place] = draw(st.sampled_from(["gpu", "a.b-c_1"]))
    return commands, constraints


def read(content: bytes) -> tuple[list[bytes], Constraints]:
    text = content.decode("utf-8", "surrogateescape")
    lines = text.split("\n")[:-1]
    constraints = Constraints()
    DirectiveReader().read(constraints, lines, 1, 0)
    commands = map(command_of, parse_tasks(lines))
    return [each.encode("utf-8", "surrogateescape") for each in commands], constraints


@given(lists())
def test_a_list_that_is_written_is_read_as_it_was(wanted):
    commands, constraints = wanted
    content = b"".join(encode_list(enumerate(commands), constraints))
    assert read(content) == wanted


@given(st.lists(COMMANDS, max_size=8))
def test_commands_alone_are_written_as_with_their_constraints(commands):
    whole = b"".join(encode_list(enumerate(commands), Constraints()))
    assert encode_plain(commands, 0) == (whole or b"")


@pytest.mark.parametrize("command", [b" ", b"\t", "\N{NO-BREAK SPACE}".encode()])
def test_a_blank_command_cannot_be_written(command):
    for encode in (encode_plain, lambda each, _: [*encode_list([(7, each[0])], NONE)]):
        with pytest.raises(UnsayableError, match="task 7 is blank"):
            encode([command], 7)


NONE = Constraints()


@pytest.mark.parametrize("command", [b"[limit=x] y", b"[Limit: x] y"])
@pytest.mark.parametrize("kinds", [{}, {0: "gpu"}])
def test_a_command_that_would_name_a_kind_cannot_be_written(command, kinds):
    with pytest.raises(UnsayableError, match="would name a kind"):
        b"".join(encode_list([(0, command)], Constraints(kinds=kinds)))
    with pytest.raises(UnsayableError, match="would name a kind"):
        encode_plain([command], 0)


def test_a_barrier_that_checks_a_part_cannot_be_written():
    constraints = Constraints(barriers=[Barrier(2, checks=True, since=1)])
    with pytest.raises(UnsayableError, match="from 1 on alone"):
        b"".join(encode_list([(each, b"x") for each in range(3)], constraints))


def test_chosen_tasks_keep_the_order_among_themselves():
    constraints = Constraints(
        barriers=[Barrier(2, checks=True), Barrier(5, checks=False)],
        after={1: (0,), 3: (0, 1), 4: (2,)},
        kinds={0: "a", 4: "b"},
    )
    chosen = choose_tasks(constraints, [1, 3, 4])
    assert chosen.barriers == [Barrier(1, checks=True)]
    assert chosen.after == {1: (0,)}
    assert chosen.kinds == {2: "b"}


@pytest.mark.parametrize(
    "commands", [[b"a", b"[limit=x] b"], [b"[limit=x] a"], [b"a", b" "], [b"", b"a"]]
)
def test_commands_alone_that_cannot_be_written_are_refused(commands):
    with pytest.raises(UnsayableError):
        encode_plain(commands, 3)


def test_a_comment_sign_is_indented_wherever_the_command_stands():
    assert encode_plain([b"a", b"# b"], 0) == b"a\n # b\n"
    assert encode_plain([b"# a", b"[ -e x ]"], 0) == b" # a\n[ -e x ]\n"
