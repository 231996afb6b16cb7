"""A runner for mpifarm that runs a task again when it fails: see runners.ini."""

from mpifarm.runners import BasicRunner


class RetryRunner(BasicRunner):
    """The default runner with one more option, `tries`."""

    def __init__(self, tries="3", **options):
        super().__init__(**options)
        self.tries = int(tries)
        self.is_terminated = False

    def run(self, taskid, command, logfh):
        """Run a command until it succeeds, at most `tries` times."""
        for attempt in range(1, self.tries + 1):
            status = super().run(taskid, command, logfh)
            if status == 0 or self.is_terminated:
                break
            logfh.write(f"try {attempt} of {self.tries} ended with status {status}\n")
        return status

    def terminate(self):
        """End the running try, and begin no other."""
        self.is_terminated = True
        super().terminate()
