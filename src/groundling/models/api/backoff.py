"""How long to wait before the next try: exponential back-off with full jitter, or as told."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as the client sees it; tests put their own in its place."""

    monotonic: Callable[[], float] = time.monotonic
    """Seconds since some moment, for limits."""
    wall: Callable[[], float] = time.time
    """Seconds since 1970 in UTC, for HTTP dates."""
    sleep: Callable[[float], None] = time.sleep
    """Waits so many seconds."""


class Backoff:
    """Waits of uniform(0, min(cap, base · 2^n)) seconds before try n + 2; safe for threads."""

    def __init__(self, base_s: float, cap_s: float, seed: int | None = None) -> None:
        self._base_s, self._cap_s = base_s, cap_s
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def wait_s(self, failed: int, told_s: float | None = None) -> float:
        """Seconds to wait after `failed` tries, at least `told_s`, what the server asked for."""
        most = min(self._cap_s, self._base_s * 2.0 ** min(failed - 1, 60))
        with self._lock:
            drawn = self._random.uniform(0.0, most)
        return drawn if told_s is None else max(drawn, told_s)


def retry_after_s(header: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date after `now` (Unix time).

    None where there is no header or it cannot be read; 0 for a date that has passed.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - now)
