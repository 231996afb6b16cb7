"""What is beside the package: the README of an index, and other ways to install.

Rules of this file: pure; files are read, and nothing is built.
"""

import re
import runpy
import sys
import types

import pytest

from mpifarm import __version__
from tests.support import ROOT

ADDRESS = "https://forge.example/group/mpifarm/blob/main"


@pytest.fixture
def hook(monkeypatch):
    """The module that hatchling runs; hatchling's own classes are not needed here."""
    for name, attribute in (
        ("hatchling.builders.hooks.plugin.interface", "BuildHookInterface"),
        ("hatchling.metadata.plugin.interface", "MetadataHookInterface"),
    ):
        module = types.ModuleType(name)
        setattr(module, attribute, object)
        monkeypatch.setitem(sys.modules, name, module)
    names = runpy.run_path(str(ROOT / "docs" / "packaging" / "build_hook.py"))
    return types.SimpleNamespace(**names)


README = (ROOT / "README.md").read_text()
RELATIVE = re.compile(r"\]\((?!https?://|#)")


def test_the_readme_of_an_index_has_no_link_that_is_dead_there(hook):
    assert RELATIVE.search(README)
    for address in ("", ADDRESS):
        assert not RELATIVE.search(hook.rewrite_links(README, address))


@pytest.mark.parametrize(
    ("link", "without", "with_address"),
    [
        (
            "[why](docs/why.md#x)",
            "why (`mpifarm help docs/why.md`)",
            f"[why]({ADDRESS}/docs/why.md#x)",
        ),
        ("[a](jobs/tasks.txt)", "a", f"[a]({ADDRESS}/jobs/tasks.txt)"),
        ("![a run](docs/run.svg)", "a run", f"![a run]({ADDRESS}/docs/run.svg)"),
        ("[p](https://x.org/)", "[p](https://x.org/)", "[p](https://x.org/)"),
        ("'[limit=NAME] x'", "'[limit=NAME] x'", "'[limit=NAME] x'"),
    ],
)
def test_a_link_is_absolute_or_the_command_that_prints_the_page(
    hook, link, without, with_address
):
    assert hook.rewrite_links(link, "") == without
    assert hook.rewrite_links(link, ADDRESS) == with_address


def test_the_links_of_the_project_are_those_of_its_address(hook):
    assert hook.list_urls("") == {}
    assert all(each.startswith(ADDRESS) for each in hook.list_urls(ADDRESS).values())


def test_the_citation_has_the_version_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {__version__}\n" in citation


def test_forges_find_their_pages():
    # Names that differ in case alone are one file on some disks.
    names = [path.name for path in (ROOT / "docs").iterdir()]
    assert {"SECURITY.md", "CONTRIBUTING.md"} <= {*names}
    assert len({name.lower() for name in names}) == len(names)
