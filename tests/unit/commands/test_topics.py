"""``mpifarm help TOPIC``."""

import re
from pathlib import Path

import pytest

import mpifarm
from mpifarm.commands import SUBCOMMANDS
from mpifarm.commands.doc_pages import page_names
from mpifarm.commands.options import ALL_NAMES
from mpifarm.commands.topics import PAGES, TOPIC_NAMES, TOPICS, find_topic
from mpifarm.errors import InputError

ROOT = Path(mpifarm.__file__).parent.parent


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("exit", "75  tasks are left: give the same command again to go on"),
        ("STATUS", "70  a defect of mpifarm"),
        ("files", "attempts.tsv"),
        ("slurm", "mpifarm submit -N 8"),
        (":::", "mpifarm 'convert {} {.}.png' ::: *.jpg"),
        ("resume", "the same command again"),
        ("anew", "start all tasks afresh: mpifarm LIST --again"),
        ("order", "#BARRIER CHECK   the same, but nothing below runs if"),
        ("order", '"not run"'),
        ("array", "mpifarm submit -N 8"),
        ("stdin", "The list - is standard input."),
        ("license", "--limit licence=5"),
        ("memory", "--task-memory 4G"),
        ("combinations", "all combinations"),
        ("setup", "--setup 'source env.sh'"),
        ("watch", "mpifarm status LIST says"),
        ("site", "/etc/mpifarm/*.ini"),
        ("stages", "#BARRIER CHECK"),
        ("rate", "--start-rate 2"),
    ],
)
def test_a_topic_is_some_lines_about_a_word(word, line):
    assert line in find_topic(word)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("slrum", "did you mean slurm?"),
        ("submitt", "did you mean submit?"),
        ("topcis", "did you mean topics?"),
        ("disbtach", "did you mean disbatch?"),
        ("xyzzy", "the subcommands are topics, and arguments, defaults, exit"),
        ("xyzzy", "time, and the pages that mpifarm help docs lists"),
        ("wombat", "there is no topic 'wombat': the subcommands are topics, and"),
        ("canary", "it is an option, and mpifarm --help-all says what it does"),
        ("--retry-delay", "it is an option, and mpifarm --help-all says what it does"),
        ("squeue", "topic 'squeue': mpifarm status LIST says what is finished"),
    ],
)
def test_an_unknown_topic_is_told_with_the_nearest(word, said):
    with pytest.raises(InputError) as caught:
        find_topic(word)
    assert said in str(caught.value)


def test_a_page_is_a_topic_by_its_name():
    assert find_topic("Python") == find_topic("docs/python.md")
    assert find_topic("contributing") == find_topic("docs/CONTRIBUTING.md")
    with pytest.raises(InputError, match="'pyhton': did you mean python"):
        find_topic("pyhton")


@pytest.mark.parametrize(
    ("word", "page"),
    [
        *(("disbatch", "lists-from-other-tools"), ("greasy", "lists-from-other-tools")),
        *(("SQLite", "databases"), ("events", "hooks"), ("follow", "adding-tasks")),
        *(
            ("docker", "runners"),
            ("lustre", "file-systems"),
            ("remap", "edited-lists"),
        ),
    ],
)
def test_a_page_is_a_topic_by_the_words_for_it(word, page):
    assert find_topic(word) == (ROOT / "docs" / f"{page}.md").read_text()


def test_no_word_means_two_topics():
    pages = set(page_names())
    words = [word for each in (*TOPICS, *PAGES.values()) for word in each.split()]
    assert len(set(words)) == len(words)
    assert set(PAGES) <= pages
    assert not set(" ".join(PAGES.values()).split()) & ({*SUBCOMMANDS} | pages)


@pytest.mark.parametrize("word", ["topics", "Topic", "help", "--help"])
def test_all_topics_are_listed(word):
    listed = find_topic(word)
    known = {*SUBCOMMANDS, *TOPIC_NAMES, *page_names()}
    assert known <= {*re.findall(r"[\w-]+", listed)}
    assert max(map(len, listed.split("\n"))) <= 88


@pytest.mark.parametrize("word", ["docs/order.md", "order.md"])
def test_a_page_is_printed_as_it_is(word):
    assert find_topic(word) == (ROOT / "docs" / "order.md").read_text()


def test_all_pages_are_listed_as_they_are_asked_for():
    names = find_topic("docs").split()
    assert {"docs/order.md", "docs/logs.md", "README.md"} < {*names}
    assert find_topic("docs/") == find_topic("docs")
    assert all(find_topic(name).startswith("#") for name in names)
    assert find_topic("README") == find_topic("README.md")
    assert find_topic("docs/logs") == find_topic("docs/logs.md,")


def test_an_unknown_page_is_told_with_the_nearest():
    with pytest.raises(InputError, match=r"did you mean docs/order\.md\?"):
        find_topic("docs/odrer.md")
    with pytest.raises(InputError) as caught:
        find_topic("docs/nope.md")
    assert str(caught.value).startswith(
        "there is no page 'docs/nope.md': mpifarm help docs lists all ("
    )
    with pytest.raises(InputError) as caught:
        find_topic("docs/batch.md")
    assert str(caught.value).startswith(
        "there is no page 'docs/batch.md': the nearest is docs/batch-systems.md; mpi"
    )
    with pytest.raises(InputError) as caught:
        find_topic("docs/s")
    assert str(caught.value).count("docs/s") == 5
    with pytest.raises(InputError, match=r"'\.md': mpifarm help docs lists all"):
        find_topic(".md")


def test_several_pages_are_printed_one_after_the_other():
    text = find_topic("README.md, docs/logs.md")
    assert text.startswith((ROOT / "README.md").read_text())
    assert text.endswith((ROOT / "docs" / "logs.md").read_text())


def test_an_installed_package_has_its_pages_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(mpifarm, "__file__", str(tmp_path / "site" / "__init__.py"))
    with pytest.raises(InputError, match="has no pages"):
        find_topic("docs/order.md")
    (tmp_path / "site" / "docs").mkdir(parents=True)
    for name in ("order.md", "README.md"):
        (tmp_path / "site" / "docs" / name).write_text(f"of {name}\n")
    assert find_topic("docs/order.md") == "of order.md\n"
    assert find_topic("README.md") == "of README.md\n"
    with pytest.raises(InputError, match=r"'xyzzy\.md': mpifarm help docs lists all"):
        find_topic("xyzzy.md")


@pytest.mark.parametrize("text", TOPICS.values())
def test_a_topic_names_what_is_there(text):
    assert text.endswith("\n")
    assert max(map(len, text.split("\n"))) <= 88
    assert len(text.split("\n")) <= 9
    for page in re.findall(r"[\w/-]+\.md", text):
        assert (ROOT / page).is_file(), page
    for name in re.findall(r"(?<!\S)--[a-z]+(?:-[a-z]+)*(?![A-Za-z-])", text):
        assert name in ALL_NAMES or any(name in each for each in SUBCOMMANDS.values())
    for name in re.findall(r"mpifarm ([a-z]+) (?:LIST|-)", text):
        assert name in {*SUBCOMMANDS, "help"}, name
