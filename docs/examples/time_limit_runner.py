"""A runner for mpifarm that gives each task a time limit: see runners.ini.

It uses nothing but PyTaskFarmer's API, and works with both.
"""

import os
import signal
import subprocess


class TimeLimitRunner:
    """A runner that runs a line by bash, for at most `seconds`."""

    def __init__(self, seconds):
        self.seconds = float(seconds)
        self.shell = None

    def run(self, taskid, command, logfh):
        """Return the status of the line, or 124 if it took too long (as timeout(1))."""
        self.is_stopped = False
        self.shell = subprocess.Popen(
            ["/bin/bash", "-c", command],
            stdout=logfh,
            stderr=logfh,
            start_new_session=True,
        )
        if self.is_stopped:  # The stop came before there was a shell to signal.
            self.signal_all(signal.SIGTERM)
        try:
            return self.shell.wait(self.seconds)
        except subprocess.TimeoutExpired:
            self.signal_all(signal.SIGKILL)
            self.shell.wait()
            logfh.write(f"killed after {self.seconds:g} s\n")
            return 124

    def terminate(self):
        """Make run() return soon; called at a stop, in a signal handler."""
        self.is_stopped = True
        self.signal_all(signal.SIGTERM)

    def signal_all(self, signum):
        """Send the signal to the shell and to all that it has started."""
        if self.shell is not None and self.shell.returncode is None:
            os.killpg(self.shell.pid, signum)
