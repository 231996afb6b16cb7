"""The time of day, as the lines of a log have it."""

import time


def describe_now() -> str:
    """Return the local time with its zone: ``2026-11-30 10:41:07+01:00`` (ISO 8601)."""
    now = time.localtime()
    zone = time.strftime("%z", now)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', now)}{zone[:3]}:{zone[3:]}"
