"""``mpifarm help docs/PAGE.md``: the pages of the documentation, as they are.

Rules of this file: it reads, and is imported for this question only.  The wheel has the
pages in the package; in a checkout they stand beside it.
"""

import os
from collections.abc import Iterable
from difflib import get_close_matches

import mpifarm
from mpifarm.commands.misspelt import MAX_NEAR
from mpifarm.commands.option_values import usage_error
from mpifarm.model.nearness import find_near_word
from mpifarm.model.wording import agree

_README = "README.md"

_RATHER_NEAR = 0.55
"""The least likeness of pages that are named beside others."""


def find_page(word: str) -> str:
    """Return the text of a page, named as ``docs/order.md``, ``order.md``, ``README``.

    Raises InputError that names the nearest pages.
    """
    pages = _list_pages()
    name = os.path.basename(word)
    for each in (name, f"{name}.md"):
        if each in pages:
            with open(pages[each], encoding="utf-8") as file:
                return file.read()
    bare = {page.removesuffix(".md"): page for page in pages}
    if near := find_near_word(name.removesuffix(".md"), [*bare]):
        raise usage_error(
            f"there is no page {word!r}: did you mean {_name(bare[near])}?"
        )
    if not pages:
        raise usage_error(
            "this installation has no pages: they stand beside its source"
        )
    found = [_name(bare[page]) for page in _find_alike(name.removesuffix(".md"), bare)]
    are = agree(len(found), "is", "are")
    nearest = f"the nearest {are} {', '.join(found)}; " if found else ""
    raise usage_error(
        f"there is no page {word!r}: {nearest}mpifarm help docs lists all"
    )


def _find_alike(name: str, pages: Iterable[str]) -> list[str]:
    """Return a few pages that begin with `name`, or are rather near it."""
    begun = [page for page in pages if name and page.startswith(name)]
    alike = get_close_matches(name, pages, cutoff=_RATHER_NEAR)
    return [*dict.fromkeys([*begun, *alike])][:MAX_NEAR]


def page_names() -> list[str]:
    """Return the names of the pages, without ``docs/`` and ``.md``."""
    return [page.removesuffix(".md") for page in _list_pages()]


def list_pages() -> str:
    """Return the names of all pages, one a line, as `find_page` takes them."""
    return "".join(f"{_name(page)}\n" for page in _list_pages())


def _name(page: str) -> str:
    return page if page == _README else f"docs/{page}"


def _list_pages() -> dict[str, str]:
    """Return the path of each page, by its file name."""
    package = os.path.dirname(mpifarm.__file__)
    inside, beside = f"{package}/docs", os.path.dirname(package)
    directory = inside if os.path.isdir(inside) else f"{beside}/docs"
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    found = {name: f"{directory}/{name}" for name in names if name.endswith(".md")}
    readme = f"{beside}/{_README}"
    if found and _README not in found and os.path.isfile(readme):
        found[_README] = readme
    return found
