"""What a farm prints, as a script is told it."""

import warnings

import pytest

from mpifarm.interface.speech import Speech, find_others, find_sentences

SAID = (
    "2026-12-01 05:06:29+00:00 mpifarm: WARNING: --bind has no effect\n"
    "2026-12-01 05:06:29+00:00 mpifarm: farm c357044c: 2 tasks\n"
    "mpifarm: an error\n"
    "srun: error: WARNING: it\n"
)


def test_warnings_come_at_the_line_of_the_script_also_where_a_line_comes_in_parts(
    capfd,
):
    speech = Speech(str.upper, prints=False)
    speech.hear(SAID[:40])
    with pytest.warns(UserWarning, match="NO EFFECT") as told:
        speech.hear(SAID[40:])
    assert [str(each.message) for each in told] == ["--BIND HAS NO EFFECT"]
    assert [each.filename for each in told] == [__file__]
    assert capfd.readouterr() == ("", "")


def test_with_progress_all_is_printed_and_nothing_else(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Speech(str.upper, prints=True).hear(SAID)
    assert capfd.readouterr() == (SAID, "")


def test_what_mpifarm_says_is_told_from_what_a_launcher_says():
    lines = SAID.splitlines()
    assert find_sentences(lines) == [
        *("WARNING: --bind has no effect", "farm c357044c: 2 tasks", "an error")
    ]
    assert find_others(lines) == ["srun: error: WARNING: it"]
