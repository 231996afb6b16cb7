"""The standard normal distribution.

Rules of this file: pure.  Python's own module is imported when it is first needed: a
start does without it.
"""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from statistics import NormalDist


@cache
def standard_normal() -> "NormalDist":
    """Return the distribution of mean 0 and deviation 1."""
    from statistics import NormalDist

    return NormalDist()


def find_quantile(share: float) -> float:
    """Return the place below which this share of the distribution lies.

    Raise `statistics.StatisticsError` unless `share` is between 0 and 1.
    """
    return standard_normal().inv_cdf(share)
