"""A peer: HyperQueue on one machine, through its own Python API.

    python hyperqueue_farm.py TASKS [WORD ...]

Rules of this file: run by a Python that has the package `hyperqueue`, and only that.
Server, a worker of eight cores, one job of TASKS times the command (``true``), whose
outputs go where HyperQueue puts them.
"""

import sys
from importlib import import_module


def main(tasks: int, command: list[str]) -> None:
    hyperqueue = import_module("hyperqueue")
    worker = import_module("hyperqueue.cluster").WorkerConfig(cores=8)
    with hyperqueue.LocalCluster(worker_config=worker) as cluster:
        client = cluster.client()
        job = hyperqueue.Job(max_fails=0)
        for _ in range(tasks):
            job.program(command)
        client.wait_for_jobs([client.submit(job)])


main(int(sys.argv[1]), sys.argv[2:] or ["true"])
