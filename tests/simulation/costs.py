"""What things cost rank 0, in seconds, as `tests.simulation.measure` finds them.

Rules of this file: constants of one machine, the one that docs/scale.md names; whoever
wants those of another runs `measure` there.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of rank 0's processor, and of the way between ranks."""

    receive: float = 10e-6
    """A message that is received."""
    receive_result: float = 0.55e-6
    """Each result in a message that is received."""
    send: float = 9e-6
    """A message that is sent."""
    send_lease: float = 0.1e-6
    """Each lease in a message that is sent."""
    step: float = 20e-6
    """One round of rank 0's loop, whatever it does."""
    transaction: float = 1.4e-3
    """One taking of the lock: open, append, rename, release."""
    record: float = 6.1e-6
    """Each result that is recorded."""
    take: float = 2.0e-6
    """Each task that is taken out of ``toprocess``."""
    rewrite_line: float = 52e-9
    """Each line of ``toprocess`` when it is rewritten for a taking."""
    way: float = 20e-6
    """A message's time on its way."""
    poll: float = 5e-3
    """The longest time for which a message waits for a rank that sleeps."""
    coordinator: float | None = None
    """What each event costs the coordinator; None: what it really takes, here, now."""
    own_task: float = 100e-6
    """Each task that rank 0's own pool runs."""
