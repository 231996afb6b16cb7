"""How Sphinx makes a site of these pages: `make docs`.

Rules of this file: the pages load nothing from other hosts, so that they can be read
on a login node without a network; whatever Sphinx warns of is an error.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)

project = "mpifarm"
author = "The mpifarm authors"
project_copyright = author
(release,) = _VERSION.findall((ROOT / "mpifarm" / "__init__.py").read_text())
version = release

extensions = ["myst_parser", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True

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
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

# Where no network is, only links inside the site can be looked at.
linkcheck_ignore = [r"https?://"]
