"""What is said of sections without effect, in a site's, a user's, a project's file."""

import pytest

from mpifarm.commands.hollow_sections import explain_sections
from mpifarm.commands.options import BY_NAME


def explain(title: str, name: str, *keys: str) -> list[str]:
    return [*explain_sections(title, "/x.ini", {name: keys}, [*BY_NAME])]


@pytest.mark.parametrize("title", ["site", "user", "project"])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("option", ["proc"]),
        ("Options", ["proc"]),
        ("option", ["tasklist"]),
        ("mpifarm", ["proc", "grace"]),
        ("DEFAULT", ["proc"]),
    ],
)
def test_a_section_that_is_meant_for_options_is_told(title, name, keys):
    assert explain(title, name, *keys) == [
        f"section [{name}] of /x.ini has no effect: did you mean [options]?"
    ]


def test_hooks_are_a_sections_of_a_site_and_a_misspelt_one_is_told():
    assert explain("site", "hooks", "events") == []
    assert explain("site", "hoks", "events") == [
        "section [hoks] of /x.ini has no effect: did you mean [hooks]?"
    ]


@pytest.mark.parametrize("name", ["hooks", "hoks"])
def test_a_user_is_told_where_the_keys_of_a_sites_hooks_stand(name):
    (told,) = explain("user", name, "events")
    assert told == (
        f"section [{name}] of /x.ini has no effect, which only a site has: write"
        " events, metrics, on-end and on-failure under [options]"
    )


def test_a_misspelt_key_of_a_class_is_told():
    (told,) = explain("site", "accounting", "hok", "server")
    assert told.endswith("has no effect: write Hook instead of hok")
    (told,) = explain("user", "reco", "Runer", "setup")
    assert told.endswith(
        "[reco] of /x.ini defines nothing: write Runner instead of Runer"
    )


def test_any_other_section_is_told_with_what_such_a_file_has():
    (told,) = explain("site", "other", "server")
    assert told.endswith("a site's file has [options], [hooks] and sections with Hook")
    (told,) = explain("project", "other", "server")
    assert "section [other] of /x.ini defines nothing: for a runner, add" in told
