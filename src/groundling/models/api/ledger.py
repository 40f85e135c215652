"""Tokens and money: what was spent, what calls under way may cost, and a budget nobody overruns.

A call reserves an upper bound of its cost before it is sent and settles for the real cost
afterwards. Both are lines of an append-only file, so that a later run counts on; a call that a
killed process never settled counts with what it had reserved, because the server may have charged
for it. Money is exact: decimal dollars, tokens × price / 10⁶.
"""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from groundling.errors import InputError
from groundling.journal import Journal
from groundling.models.api.wire import Usage

_MILLION = Decimal(10**6)


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars for a million tokens of prompt and of answer."""

    input_usd: Decimal
    output_usd: Decimal

    def cost(self, usage: Usage) -> Decimal:
        """What so many tokens cost, in dollars."""
        tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
        return (tokens_in * self.input_usd + tokens_out * self.output_usd) / _MILLION


FREE = Prices(Decimal(0), Decimal(0))


@dataclass(frozen=True, slots=True)
class Reservation:
    """A call under way: its number in the ledger, what was thought of it, the most it may cost."""

    call: int
    thought: Usage
    bound: Usage
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Spent:
    """What calls used so far; `unsure_usd` is the part that no server confirmed."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: Decimal = Decimal(0)
    unsure_usd: Decimal = Decimal(0)

    def plus(self, usage: Usage, usd: Decimal, sure: bool) -> Spent:
        """With one more call counted."""
        return Spent(
            self.calls + 1,
            self.input_tokens + usage.input_tokens,
            self.output_tokens + usage.output_tokens,
            self.usd + usd,
            self.unsure_usd + (Decimal(0) if sure else usd),
        )


class Ledger:
    """The account of an endpoint. With a `path` it is kept there and goes on from there.

    `total` counts every run on record, `now` this process alone. Raises InputError where another
    process uses the file, or where it cannot be read.
    """

    def __init__(
        self, path: Path | None = None, prices: Prices = FREE, budget_usd: Decimal | None = None
    ) -> None:
        self.now = Spent()
        self.total = Spent()
        self._prices, self._budget_usd = prices, budget_usd
        self._held: dict[int, Decimal] = {}
        self._next = 1
        self._sized = False
        self._closed = False
        self._scale = 1.0
        self._changed = threading.Condition()
        self._journal = None if path is None else Journal(path)
        if path is not None and self._journal is not None:
            try:
                self._read(path)
            except BaseException:
                self._journal.close()
                raise

    def reserve(self, thought: Usage) -> Reservation | None:
        """Set aside what a call may cost; None where the budget cannot bear it any more.

        `thought` is the caller's upper bound. Where prompts of this process turned out to cost
        more than was thought, it is scaled by the worst case. While other calls are under way it
        waits for them: they may cost less than they reserved. With a budget the very first call
        goes alone, so that what it really costs is known before others are sent.
        """
        with self._changed:
            while True:
                bound = Usage(math.ceil(thought.input_tokens * self._scale), thought.output_tokens)
                usd = self._prices.cost(bound)
                if self._closed or not (self._held or self._fits(usd)):
                    return None
                if self._fits(usd):
                    break
                self._changed.wait()
            reservation = Reservation(self._next, thought, bound, usd)
            self._next += 1
            self._held[reservation.call] = usd
            if usd:
                self._write({"call": reservation.call, "reserved": _plain(bound, usd)})
            return reservation

    def settle(self, reservation: Reservation, usage: Usage | None, *, charged: bool) -> None:
        """Replace a reservation by what the call cost.

        `usage` None with `charged` means that nobody knows: the reserved bound counts. A call that
        was not charged costs nothing.
        """
        sure = usage is not None
        counted = usage or reservation.bound
        usd = self._prices.cost(counted)
        with self._changed:
            if self._held.pop(reservation.call, None) is None:
                return  # closed in the meantime: it stays on record as reserved
            if not charged:
                if reservation.usd:
                    self._write({"call": reservation.call, "void": True})
            else:
                self._learn(reservation.thought, usage)
                self._write({"call": reservation.call, "spent": _plain(counted, usd), "sure": sure})
                self.now = self.now.plus(counted, usd, sure)
                self.total = self.total.plus(counted, usd, sure)
            self._changed.notify_all()

    def close(self) -> None:
        """Release the file; calls that are still under way stay on record as reserved."""
        with self._changed:
            self._closed = True
            self._held.clear()
            self._changed.notify_all()
            if self._journal is not None:
                self._journal.close()
                self._journal = None

    def _learn(self, thought: Usage, usage: Usage | None) -> None:
        """Think of the next call as this one turned out, where that was worse."""
        if usage is not None:
            self._sized = True
            self._scale = max(self._scale, usage.input_tokens / max(1, thought.input_tokens))

    def _fits(self, usd: Decimal) -> bool:
        if self._budget_usd is None:
            return True
        if self._held and not self._sized:
            return False
        return self.total.usd + sum(self._held.values()) + usd <= self._budget_usd

    def _write(self, record: dict[str, object]) -> None:
        if self._journal is not None:
            self._journal.append(record)

    def _read(self, path: Path) -> None:
        """Count what is on record; calls without their `spent` count as reserved."""
        pending: dict[int, tuple[Usage, Decimal]] = {}
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                record = json.loads(line)
                call = int(record["call"])
                self._next = max(self._next, call + 1)
                if "reserved" in record:
                    pending[call] = _parsed(record["reserved"])
                    continue
                pending.pop(call, None)
                if not record.get("void"):
                    self.total = self.total.plus(*_parsed(record["spent"]), bool(record["sure"]))
            except (ValueError, LookupError, TypeError, ArithmeticError) as fault:
                raise InputError(
                    f"{path}:{number}: not a line of a ledger; restore the file, or remove it to "
                    "count from nothing"
                ) from fault
        for usage, usd in pending.values():
            self.total = self.total.plus(usage, usd, sure=False)


def _plain(usage: Usage, usd: Decimal) -> dict[str, object]:
    return {"input": usage.input_tokens, "output": usage.output_tokens, "usd": f"{usd:f}"}


def _parsed(record: dict[str, object]) -> tuple[Usage, Decimal]:
    usage = Usage(int(str(record["input"])), int(str(record["output"])))
    return usage, Decimal(str(record["usd"]))
