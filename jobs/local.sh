#!/bin/bash
# A farm on this machine alone, without MPI and batch system:
#
#   jobs/local.sh tasks.txt [options of mpifarm]
#   nohup jobs/local.sh tasks.txt >farm.log 2>&1 &  # goes on after you have logged out
#
# Ctrl-C stops it; the same command goes on.

farm=(python -m mpifarm --mpi off --proc auto)  # auto: a worker for each CPU

# nice: the machine stays usable.  exec: a signal to this process is one to the farm.
exec nice "${farm[@]}" "$@"
