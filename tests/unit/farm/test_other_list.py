"""What is told of another list than the workdir keeps."""

import os

import pytest

from mpifarm.farm.other_list import MAX_COMMAND, explain_other
from mpifarm.model.settings import Arguments, ArgumentSource, Settings


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(monkeypatch, line: str, size: int, file: str = "", **environ: str) -> str:
    monkeypatch.setattr("sys.argv", ["mpifarm", *line.split()])
    source = ArgumentSource((file or "a",), is_file=bool(file))
    arguments = Arguments(("x",), (source,), size) if size else None
    settings = Settings("-", "w", arguments=arguments)
    return explain_other(settings, environ, b"x a\n", b"x b\n")


@pytest.mark.parametrize(
    ("line", "size", "beside", "anew"),
    [
        ("x ::: a", 3, "-w w2 x ::: a", "--again x ::: a"),
        ("-n 4 -- x ::: a", 3, "-n 4 -w w2 -- x ::: a", "-n 4 --again -- x ::: a"),
        ("-w w -n4 x ::: a", 3, "-n4 -w w2 x ::: a", "-w w -n4 --again x ::: a"),
        ("--workdir=w x ::: a", 3, "-w w2 x ::: a", "--workdir=w --again x ::: a"),
        ("-ww x ::: a", 3, "-w w2 x ::: a", "-ww --again x ::: a"),
        ("--remap x ::: a", 3, "-w w2 x ::: a", "--again x ::: a"),
        ("-w w --remap -- x ::: a", 3, "-w w2 -- x ::: a", "-w w --again -- x ::: a"),
        ("x --remap ::: a", 4, "-w w2 x --remap ::: a", "--again x --remap ::: a"),
        (
            *("submit -t 5 -- x ::: a", 3),
            *("submit -t 5 -w w2 -- x ::: a", "submit -t 5 --again -- x ::: a"),
        ),
    ],
)
def test_it_has_the_users_own_words(monkeypatch, line, size, beside, anew):
    sentence = told(monkeypatch, line, size)
    assert f"in another workdir: mpifarm {beside}; or begin anew" in sentence
    assert sentence.endswith(f"moved aside: mpifarm {anew}")


def test_the_other_workdir_is_not_there_yet(monkeypatch, here):
    (here / "w2").mkdir()
    (here / "w3").symlink_to("nowhere")
    assert "mpifarm -w w4 x ::: a;" in told(monkeypatch, "x ::: a", 3)


@pytest.mark.parametrize(
    ("line", "size", "more"),
    [
        ("x ::: a", 3, {"PMI_SIZE": "4"}),
        (f"x ::: {'a' * MAX_COMMAND}", 3, {}),
        ("x :::: w/given-n1-27-0123abcd.txt", 3, {}),
        ("x :::: /dev/fd/63", 3, {"file": "/dev/fd/63"}),
        ("x :::: -", 3, {"file": "-"}),
        ("x :::: fifo", 3, {"file": "fifo"}),
        ("-w w -", 0, {}),
        ("-n 1 -- -", 0, {}),
        ("submit -t 5 - -w w", 0, {}),
    ],
)
def test_a_command_that_is_not_to_be_pasted_is_not_printed(
    monkeypatch, here, line, size, more
):
    os.mkfifo(here / "fifo")
    sentence = told(monkeypatch, line, size, **more)
    assert "in another workdir: -w w2 in the command; or begin anew" in sentence
    assert sentence.endswith("moved aside: --again in the command")


def test_a_file_of_arguments_is_read_again_by_the_same_words(monkeypatch, here):
    (here / "names").touch()
    sentence = told(monkeypatch, "x :::: names", 3, file="names")
    assert "in another workdir: mpifarm -w w2 x :::: names; or" in sentence


def test_an_option_takes_the_place_of_remap(monkeypatch):
    sentence = told(monkeypatch, "--remap -w w -", 0)
    assert "in another workdir: -w w2 in place of --remap; or begin anew" in sentence
    assert sentence.endswith("moved aside: --again in place of --remap")
