"""``mpifarm --help``: what fits on one screen; ``--help-all`` has the rest.

Rules of this file: one text, of at most 79 columns.
"""

from typing import Final

FIRST_SCREEN: Final = """\
usage: mpifarm [run] [options] tasklist
       mpifarm [options] 'command {}' ::: argument ...

Run every command of a list once, over the ranks of an MPI job or on this
machine alone, and keep its output and its outcome.  After a stop, the same
command goes on.

examples:
  mpifarm tasks.txt                      # here, 8 commands at a time
  srun --mpi=pmi2 -N 8 python -m mpifarm tasks.txt
  mpifarm submit -N 8 -t 4:00:00 tasks.txt
  mpifarm 'convert {} {.}.png' ::: *.jpg
  mpifarm status tasks.txt --watch

options:
  -n N, --proc N         commands at one time on each rank (8)
  -w DIR, --workdir DIR  where progress and logs are kept (<tasklist>_workdir)
  --retries N            run a failed command up to N times more
  --max-failures N|P%    stop when so many have failed
  --task-timeout TIME    end a command that takes longer, as 10m
  --timeout TIME         stop the farm after this time; go on later
  --setup COMMAND        run this before each command, as 'source env.sh'
  --dry-run              show what would run, and how

commands (mpifarm COMMAND --help):
  look       status ls log why check joblog timeline
  act        add retry cancel hold release drain
  jobs       submit jobs supervise
  site       doctor selftest config completion
  databases  import export

mpifarm --help-all    all options, exit statuses and signals
mpifarm help TOPIC    some lines about exit, files, lists, resume, slurm, ...

A task's id is its place in the list, from 0.
"""
