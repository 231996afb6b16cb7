"""The disk that fails on purpose, for the tests of this directory."""

import pytest

from tests.fault.faulty_disk import FaultyDisk, skip_without_fuse


@pytest.fixture(scope="module")
def mounted(tmp_path_factory):
    skip_without_fuse()
    with FaultyDisk(tmp_path_factory.mktemp("faulty")) as disk:
        yield disk


@pytest.fixture
def disk(mounted):
    mounted.clear()
    return mounted
