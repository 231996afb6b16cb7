"""Whether the site's search answers those who are in trouble.

    make docs; python -m tests.site.search

Rules of this file: the first ten questions were written before the headings of the
pages were looked at, the others before they were asked; none may be changed to fit
them.  An answer is a page, or a section of one, that says what to do.  The search runs
in a Chromium, on files, without a network.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from html import unescape
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.support import ROOT

SITE: Final = ROOT / "build" / "site" / "html"
FIRST: Final = 3

QUESTIONS: Final = {
    "slurm job hit the time limit, how do I resume": "time-limit|submit|time-left",
    "task killed out of memory": "memory",
    "all tasks run on one core": "one-core|cpus-and-gpus",
    "command not found, module load in task": "not-found|what-is-going-on",
    "farm stuck, nothing happens": "stuck|nothing-moves",
    "how do I rerun failed tasks": "rerun|retry",
    "tasklist changed, farm refuses to start": "list-was-changed|edited-lists",
    "no space left on device": "no-space|disks",
    "every rank runs alone, MPI does not start": "runs-alone|doctor",
    "a node died, is my work lost": "node-died|when-ranks-fail",
}
"""Questions, and a pattern for the addresses that answer them."""

MORE: Final = {
    "segmentation fault on one node only": "troubleshooting|which-node",
    "conda environment not active in tasks": "not-found|setup|what-is-going-on",
    "walltime exceeded": "time-limit|time-left|end-of-the-job",
    "where is the output of a task": "logs",
    "stop a single running task": "cancel|never-ends|telling-a-farm",
    "job pending in queue too long": "queue",
    "disk quota exceeded": "quota|disks",
    "one GPU for each task": "cpus-and-gpus",
    "limit memory per task": "memory|limits-for-each-task",
    "how long until it is finished": "time-left|how-long",
}
"""Questions in words that no page was written for."""

_HIT = re.compile(r'<a href="([^"]+)"[^>]*>(.*?)</a>', re.DOTALL)


def ask(question: str, browser: str, site: Path = SITE) -> list[tuple[str, str]]:
    """Return the address and the title of each hit, the best first."""
    with tempfile.TemporaryDirectory() as profile:
        argv = [browser, "--headless=new", "--no-sandbox", "--disable-gpu"]
        argv += [f"--user-data-dir={profile}", "--virtual-time-budget=20000"]
        argv += ["--dump-dom", f"file://{site}/search.html?q={quote(question)}"]
        quiet = subprocess.DEVNULL
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=quiet, text=True, check=True
        )
    results = done.stdout.partition('id="search-results"')[2].partition("</ul>")[0]
    return [(address, unescape(title)) for address, title in _HIT.findall(results)]


def main() -> int:
    """Ask all; return 1 if one is not answered in the first hits."""
    parser = argparse.ArgumentParser(description="Ask the site's search.")
    parser.add_argument("--browser", default="chromium")
    browser = parser.parse_args().browser
    unanswered = 0
    for question, answer in {**QUESTIONS, **MORE}.items():
        hits = ask(question, browser)
        places = [n for n, hit in enumerate(hits, 1) if re.search(answer, hit[0])]
        place = places[0] if places else None
        unanswered += place is None or place > FIRST
        print(f"{place or '-'}  {question}")
        for address, _ in hits[:FIRST]:
            print(f"       {address}")
    return 1 if unanswered else 0


if __name__ == "__main__":
    sys.exit(main())
