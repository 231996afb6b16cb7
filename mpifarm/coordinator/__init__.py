"""What rank 0 decides: pure, events in and effects out.

`coordinator` hands events to these members, each with one question:

* `task_table`: where is each task, and which moves may it make?
* `dispatch`: which rank gets what?  With `ahead` (how many leases may a rank hold?),
  `demand`, `capacity`, `prefetch` (how many tasks to take?), `pacing` (how often do
  ranks report?) and `stealing` (what is returned for workers that are idle?).
* `results`: what does a finished attempt mean?  With `retries`.
* `commits`: what goes to disk, and when?
* `rank_use`: which ranks take leases?  With `quarantine` (which fail everything?) and
  `alike` (do the others fail as much?).
* `requests`: what do users ask of the running farm?  With `bars` (which tasks must not
  start?).
* `liveness`: which ranks are there?
* `failover`: who has what, after messages or a coordinator were lost?  With
  `unlocated`.
* `growing`: may the farm leave, or do lines come that are added to its list?
* `limits` and `walltime`: what keeps the farm from taking or starting tasks?
* `start_rate` and `seats`: how many tasks may start, and how many of a kind run?
* `stop_reasons`: why does the farm stop by itself?
* `time_left`: when will the list be done?  With `lifetimes` (what does a task take?),
  `list_order` (and along the list?), `running_ages`, `list_end` and `seat_time` (how
  long do the seats of a kind need?).
* `ending`: how does it drain, stop and leave?  With `announcement`.

`state` and `effects` are the vocabulary.
"""
