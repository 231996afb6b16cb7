"""What the coordinator's decisions are made of: pure parts, each with one question.

`state`: what is.  `effects`: what is to be done.  `holdings`: where each task is.
`outcomes`: what becomes of results.  `attempts`: whether a task runs again, and where.
`intake`: how much to take.  `quarantine`: which ranks fail everything.  `gates`: the
canary, and too many failures.  `walltime`: the end of the job.  `limbo`: the tasks of a
coordinator that was lost.
"""
