"""Batch systems and launchers: their variables, their answers, their command lines.

Rules of this package: pure; environments and texts in, values out.  It starts no
program.  `job_end`: the end of a job.  `arrays`: the job array of a process.
`launcher`: the variables of MPI launchers.  `launch_lines`: the command line that
starts a farm.  `slurm`: Slurm's nodes, steps and options.  `step_cpus`: tasks that wait
for CPUs of the farm's own step.
"""
