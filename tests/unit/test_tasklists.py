"""Tasklists: ids and texts are PyTaskFarmer's; what is wrong is told in a sentence."""

import builtins
import io
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpifarm.errors import ExitStatus, InputError
from mpifarm.tasklists import HANDLERS, ListTaskList, open_tasklist, parse_tasks


def tasks_of(tmp_path, content: bytes) -> list[str]:
    path = tmp_path / "tasks.txt"
    path.write_bytes(content)
    tasklist = open_tasklist("default", str(path), str(tmp_path / "workdir"))
    assert [tasklist[taskid] for taskid in range(len(tasklist))] == tasklist.tasks
    return tasklist.tasks


def pytaskfarmer_tasks(content: bytes) -> list[str]:
    """What ListTaskList of PyTaskFarmer 0.0.1 and 0.1.0 makes of a file."""
    in_tasks = io.TextIOWrapper(
        io.BytesIO(content), encoding="utf-8", errors="surrogateescape"
    )
    # fmt: off
    return [line.strip() for line in in_tasks.readlines() if not line.startswith('#') and line.strip()!='']  # noqa: E501
    # fmt: on


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n\n  \n\t\n", []),
        (b"# only\n#comments", []),
        (b"a", ["a"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r\rc", ["a", "b", "c"]),
        (b"a\n\r\nb", ["a", "b"]),
        (b"# c\na\n#b\n\nc # not a comment\n", ["a", "c # not a comment"]),
        (b" # a task\n", ["# a task"]),
        (b"  a  b  \n", ["a  b"]),
        ("\u00a0\n\u00a0a\u00a0\n".encode(), ["a"]),
        (b"a\fb\n\f\n\v\n", ["a\fb"]),
        ("a\u0085b\n\u0085\n".encode(), ["a\u0085b"]),
        ("a\u2028b\n\u2028c".encode(), ["a\u2028b", "c"]),
        (b"a\x1cb\x1d\n\x1e\x1f\n", ["a\x1cb"]),
        (b"\x1a\n", ["\x1a"]),
        ("\ufeffa\n\ufeff# b\n".encode(), ["\ufeffa", "\ufeff# b"]),
        (b"caf\xe9 \xff\n\x85\n\xa0\n", ["caf\udce9 \udcff", "\udc85", "\udca0"]),
        (b"# \0 in a comment\na\n", ["a"]),
        (b"x" * 5000 + b"\nb", ["x" * 5000, "b"]),
        (b"y" * 1_000_000 + b"\nb", ["y" * 1_000_000, "b"]),
    ],
)
def test_lines_and_white_space_are_what_python_makes_of_them(
    tmp_path, content, expected
):
    assert tasks_of(tmp_path, content) == expected == pytaskfarmer_tasks(content)


PIECES = st.one_of(
    st.sampled_from([
        "\n", "\r", "\r\n", "\f", "\v", "\x1c", "\x1d", "\x1e", "\x1f", "\x85",
        "\u00a0", "\u2028", "\u2029", "\u3000", "\u200b", "\ufeff", " ", "\t", "#", "a",
    ]).map(str.encode),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=6).map(
        str.encode
    ),
    st.binary(max_size=4).map(lambda some: some.replace(b"\0", b"")),
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map(b"".join))
@example(b"\xef\xbb\xbf#\r\n#\r \r\n a")
def test_ids_and_texts_are_exactly_those_of_pytaskfarmer(tmp_path_factory, content):
    tmp_path = tmp_path_factory.getbasetemp()
    assert tasks_of(tmp_path, content) == pytaskfarmer_tasks(content)


@given(st.lists(PIECES, max_size=30).map(b"".join))
def test_texts_are_the_bytes_of_the_file(content):
    text = content.decode("utf-8", "surrogateescape")
    for task in parse_tasks(text):
        assert task.encode("utf-8", "surrogateescape") in content


# ---- what is wrong ------------------------------------------------------------------


def sentence(path, handler="default") -> str:
    with pytest.raises(InputError) as caught:
        open_tasklist(handler, str(path), "workdir")
    assert caught.value.exit_status == ExitStatus.BAD_INPUT
    return str(caught.value)


def test_a_missing_tasklist_is_named(tmp_path):
    assert sentence(tmp_path / "no.txt") == (
        f"can't read the tasklist {tmp_path}/no.txt: there is no such file"
    )


def test_a_directory_is_no_tasklist(tmp_path):
    assert "it is a directory" in sentence(tmp_path)


def test_a_path_through_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    assert "Not a directory" in sentence(tmp_path / "file" / "tasks.txt")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied"), "no permission"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_an_unreadable_tasklist_is_told(monkeypatch, error, told):
    def refuse(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(InputError, match=told):
        ListTaskList("tasks.txt", "workdir")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a\0b\n", 1),
        (b"# \0\n\n\na\nb\0\n", 5),
        (b"a\r\nb\rc\0", 3),
        (b"a\n\0\n", 2),
        ("echo a\n".encode("utf-16"), 1),
    ],
)
def test_a_nul_byte_is_told_with_its_line_in_the_file(tmp_path, content, line):
    path = tmp_path / "tasks.txt"
    path.write_bytes(content)
    assert f"line {line} of the tasklist {path} has a NUL byte" in sentence(path)


def test_an_unknown_handler_is_told_with_those_that_there_are(tmp_path):
    told = sentence(tmp_path / "tasks.txt", handler="deflaut")
    assert "'deflaut'" in told
    assert all(handler in told for handler in HANDLERS)


def test_a_million_tasks_are_read_in_well_under_a_second(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("".join(f"echo task {n} --of many\n" for n in range(1_000_000)))
    # The best of three: the bound is on the program, not on a busy machine.
    seconds = min(_seconds_to_read(path) for _ in range(3))
    assert seconds < 0.6


def _seconds_to_read(path) -> float:
    started = time.perf_counter()
    assert len(open_tasklist("default", str(path), "workdir")) == 1_000_000
    return time.perf_counter() - started
