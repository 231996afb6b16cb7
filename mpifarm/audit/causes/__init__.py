"""Why tasks failed: failures grouped by cause.  Pure: attempts in, groups out.

* `failure`: what is a failure, and what a group?
* `lines`: which line of a log tells the cause?
* `known`: which causes do all programs tell in the same words?
* `folding`: when are two lines alike, and what have they in common?
* `hosts`: are failures concentrated on a host?
* `groups`: which failures have one cause, and what is it in words?
"""
