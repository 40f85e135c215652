from __future__ import annotations

import json
import threading
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from client_calls import PRICES, USAGE, FakeClock, ask, chat, client
from fault_server import Act, Asked, FaultServer, completion, refused, said

from groundling.assistants import Assistants
from groundling.errors import InputError
from groundling.models.api.ledger import Ledger, Reservation, Spent
from groundling.models.api.wire import Choice, Usage
from groundling.models.base import Question
from groundling.records import Failure

BOUND = Usage(1000, 100)
"""Costs 0.0035 dollars at PRICES."""
SPENT = Failure("the budget is used up; run again with a larger one", "budget")


def ledger(path: Path | None = None, budget: str | None = None) -> Ledger:
    return Ledger(path, PRICES, None if budget is None else Decimal(budget))


def on_record(path: Path) -> Spent:
    """What a ledger's file adds up to."""
    with closing(ledger(path)) as book:
        return book.total


def message(text: str) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def reserved(book: Ledger, bound: Usage = BOUND) -> int:
    made = book.reserve(bound)
    assert made is not None
    return made.call


# --- the book ----------------------------------------------------------------------------------


def test_money_is_exact() -> None:
    book = ledger()
    for _ in range(1000):
        made = book.reserve(BOUND)
        assert made is not None
        book.settle(made, Usage(1, 1), charged=True)
    assert book.total.usd == Decimal("0.0125")
    assert (book.total.calls, book.total.input_tokens, book.total.output_tokens) == (1000,) * 3


def test_a_later_run_counts_on(tmp_path: Path) -> None:
    for run in range(3):
        book = ledger(tmp_path / "l")
        assert book.total.usd == run * USAGE
        made = book.reserve(BOUND)
        assert made is not None
        book.settle(made, Usage(100, 10), charged=True)
        assert (book.now.usd, book.now.calls) == (USAGE, 1)
        book.close()


def test_calls_of_a_killed_process_count_as_reserved(tmp_path: Path) -> None:
    path = tmp_path / "l"
    book = ledger(path)
    made = book.reserve(BOUND)
    assert made is not None
    book.settle(made, Usage(100, 10), charged=True)
    reserved(book)  # never settled
    book.close()
    with path.open("ab") as stream:
        stream.write(b'{"call": 3, "reser')  # and a line cut off by the kill
    again = ledger(path)
    assert again.total.usd == USAGE + Decimal("0.0035")
    assert again.total.unsure_usd == Decimal("0.0035")
    assert reserved(again) == 3
    again.close()
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_settling_after_closing_leaves_the_reservation(tmp_path: Path) -> None:
    book = ledger(tmp_path / "l")
    made = book.reserve(BOUND)
    assert made is not None
    book.close()
    book.settle(made, Usage(1, 1), charged=True)
    assert on_record(tmp_path / "l").unsure_usd == Decimal("0.0035")


def test_what_is_not_charged_costs_nothing(tmp_path: Path) -> None:
    book = ledger(tmp_path / "l")
    made = book.reserve(BOUND)
    assert made is not None
    book.settle(made, None, charged=False)
    book.close()
    assert on_record(tmp_path / "l").calls == 0


def test_two_processes_cannot_share_a_ledger(tmp_path: Path) -> None:
    book = ledger(tmp_path / "l")
    with pytest.raises(InputError, match="another process"):
        ledger(tmp_path / "l")
    book.close()
    ledger(tmp_path / "l").close()


SPENT_LINE = '{"call": 1, "spent": {"input": 1, "output": 1, "usd": "USD"}, "sure": true}'


@pytest.mark.parametrize(
    "line",
    [
        *("{}", '{"call": 1, "spent": {}}', "5", '{"call": "x"}', '{"call": 0, "void": true}'),
        *(SPENT_LINE.replace("USD", usd) for usd in ("-1000", "NaN", "Infinity", "1e-400", "")),
        SPENT_LINE.replace('"USD"', "NaN"),
        SPENT_LINE.replace("USD", "1").replace('"input": 1', '"input": -1'),
        SPENT_LINE.replace("USD", "1").replace("true", "1"),
        '{"call": 1, "call": 2, "void": true}',
        '{"call": 1, "void": false}',
        "[" * 100_000,
    ],
)
def test_a_line_that_is_none_is_told(line: str, tmp_path: Path) -> None:
    (tmp_path / "l").write_text(line + "\n")
    for _ in "12":  # and the lock is given back
        with pytest.raises(InputError, match=r"l:1: not a line of a ledger"):
            ledger(tmp_path / "l")


def test_a_call_waits_for_others_before_it_is_refused() -> None:
    book = ledger(budget="0.0078")
    first = book.reserve(BOUND)
    assert first is not None
    book.settle(first, Usage(100, 10), charged=True)  # room for two, not for three
    held = [book.reserve(BOUND), book.reserve(BOUND)]
    got: list[object] = []
    waiting = threading.Thread(target=lambda: got.append(book.reserve(BOUND)), daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    assert held[0] is not None
    book.settle(held[0], Usage(100, 10), charged=True)
    waiting.join(2)
    assert [made is not None for made in got] == [True]
    for made in (held[1], got[0]):
        assert isinstance(made, Reservation)
        book.settle(made, BOUND, charged=True)
    assert book.reserve(BOUND) is None


def test_closing_frees_who_waits() -> None:
    book = ledger(budget="0.004")
    reserved(book)
    got: list[object] = []
    waiting = threading.Thread(target=lambda: got.append(book.reserve(BOUND)), daemon=True)
    waiting.start()
    waiting.join(0.02)
    assert waiting.is_alive()
    book.close()
    waiting.join(2)
    assert got == [None]


# --- behind a client ---------------------------------------------------------------------------


def test_a_budget_is_never_overrun_however_many_ask(tmp_path: Path) -> None:
    budget = Decimal("0.0050")
    slow = Act(body=completion("ok", usage=(100, 10)), silent_s=0.01)
    with FaultServer(slow) as server:
        book = Ledger(tmp_path / "l", PRICES, budget)
        chats = [chat(str(n), max_tokens=100) for n in range(60)]
        found = ask(client(server, concurrency=16, ledger=book), *chats)
        answered = sum(answers == [Choice("ok")] for answers in found)
        assert found.count(SPENT) == 60 - answered
        assert answered == len(server.asked)
        assert book.total.usd == answered * USAGE <= budget
        # All but what cannot hold one more reservation (100 × 10 + a little) is used.
        assert budget - book.total.usd < Decimal("0.0014")
        assert server.most_at_once >= 2


def test_a_larger_budget_goes_on_and_the_cache_is_free(tmp_path: Path) -> None:
    chats = [chat(str(n)) for n in range(8)]
    with FaultServer(said("ok", usage=(100, 10))) as server:

        def run(budget: str) -> tuple[int, Ledger]:
            book = ledger(tmp_path / "l", budget)
            found = ask(client(server, ledger=book, cache=tmp_path / "c"), *chats)
            return found.count(SPENT), book

        spent, first = run("0.0015")
        assert 0 < spent < 8
        assert first.total.usd <= Decimal("0.0015")
        again, second = run("0.0015")
        assert second.now.calls <= 1
        left, third = run("1")
        assert left == 0
        assert third.total.usd == 8 * USAGE
        assert len(server.asked) == 8
        none, fourth = run("0")
        assert (none, fourth.now.calls) == (0, 0)
        assert again <= spent


def test_the_first_call_shows_what_a_picture_costs() -> None:
    """Prompts that cost far more than was thought: only the first call is a surprise."""
    with FaultServer(said("ok", usage=(40_000, 10))) as server:
        book = ledger(budget="0.25")
        found = ask(client(server, concurrency=8, ledger=book), *map(chat, "abcdefgh"))
        assert server.most_at_once <= 2
    assert found.count([Choice("ok")]) == 2
    assert found.count(SPENT) == 6
    assert book.total.usd == 2 * Decimal("0.1001") <= Decimal("0.25")


def test_without_usage_the_bound_is_charged() -> None:
    with FaultServer(Act(body=completion("ok", usage=None))) as server:
        book = ledger()
        asked = chat(max_tokens=16)
        ask(client(server, ledger=book), asked)
    assert book.now.usd == book.now.unsure_usd == PRICES.cost(Usage(asked.input_tokens, 16))


@pytest.mark.parametrize(
    ("act", "charged"),
    [
        (refused(500), False),
        (refused(429), False),
        (refused(400), False),
        (Act(reset=True), True),
        (Act(cut=4), True),
        (Act(body=b"{"), True),
        (Act(silent_s=0.2), True),
    ],
)
def test_what_the_server_may_have_charged_for_counts(act: Act, charged: bool) -> None:
    with FaultServer(act) as server:
        book = ledger()
        asked = chat()
        limit_s = 0.05 if act.silent_s else 5.0
        ask(client(server, ledger=book, attempts=2, read_timeout_s=limit_s), asked)
    bound = PRICES.cost(Usage(asked.input_tokens, 16))
    assert book.now.usd == book.now.unsure_usd == (2 * bound if charged else 0)


def test_a_strange_reply_with_usage_costs_what_it_says() -> None:
    strange = Act(body=b'{"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}')
    with FaultServer(strange) as server:
        book = ledger()
        ask(client(server, ledger=book, attempts=1), chat())
    assert (book.now.usd, book.now.unsure_usd) == (USAGE, 0)


def test_a_failed_answer_costs_money_all_the_same() -> None:
    with FaultServer(said("a man wi", finish="length", usage=(100, 10))) as server:
        book = ledger()
        ask(client(server, ledger=book), chat())
    assert book.now.usd == USAGE


def test_a_refused_call_holds_no_money(tmp_path: Path) -> None:
    book = ledger(tmp_path / "l", "1")
    with FaultServer(refused(401)) as server, pytest.raises(InputError):
        ask(client(server, ledger=book, clock=FakeClock()), chat())
    assert on_record(tmp_path / "l").usd == 0


def test_stages_on_one_file_share_one_budget(tmp_path: Path) -> None:
    """Each stage alone would stay within it; together they spent nearly twice as much."""
    dear = {"price_input": 2.5, "price_output": 10.0, "budget": 0.0015, "api_key_env": None}
    questions = [
        Question(lambda _, text=text: [message(text)], lambda text, _: text, max_tokens=16)
        for text in "abcd"
    ]
    with FaultServer(said("ok", usage=(100, 10))) as server:
        common = {"endpoint": server.url, "model": "m", **dear}
        with Assistants(common, None, tmp_path) as assistants:
            stages = [
                assistants.open(name, {}) for name in ("synthesis", "refinement", "grounding")
            ]
            found = [answer for stage in stages for _, answer in stage.ask(questions)]
    spent = on_record(tmp_path / "ledger.jsonl")
    assert spent.usd == len(server.asked) * USAGE <= Decimal("0.0015")
    assert SPENT in found
    assert len(server.asked) >= 3


def test_an_account_that_is_closed_leaves_the_file_to_the_others(tmp_path: Path) -> None:
    book = ledger(tmp_path / "l", "0.004")
    other = book.beside(PRICES, Decimal("0.004"))
    reserved(other)
    other.close()
    assert book.reserve(BOUND) is None, "what the other held may have been charged for"
    assert book.total.unsure_usd == Decimal("0.0035")
    book.close()
    assert on_record(tmp_path / "l").unsure_usd == Decimal("0.0035")


def test_pictures_of_mixed_cost_overrun_by_one_call_at_most() -> None:
    def script(asked: Asked) -> Act:
        return said("ok", usage=(40_000 if asked.text in "cf" else 100, 10))

    with FaultServer(script=script) as server:
        book = ledger(budget="0.05")
        chats = [chat(text, picture_tokens=1000) for text in "abcdefgh"]
        found = ask(client(server, concurrency=8, ledger=book), *chats)
    assert found.count([Choice("ok")]) == len(server.asked)
    assert book.total.usd <= Decimal("0.05") + Decimal("0.1001")
    assert found.count(SPENT) >= 1


def test_calls_go_together_before_one_is_confirmed() -> None:
    """One at a time, a server that hangs would be given up only after hours."""
    book = ledger(budget="1")
    first = book.reserve(BOUND)
    assert first is not None
    waiting = threading.Thread(target=lambda: book.reserve(BOUND), daemon=True)
    waiting.start()
    waiting.join(0.02)
    assert waiting.is_alive(), "the first goes alone"
    book.settle(first, None, charged=True)
    waiting.join(2)
    reserved(book)


def test_a_picture_is_thought_of_as_dear_beside_others_alone() -> None:
    book = ledger(budget="0.2")
    for _ in range(3):
        made = book.reserve(BOUND, unknown=1000)
        assert made is not None
        book.settle(made, Usage(100, 10), charged=True)
    reserved(book)  # 0.0035 held, and 40 × 1000 tokens cost 0.1
    assert book.reserve(BOUND, unknown=1000) is not None
    waiting = threading.Thread(target=lambda: book.reserve(BOUND, unknown=1000), daemon=True)
    waiting.start()
    waiting.join(0.02)
    assert waiting.is_alive()
    book.close()
    waiting.join(2)
