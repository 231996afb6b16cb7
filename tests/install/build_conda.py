"""Builds a recipe of conda with stand-ins for the packages that it needs.

    python build_conda.py RECIPE PYTHON CHANNEL

Rules of this file: it runs in an environment that has py-rattler-build, and imports
nothing of the project.  PYTHON is an environment that becomes the package python.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any


def main(recipe: str, python: str, channel: str) -> None:
    """Build all, run the tests of the recipe, and print what was built."""
    rattler: Any = import_module("rattler_build")
    stand_ins = Path(channel, "recipes")
    for name, content in _list_stand_ins(python):
        path = stand_ins / name / "recipe.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))  # JSON is YAML
        _build(rattler, path, channel, "skip")
    print("conda: ok,", *_build(rattler, Path(recipe), channel, "native"))


def _build(rattler: Any, recipe: Path, channel: str, tests: str) -> list[str]:
    results = rattler.Stage0Recipe.from_file(str(recipe)).run_build(
        tool_config=rattler.ToolConfiguration(test_strategy=tests),
        output_dir=channel,
        channels=[Path(channel).absolute().as_uri()],
        package_format="conda:1",
    )
    return [Path(path).name for result in results for path in result.packages]


def _list_stand_ins(python: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the packages and their recipes, of the versions that PYTHON has."""
    listed = [f"{python}/bin/python", "-m", "pip", "list", "--format=json"]
    found = json.loads(subprocess.run(listed, capture_output=True, check=True).stdout)
    for package in found:
        yield package["name"], _write(package["name"], package["version"], "true")
    copy = f"cp -a {python}/. $PREFIX/ && rm -rf $PREFIX/lib64"
    version = sys.version.split()[0]
    yield "python", _write("python", version, copy)


def _write(name: str, version: str, script: str) -> dict[str, Any]:
    return {
        "package": {"name": name.lower(), "version": version},
        "build": {"script": script, "dynamic_linking": {"binary_relocation": False}},
        "about": {"summary": "a stand-in"},
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
