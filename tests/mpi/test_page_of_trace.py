"""The loss of a rank as the page of the trace has it, line by line.

Rules of this file: a rank is killed as on the page, under an MPI that tells of it (Open
MPI 5 alone), while its tasks wait for a word of the test.  Which tasks and how many go
to which rank is another in each run, and times, pids and hosts.
"""

import re
import signal

from tests.farm_driver import assert_ends
from tests.pages import take_block
from tests.support import wait_until

VARYING = (
    (r"^.{0,11}\d\d:\d\d:\d\d\.\d{3} ", ""),
    (r"rank=[01]\b", "rank=R"),
    (r"(farm|host)=\w+", r"\1=NAME"),
    (r" on \w+ is lost", " on HOST is lost"),
    (r"(?<!rank)(?<!ranks)(?<!attempt)(?<!status)=\d[\d.]*", "=N"),
    (r"cost=[\d.e-]+", "cost=N"),
)


def without_varying(lines):
    found = []
    for line in lines:
        text = line
        for pattern, word in VARYING:
            text = re.sub(pattern, word, text)
        found.append(text)
    return found


SHOWN = [
    *take_block("trace.md", "07:15:48.636 coordinator in Join").lines,
    *take_block("trace.md", "07:15:48.670 coordinator in transacted").lines,
    *take_block("trace.md", "07:15:48.671 coordinator out Assign").lines,
    *take_block("trace.md", "07:15:49.115 coordinator in ranks_lost").lines,
    *take_block("trace.md", "07:15:50.187 pool out Result").lines,
    *take_block("trace.md", "07:15:50.209 coordinator in Report.results").lines,
    *take_block("trace.md", "07:15:50.331 coordinator out Transact").lines,
    *take_block("trace.md", "07:15:51.718 coordinator in Report.results").lines,
    *take_block("trace.md", "07:15:51.776 coordinator out Conclude").lines,
]
"""What the page shows of rank 0."""

SHOWN_OF_THE_LOST = take_block("trace.md", "07:15:48.673 agent in Assign").lines


def test_the_trace_of_a_lost_rank_is_that_of_the_page(farm, ulfm):
    farm.write_list(["until [ -e go ]; do sleep 0.05; done"] * 8)
    trace = farm.directory / "trace"
    environment = {"MPIFARM_TRACE": str(trace)}
    child = farm.start("-n", "2", under=ulfm, ranks=3, env=environment)
    leading, lost = (trace.with_name(f"trace.rank{rank}") for rank in (0, 2))
    wait_until(lambda: lost.exists() and lost.read_text().count("pool in Lease ") == 2)
    farm.signal_rank(2, signal.SIGKILL)
    wait_until(lambda: "coordinator in ranks_lost " in leading.read_text())
    farm.allow()
    assert_ends(child, 0)
    for path, shown in ((leading, SHOWN), (lost, SHOWN_OF_THE_LOST)):
        traced = without_varying(path.read_text().splitlines())
        missing = [line for line in without_varying(shown) if line not in traced]
        assert missing == [], "\n".join([*missing, "", *path.read_text().splitlines()])
