"""What has to wait before it may start.  Pure.

* `constraints`: what does the list say?  Barriers, tasks that wait for others, kinds.
* `frontier`: which tasks may start now, and which never will?
* `directives`: how is that written in a plain list?
* `faults`: what has a handler of a user got wrong in it?
"""
