"""What is beside the package: the README of an index, and other ways to install.

Rules of this file: pure; files are read, and nothing is built.
"""

import re
import runpy
import sys
import tomllib
import types

import pytest

from mpifarm import __version__
from tests.support import ROOT

PACKAGING = ROOT / "docs" / "packaging"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
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
    names = runpy.run_path(str(PACKAGING / "build_hook.py"))
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


# ---- recipes ------------------------------------------------------------------------


def least(requirement):
    """``>=3.30; python_version>='3.11'`` as the version ``3.30``."""
    (version,) = re.findall(r"^[\w-]*>=([\d.]+)", requirement)
    return version


def read_requirements():
    """What mpifarm needs, and the oldest version of each that will do."""
    project = PROJECT["project"]
    (backend,) = PROJECT["build-system"]["requires"]
    needed = [*project["dependencies"], backend]
    found = {re.split(r"\W", each)[0]: least(each) for each in needed}
    return found | {"python": least(project["requires-python"])}


NEEDED = read_requirements()


def number(version):
    return tuple(map(int, version.split(".")))


def test_what_is_needed_is_python_mpi4py_filelock_and_the_build():
    assert {*NEEDED} == {"python", "mpi4py", "filelock", "hatchling"}


def test_the_recipe_of_conda_has_the_version_and_what_is_needed():
    text = (PACKAGING / "conda" / "recipe.yaml").read_text()
    context = dict(re.findall(r'^  (\w+): "(.*)"$', text, re.MULTILINE))
    assert context == {"version": __version__, "python_min": NEEDED["python"]}
    host, run = text.partition("  host:\n")[2].split("tests:")[0].split("  run:\n")
    assert re.findall(r"- (\w+) >=(.*)", host) == [("hatchling", NEEDED["hatchling"])]
    assert dict(re.findall(r"- (\w+) >=(.*)", run)) == {
        "python": "${{ python_min }}",
        "mpi4py": NEEDED["mpi4py"],
        "filelock": NEEDED["filelock"],
    }
    assert text.count("python ${{ python_min }}.*") == 1
    for name, place in PROJECT["project"]["scripts"].items():
        assert f"- {name} = {place}\n" in text


def test_the_easyconfig_of_easybuild_has_the_version_and_what_is_needed():
    (path,) = (PACKAGING / "easybuild").glob("*.eb")
    config = runpy.run_path(str(path))
    toolchain = config["toolchain"]
    assert config["version"] == __version__
    assert path.stem == f"mpifarm-{__version__}-{'-'.join(toolchain.values())}"
    mine, *others = reversed(config["exts_list"])
    assert mine == ("mpifarm", __version__)
    given = [*config["dependencies"], *config["builddependencies"], *others]
    versions = {name.lower(): version for name, version, *_ in given}
    assert {*versions} == {*NEEDED}
    for name, version in versions.items():
        assert number(version) >= number(NEEDED[name]), name


WORDS_OF_SPACK = ("version", "depends_on", "license")


@pytest.fixture
def read_spack(monkeypatch):
    """Return what a package of Spack says, by the words that Spack has for it."""
    said: dict[str, list[tuple[str, dict[str, str]]]] = {}
    base = type("Package", (), {"__doc__": "A package."})
    names = dict.fromkeys(
        ("PythonPackage", "PyFilelock", "EnvironmentModifications"), base
    )
    language = types.SimpleNamespace(**names, __all__=[*names, *WORDS_OF_SPACK])
    for word in WORDS_OF_SPACK:

        def keep(value, word=word, **more):
            said.setdefault(word, []).append((value, more))

        setattr(language, word, keep)
    for module in (
        "spack.package",
        "spack_repo.builtin.build_systems.python",
        "spack_repo.builtin.packages.py_filelock.package",
    ):
        monkeypatch.setitem(sys.modules, module, language)

    def read(name):
        said.clear()
        packages = PACKAGING / "spack_repo" / "mpifarm" / "packages"
        runpy.run_path(str(packages / name / "package.py"))
        return dict(said)

    return read


def test_the_package_of_spack_has_the_version_and_what_is_needed(read_spack):
    said = read_spack("py_mpifarm")
    assert said["version"] == [(__version__, {})]
    assert said["license"] == [(PROJECT["project"]["license"], {})]
    specs = [spec for spec, _ in said["depends_on"]]
    found = dict(spec.removeprefix("py-").rstrip(":").split("@") for spec in specs)
    assert found == NEEDED
    ((filelock, _),) = read_spack("py_filelock")["version"]
    assert number(filelock) >= number(NEEDED["filelock"])


def test_the_module_file_has_the_version():
    text = (PACKAGING / "modulefile.lua").read_text()
    assert f'prefix = "/opt/mpifarm/{__version__}"' in text
    assert {*re.findall(r"\d+\.\d+\.\d+", text)} == {__version__}
    assert f"python{NEEDED['python']} -m venv" in text


def test_the_page_for_site_staff_names_the_files_that_are_there():
    page = (ROOT / "docs" / "site-staff.md").read_text()
    links = {*re.findall(r"\]\(packaging/([^)]*)\)", page)}
    assert all((PACKAGING / link).exists() for link in links)
    assert {link.split("/")[0] for link in links} == {
        *("conda", "easybuild", "spack_repo", "modulefile.lua"),
    }
    assert {*re.findall(r"mpifarm[-/](\d+\.\d+\.\d+)", page)} == {__version__}
