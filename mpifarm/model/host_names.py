"""Many hosts in few words: ``n[1-3,8]``.

Rules of this file: pure; it imports nothing of mpifarm.
"""

import re
from collections.abc import Iterable

_NUMBERED = re.compile(r"(.*?)([0-9]{1,9})((?:\.[^0-9].*)?)", re.DOTALL)
"""A name, its last number, and a domain."""


def fold_hosts(names: Iterable[str]) -> str:
    """Return names of hosts as Slurm writes them: ``gpu7,n[001-128]``.

    Numbers of different widths stay apart, so that each name can be made again.
    """
    plain, numbered = set[str](), dict[tuple[str, str, int], set[int]]()
    for name in names:
        if found := _NUMBERED.fullmatch(name):
            stem, digits, domain = found.groups()
            # n9 and n10 stand in one range, n09 and n9 do not.
            width = len(digits) if digits[0] == "0" and len(digits) > 1 else 0
            numbered.setdefault((stem, domain, width), set()).add(int(digits))
        else:
            plain.add(name)
    _join_unpadded(numbered)
    folded = [
        _fold(stem, domain, width, sorted(numbers))
        for (stem, domain, width), numbers in numbered.items()
    ]
    return ",".join(sorted([*plain, *folded]))


def _join_unpadded(numbered: dict[tuple[str, str, int], set[int]]) -> None:
    """Move n10, as wide as the padded n01, to the padded ones."""
    for (stem, domain, width), numbers in numbered.items():
        unpadded = numbered.get((stem, domain, 0))
        if width and unpadded:
            same = {each for each in unpadded if len(str(each)) == width}
            numbers.update(same)
            unpadded.difference_update(same)
    for key in [key for key, numbers in numbered.items() if not numbers]:
        del numbered[key]


def _fold(stem: str, domain: str, width: int, numbers: list[int]) -> str:
    ranges = list[list[int]]()
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    words = [
        f"{first:0{width}}" if first == last else f"{first:0{width}}-{last:0{width}}"
        for first, last in ranges
    ]
    text = ",".join(words)
    return f"{stem}{text if len(numbers) == 1 else f'[{text}]'}{domain}"
