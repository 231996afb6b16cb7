"""A runner for mpifarm that gives each task a time limit: see runners.ini.

It derives from PyTaskFarmer's API alone, and works with both.
"""

import os
import signal
import subprocess


class TimeLimitRunner:
    """Runs a line by bash, for at most so many seconds."""

    def __init__(self, seconds):
        self.seconds = float(seconds)
        self.shell = None

    def run(self, taskid, command, logfh):
        """The status of the line; 124 if it took too long, as timeout(1) has it."""
        self.shell = subprocess.Popen(
            ["/bin/bash", "-c", command],
            stdout=logfh,
            stderr=logfh,
            start_new_session=True,
        )
        try:
            return self.shell.wait(self.seconds)
        except subprocess.TimeoutExpired:
            self.signal_all(signal.SIGKILL)
            self.shell.wait()
            logfh.write(f"killed after {self.seconds:g} s\n")
            return 124

    def terminate(self):
        """Called at a stop, while run() runs: make it return soon."""
        self.signal_all(signal.SIGTERM)

    def signal_all(self, signum):
        """The signal to the shell and to all that it has started."""
        if self.shell is not None and self.shell.returncode is None:
            os.killpg(self.shell.pid, signum)
