"""Whether failures are concentrated on hosts.

Rules of this file: a pure function of numbers.
"""

from collections.abc import Mapping

MIN_FAILURES = 5
"""Fewer failures on a host prove nothing."""
MIN_RATIO = 5.0
"""The blamed hosts fail this many times as often as the others."""
MIN_SHARE = 0.3
"""Share of the failures that the blamed hosts have at least."""
MAX_BLAMED = 4
"""Hosts that can be blamed: where more fail, it is not the hosts."""


def find_blamed(failed: Mapping[str, int], ran: Mapping[str, int]) -> tuple[str, ...]:
    """Return the hosts on which failures are concentrated, the worst first.

    `failed` is the number of these failures on each host, `ran` that of all attempts on
    each host (where only failures are known: the same number for each host).
    """
    total, all_ran = sum(failed.values()), sum(ran.values())
    worst = sorted(
        (host for host in failed if ran.get(host)),
        key=lambda host: (-failed[host] / ran[host], host),
    )
    blamed: tuple[str, ...] = ()
    count = tried = 0
    # Not only the first: two bad hosts hide each other.
    for number, host in enumerate(worst[:MAX_BLAMED], 1):
        count += failed[host]
        tried += ran[host]
        others, others_ran = total - count, all_ran - tried
        # Each host itself, and together enough to be the cause of most of it.
        if (
            failed[host] >= MIN_FAILURES
            and count / tried * others_ran >= MIN_FAILURES
            and failed[host] / ran[host] * others_ran >= MIN_RATIO * others
            and count >= MIN_SHARE * total
        ):
            blamed = tuple(worst[:number])
    return blamed
