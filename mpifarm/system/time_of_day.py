"""The time of day, as the lines of a log have it, and as files for programs do."""

import time


def describe_now() -> str:
    """Return the local time with its zone: ``2026-11-30 10:41:07+01:00`` (ISO 8601)."""
    now = time.localtime()
    zone = time.strftime("%z", now)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', now)}{zone[:3]}:{zone[3:]}"


def encode_time(seconds: float) -> str:
    """Return a time since the epoch in ISO 8601, in UTC and to a ms."""
    whole, ms = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{ms:03d}Z"
