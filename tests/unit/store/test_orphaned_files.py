"""What farms that were killed as they left, leave in a workdir."""

import os

import pytest

from tests.unit.database_fakes import DatabaseSite
from tests.unit.store_fakes import Site


@pytest.fixture(params=["files", "database"])
def site(request, tmp_path):
    return Site(tmp_path) if request.param == "files" else DatabaseSite(tmp_path)


def test_staging_files_of_no_farm_go_at_a_start_and_all_others_stay(site):
    living = site.open()
    root = living.paths.root
    orphaned = ("result.json.0badcafe", "attempts.tsv.0badcafe")
    others = (f"result.json.{living.farm}", "notes.json.old", "data.0badcafe")
    for name in (*orphaned, *others):
        with open(f"{root}/{name}", "w", encoding="utf-8") as file:
            file.write("x")
    site.open()
    there = {*os.listdir(root)}
    assert there.isdisjoint(orphaned)
    assert there.issuperset(others)
