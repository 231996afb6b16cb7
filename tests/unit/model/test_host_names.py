"""Names of hosts, folded as Slurm folds them."""

import pytest

from mpifarm.model.host_names import fold_hosts


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        ([], ""),
        (["login"], "login"),
        (["n1"], "n1"),
        (["n3", "n1", "n2", "n2"], "n[1-3]"),
        (["n8", "n9", "n10", "n11"], "n[8-11]"),
        (["n1", "n2", "n5"], "n[1-2,5]"),
        ([f"n{number:03}" for number in range(1, 129)], "n[001-128]"),
        (["n09", "n10", "n9"], "n9,n[09-10]"),
        (["gpu7", "n1", "n2", "login"], "gpu7,login,n[1-2]"),
        (["n1.site.org", "n2.site.org"], "n[1-2].site.org"),
        (["r1i2n3", "r1i2n4", "r1i3n3"], "r1i2n[3-4],r1i3n3"),
        (["n00", "n01"], "n[00-01]"),
        (["n0", "n1", "n10"], "n[0-1,10]"),
        (["n16", "n9"], "n[9,16]"),
        (["n" + "9" * 40], "n" + "9" * 40),
        (["10.0.0.1", "10.0.0.2"], "10.0.0.[1-2]"),
    ],
)
def test_hosts_are_folded(names, folded):
    assert fold_hosts(names) == folded
