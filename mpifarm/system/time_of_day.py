"""The time of day, as files for programs have it."""

import time


def encode_time(seconds: float) -> str:
    """Return a time since the epoch in ISO 8601, in UTC and to a ms."""
    whole, ms = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{ms:03d}Z"
