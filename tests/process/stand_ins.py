"""Programs that stand in for those that a machine lacks, as texts of scripts."""

SRUN = """\
#!/bin/sh
# srun where there is no Slurm: the same command, one rank for each node
ranks=2
while :; do
    case $1 in
    -N) ranks=$2; shift 2 ;;
    --mpi=* | -K0) shift ;;
    -*) echo "srun: a stand-in does not know $1" >&2; exit 64 ;;
    *) break ;;
    esac
done
exec mpirun -n "$ranks" "$@"
"""
