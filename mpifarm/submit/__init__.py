"""Jobs of a batch system that farm a list: their scripts, and how they are submitted.

Rules of this package: a job script has one source, here, whether ``mpifarm submit``
writes it or ``jobs/`` has it.  `request`: what is wanted, as data.  `shell`: the lines
that scripts have in common.  `slurm`, `pbs`, `lsf`, `grid_engine`: a request in, a
script out; pure.  `systems`: the four in one table, with the commands that submit,
watch and cancel.  `samples`: the requests of ``jobs/``.  `choosing`: from what programs
say to what a job gets, or a refusal; pure.  `asking`: the only owner of these programs.
"""
