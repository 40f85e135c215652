"""Many calls at once, what counts as an answer, and adapters."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
from client_calls import PRICES, USAGE, ask, chat, client, one
from fault_server import Act, Asked, FaultServer, completion, refused, said

from groundling.errors import ImageError, InputError
from groundling.models.api.ledger import Ledger
from groundling.models.api.wire import Chat, Choice
from groundling.records import Failure

pytestmark = pytest.mark.usefixtures("api_key")


# --- many at once --------------------------------------------------------------------------------


def test_order_is_kept_nothing_lost_nothing_doubled(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    faults = [refused(429), refused(500), Act(cut=5), Act(reset=True), Act(body=b"{")]

    def script(asked: Asked) -> Act:
        seen[asked.text] += 1
        number = int(asked.text)
        if number % 10 == 9:
            return refused(400, "never")
        bad = seen[asked.text] <= number % 3
        answer = Act(body=completion(f"about {number}"), silent_s=0.003)
        return faults[number % len(faults)] if bad else answer

    chats = [chat(str(number)) for number in range(60)]
    with FaultServer(script=script) as server:
        ledger = Ledger(tmp_path / "ledger", PRICES)
        found = ask(client(server, concurrency=6, cache=tmp_path / "c", ledger=ledger), *chats)
        asked = len(server.asked)
        again = ask(client(server, concurrency=6, cache=tmp_path / "c"), *chats)
    wanted = [
        Failure("HTTP 400: never", "answer") if n % 10 == 9 else [Choice(f"about {n}")]
        for n in range(60)
    ]
    assert found == wanted
    assert again == wanted
    assert len(server.asked) == asked + 6  # only what failed was asked again
    assert len(list((tmp_path / "c").rglob("*.json"))) == 54
    assert 2 <= server.most_at_once <= 6
    # 54 answers are sure; resets, cuts and truncated replies count with their bound.
    assert ledger.now.usd - ledger.now.unsure_usd == 54 * USAGE
    unsure = sum(n % 3 for n in range(60) if n % 10 != 9 and n % 5 in (2, 3, 4))
    assert ledger.now.calls == 54 + unsure


def test_a_picture_that_cannot_be_read_is_a_failure_of_its_query() -> None:
    def broken() -> Chat:
        raise ImageError("p.png: no such file; check the name")

    with FaultServer(said("ok")) as server, client(server) as asker:
        found = dict(asker.ask([broken, chat]))
    assert found == {0: Failure("p.png: no such file; check the name", "image"), 1: [Choice("ok")]}


def test_nothing_to_ask() -> None:
    with FaultServer(said("ok")) as server:
        assert ask(client(server)) == []


def test_what_a_job_raises_goes_through() -> None:
    def broken() -> Chat:
        raise KeyError("a mistake of ours")

    start_s = time.monotonic()
    with FaultServer(said("ok")) as server, client(server) as asker, pytest.raises(KeyError):
        list(asker.ask([broken]))
    assert time.monotonic() - start_s < 2


# --- what counts as an answer --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "reason", "kind"),
    [
        (said("a man wi", finish="length"), "cut off at 16 tokens; raise max_tokens", "cut"),
        (said("", finish="content_filter"), "withheld by a content filter", "filtered"),
        (said("  "), "an empty answer", "empty"),
        (Act(body=completion(None)), "an empty answer", "empty"),
        (Act(body=completion(None, refusal="I can't help")), "refused: I can't help", "refused"),
        (said("x", finish="tool_calls"), "ended by 'tool_calls'; wanted 'stop'", ""),
        (said("m" * 600), "600 characters, where 16 tokens were asked for", "beyond-limit"),
    ],
)
def test_no_answer_has_its_own_reason(act: Act, reason: str, kind: str, tmp_path: Path) -> None:
    with FaultServer(act) as server:
        assert one(client(server, cache=tmp_path)) == [Failure(reason, "answer", kind)]
    assert len(server.asked) == 1
    assert not list(tmp_path.rglob("*.json"))


# --- adapters ------------------------------------------------------------------------------------


def adapter(folder: Path, weights: bytes = b"w") -> Path:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def test_an_adapter_is_loaded_and_asked_for(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "round-1")
    loaded = Act(200, b"Success: LoRA adapter added successfully.")
    with FaultServer(loaded, said("ok")) as server, client(server, server="vllm") as asker:
        name = asker.load_adapter(folder)
        assert dict(asker.ask([chat])) == {0: [Choice("ok")]}
    load, question = server.asked
    assert load.path == "/v1/load_lora_adapter"
    assert load.body == {"lora_name": name, "lora_path": str(folder.resolve())}
    assert question.body["model"] == name


def test_an_adapters_name_is_its_weights(tmp_path: Path) -> None:
    folders = [adapter(tmp_path / str(n), weights) for n, weights in enumerate([b"1", b"2", b"1"])]
    there = refused(400, "The lora adapter has already been loaded.")
    with FaultServer(Act(200, b""), Act(200, b""), there) as server, client(server) as asker:
        names = [asker.load_adapter(folder) for folder in folders]
    assert names[0] == names[2] != names[1]


def test_an_adapter_that_is_not_taken(tmp_path: Path) -> None:
    with FaultServer(refused(404, "Not Found")) as server, client(server) as asker:
        with pytest.raises(InputError, match="--enable-lora"):
            asker.load_adapter(adapter(tmp_path / "a"))
        with pytest.raises(InputError, match=r"no adapter_model\.safetensors"):
            asker.load_adapter(tmp_path)
        assert asker.model == "m"
