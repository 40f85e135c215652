"""Tokens and money: what was spent, what calls under way may cost, and a budget nobody overruns.

A call reserves an upper bound of its cost before it is sent and settles for the real cost
afterwards. Both are lines of an append-only file, so that a later run counts on; a call that a
killed process never settled counts with what it had reserved, because the server may have charged
for it. Money is exact: decimal dollars, tokens × price / 10⁶.

Several endpoints of a run share one file (`Ledger.beside`): what any of them spends counts against
the budget of each.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from groundling.errors import InputError
from groundling.journal import Journal
from groundling.models.api.wire import Usage
from groundling.strict_json import parse_json

_MILLION = Decimal(10**6)

SURPRISE = 40
"""How many times more than is thought of it a picture may cost, until the user says what it does:
GPT-4o-mini takes about 8500 tokens for one of 200 × 200 pixels, for which 225 are thought of."""


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


class _Book:
    """What the ledgers on one file share; guarded by `changed`."""

    def __init__(self, path: Path | None) -> None:
        self.total = Spent()
        self.held: dict[int, Decimal] = {}
        self.next = 1
        self.open = 1
        self.changed = threading.Condition()
        self.journal = None if path is None else Journal(path)
        if path is not None and self.journal is not None:
            try:
                self._read(path)
            except BaseException:
                self.journal.close()
                raise

    def write(self, record: dict[str, object]) -> None:
        if self.journal is not None:
            self.journal.append(record)

    def close_one(self) -> None:
        """Release the file once nobody uses it any more."""
        self.open -= 1
        if not self.open and self.journal is not None:
            self.journal.close()
            self.journal = None

    def _read(self, path: Path) -> None:
        """Count what is on record; calls without their `spent` count as reserved."""
        pending: dict[int, tuple[Usage, Decimal]] = {}
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                record = _Line.model_validate(parse_json(line))
            except ValueError as fault:
                raise InputError(
                    f"{path}:{number}: not a line of a ledger; restore the file, or remove it to "
                    "count from nothing"
                ) from fault
            self.next = max(self.next, record.call + 1)
            if record.reserved is not None:
                pending[record.call] = record.reserved.parsed
                continue
            pending.pop(record.call, None)
            if record.spent is not None:
                self.total = self.total.plus(*record.spent.parsed, record.sure)
        for usage, usd in pending.values():
            self.total = self.total.plus(usage, usd, sure=False)


class Ledger:
    """The account of an endpoint. With a `path` it is kept there and goes on from there.

    `total` counts every run on record and everybody on the same file, `now` this process and this
    account alone. Raises InputError where another process uses the file, or where it cannot be
    read.
    """

    def __init__(
        self, path: Path | None = None, prices: Prices = FREE, budget_usd: Decimal | None = None
    ) -> None:
        self._start(_Book(path), prices, budget_usd)

    def _start(self, book: _Book, prices: Prices, budget_usd: Decimal | None) -> None:
        self.now = Spent()
        self._book, self._prices, self._budget_usd = book, prices, budget_usd
        self._held: dict[int, Decimal] = {}
        self._settled = 0
        self._closed = False
        self._scale = 1.0

    def beside(self, prices: Prices, budget_usd: Decimal | None) -> Ledger:
        """Another account on the same file, whose budget all accounts there count against.

        The file is released when the last of them is closed.
        """
        other = Ledger.__new__(Ledger)
        with self._book.changed:
            self._book.open += 1
        other._start(self._book, prices, budget_usd)
        return other

    @property
    def total(self) -> Spent:
        """What everybody on this file spent, in all runs."""
        return self._book.total

    def reserve(self, thought: Usage, unknown: int = 0) -> Reservation | None:
        """Set aside what a call may cost; None where the budget cannot bear it any more.

        `thought` is the caller's upper bound, of which `unknown` prompt tokens are of pictures that
        may cost SURPRISE times as much. Where prompts of this process turned out to cost more than
        was thought, it is scaled by the worst case. With a budget, no more calls are under way than
        it could bear if each were such a surprise, so that one at most is sent in vain; nor more
        than have ended, and one. Otherwise a call waits: others may cost less than they reserved.
        """
        with self._book.changed:
            while True:
                bound = Usage(math.ceil(thought.input_tokens * self._scale), thought.output_tokens)
                usd = self._prices.cost(bound)
                alone = not self._book.held
                if self._closed or (alone and not self._fits(usd)):
                    return None
                worst = Usage(
                    max(bound.input_tokens, thought.input_tokens + (SURPRISE - 1) * unknown),
                    bound.output_tokens,
                )
                if alone or self._bears(usd, self._prices.cost(worst)):
                    break
                self._book.changed.wait()
            reservation = Reservation(self._book.next, thought, bound, usd)
            self._book.next += 1
            self._held[reservation.call] = usd
            # Alone it counts as thought; beside others, as the surprise that it may be.
            self._book.held[reservation.call] = max(usd, self._prices.cost(worst))
            if usd:
                self._book.write({"call": reservation.call, "reserved": _plain(bound, usd)})
            return reservation

    def settle(self, reservation: Reservation, usage: Usage | None, *, charged: bool) -> None:
        """Replace a reservation by what the call cost.

        `usage` None with `charged` means that nobody knows: the reserved bound counts. A call that
        was not charged costs nothing.
        """
        sure = usage is not None
        counted = usage or reservation.bound
        usd = self._prices.cost(counted)
        with self._book.changed:
            if self._held.pop(reservation.call, None) is None:
                return  # closed in the meantime: it stays on record as reserved
            self._book.held.pop(reservation.call)
            self._settled += 1
            if not charged:
                if reservation.usd:
                    self._book.write({"call": reservation.call, "void": True})
            else:
                self._learn(reservation.thought, usage)
                spent = {"call": reservation.call, "spent": _plain(counted, usd), "sure": sure}
                self._book.write(spent)
                self.now = self.now.plus(counted, usd, sure)
                self._book.total = self._book.total.plus(counted, usd, sure)
            self._book.changed.notify_all()

    def close(self) -> None:
        """Let go of the file; calls that are still under way stay on record as reserved."""
        with self._book.changed:
            if self._closed:
                return
            self._closed = True
            for call, usd in self._held.items():
                self._book.held.pop(call)
                # Of this run's total too: the other accounts must not spend it again.
                self._book.total = self._book.total.plus(Usage(0, 0), usd, sure=False)
            self._held.clear()
            self._book.changed.notify_all()
            self._book.close_one()

    def _learn(self, thought: Usage, usage: Usage | None) -> None:
        """Think of the next call as this one turned out, where that was worse."""
        if usage is not None:
            self._scale = max(self._scale, usage.input_tokens / max(1, thought.input_tokens))

    def _fits(self, usd: Decimal) -> bool:
        return self._budget_usd is None or self.total.usd + usd <= self._budget_usd

    def _bears(self, usd: Decimal, worst_usd: Decimal) -> bool:
        """Whether a call may go beside those that are under way."""
        if self._budget_usd is None or not usd:
            return True
        held = sum(self._book.held.values())
        return len(self._held) <= self._settled and self._fits(held + worst_usd)


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    input: int = Field(ge=0)
    output: int = Field(ge=0)
    usd: str = Field(pattern=r"^[0-9]+(\.[0-9]+)?$", max_length=100)

    @property
    def parsed(self) -> tuple[Usage, Decimal]:
        return Usage(self.input, self.output), Decimal(self.usd)


class _Line(BaseModel):
    """A line of the file: a call that is begun, or how it ended."""

    model_config = ConfigDict(strict=True, extra="forbid")

    call: int = Field(ge=1)
    reserved: _Record | None = None
    spent: _Record | None = None
    sure: bool = False
    void: Literal[True] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> _Line:
        said = (self.reserved, self.spent, self.void)
        if sum(part is not None for part in said) != 1:
            raise ValueError("wanted one of reserved, spent and void")
        return self


def _plain(usage: Usage, usd: Decimal) -> dict[str, object]:
    return {"input": usage.input_tokens, "output": usage.output_tokens, "usd": f"{usd:f}"}
