"""How Sphinx makes a site of these pages: `make docs`.

Rules of this file: the pages load nothing from other hosts, so that they can be read
on a login node without a network; whatever Sphinx warns of is an error.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parent.parent
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)

project = "mpifarm"
author = "The mpifarm authors"
project_copyright = author
(release,) = _VERSION.findall((ROOT / "mpifarm" / "__init__.py").read_text())
version = release

extensions = ["myst_parser", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
nitpicky = True

# It makes one dash of the two of an option.
smartquotes = False

# A heading is named as forges name it, so that a link to it works there too.
myst_heading_anchors = 4

# A block that says no language is what was typed or printed.
highlight_language = "text"
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = f"mpifarm {release}"
html_static_path = ["_static"]
html_css_files = ["mpifarm.css"]
html_show_sphinx = False
html_use_index = False
html_copy_source = False
html_search_scorer = str(Path(__file__).parent / "ranking.js")
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

# Where no network is, only links inside the site can be looked at.
linkcheck_ignore = [r"https?://"]


class Typed(SphinxDirective):
    """What commands of mpifarm print, below what was typed."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Run each line; what fails is an error of the build."""
        self.env.note_reread()  # what is printed changes with mpifarm alone
        text = "\n".join(f"$ {line}\n{_run(line)}" for line in self.content)
        return [nodes.literal_block(text, text, language="text")]


def _run(line: str) -> str:
    program, *words = line.split()
    assert program == "mpifarm", line
    environment = os.environ | {"COLUMNS": "88", "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "mpifarm", *words]
    return subprocess.run(
        argv, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def setup(app: Sphinx) -> None:
    """Add what is ours to Sphinx."""
    app.add_directive("typed", Typed)
