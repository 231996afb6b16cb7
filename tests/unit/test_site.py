"""The site of the documents: what Sphinx does not look at.

Rules of this file: pure; `make docs` builds the site, and finds dead links.
"""

import re
from collections import Counter

from tests.pages import read_page
from tests.support import ROOT

DOCS = ROOT / "docs"
_TREES = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def listed():
    """The pages that stand in a table of contents, with their folders."""
    for tree in _TREES.findall((DOCS / "index.md").read_text()):
        for line in filter(None, tree.splitlines()):
            if not line.startswith(":"):
                yield line.partition("<")[2].rstrip(">") or line


def test_each_page_stands_in_one_table_of_contents():
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    assert Counter(listed()) == Counter(pages - {"index"})


def test_the_rates_that_are_compared_are_those_that_were_measured():
    measured = read_page("performance.md")
    rows = [
        line
        for text in ((ROOT / "README.md").read_text(), read_page("comparison.md"))
        for line in text.splitlines()
        if "(performance.md" in line or "(docs/performance.md" in line
        if line.startswith("|")
    ]
    assert len(rows) == 2
    for row in rows:
        rates = re.findall(r"(?<=\| )\d[\d ]*(?= \|)", row)
        assert len(rates) >= 3
        for rate in rates:
            assert f"| {rate}/s" in measured, rate
