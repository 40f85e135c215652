from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from client_calls import ask, chat, client
from fault_server import FaultServer, said

from groundling.models.api.cache import AnswerCache
from groundling.models.api.wire import Chat, Choice, answer_key, asked_digest, draw_seed

KEY = "ab" * 32


def stored(folder: Path) -> Path:
    AnswerCache(folder).store(KEY, Choice("a man", -1.5))
    return folder / "ab" / f"{KEY}.json"


def test_an_answer_comes_back(tmp_path: Path) -> None:
    stored(tmp_path)
    assert AnswerCache(tmp_path).find(KEY) == Choice("a man", -1.5)
    assert AnswerCache(tmp_path).find("cd" * 32) is None


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_a_torn_file_is_a_miss_and_is_replaced(cut: int, tmp_path: Path) -> None:
    path = stored(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    assert AnswerCache(tmp_path).find(KEY) is None
    stored(tmp_path)
    assert AnswerCache(tmp_path).find(KEY) == Choice("a man", -1.5)


@pytest.mark.parametrize(
    "change",
    [
        {"answer": {"text": "a woman", "logprob": -1.5}},
        {"key": "cd" * 32},
        {"sha256": "0"},
        {"answer": None},
    ],
)
def test_an_altered_file_is_a_miss(change: dict[str, object], tmp_path: Path) -> None:
    path = stored(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert AnswerCache(tmp_path).find(KEY) is None


def test_threads_may_store_the_same_answer(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    keys = [f"{n % 3:02x}" * 32 for n in range(60)]

    def store(part: list[str]) -> None:
        for key in part:
            cache.store(key, Choice(key))

    threads = [threading.Thread(target=store, args=(keys[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [cache.find(key) for key in keys] == [Choice(key) for key in keys]
    assert not list((tmp_path / ".tmp").iterdir())


STORE = """
import sys
from pathlib import Path
from groundling.models.api.cache import AnswerCache
from groundling.models.api.wire import Choice
cache = AnswerCache(Path(sys.argv[1]))
for n in range(150):
    cache.store(f"{n % 5:02x}" * 32, Choice("x" * 20000))
"""


def test_processes_may_store_the_same_answer(tmp_path: Path) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", STORE, str(tmp_path)]) for _ in "12"]
    cache = AnswerCache(tmp_path)
    while any(run.poll() is None for run in runs):
        for n in range(5):
            found = cache.find(f"{n:02x}" * 32)
            assert found is None or found == Choice("x" * 20000)
    assert [run.returncode for run in runs] == [0, 0]
    assert all(cache.find(f"{n:02x}" * 32) for n in range(5))


def test_what_a_kill_left_goes_after_an_hour(tmp_path: Path) -> None:
    AnswerCache(tmp_path)
    for name, age_s in (("1-1", 7200), ("2-2", 0)):
        left = tmp_path / ".tmp" / name / ".x.tmp"
        left.parent.mkdir()
        left.write_text("half")
        os.utime(left, (left.stat().st_atime, left.stat().st_mtime - age_s))
    AnswerCache(tmp_path)
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["2-2"]


def keys_of(asked: Chat, *where: Any) -> list[str]:
    return [answer_key(asked_digest(asked), *where, sample) for sample in range(4)]


def test_the_key_is_all_that_decides_an_answer() -> None:
    where = ("http://h/v1", "m", "vllm")
    keys = [
        *keys_of(chat("a", temperature=0.8), *where),
        *keys_of(chat("b", temperature=0.8), *where),
        *keys_of(chat("a", temperature=0.7), *where),
        *keys_of(chat("a", temperature=0.8, seed=1), *where),
        *keys_of(chat("a", temperature=0.8, max_tokens=17), *where),
        *keys_of(chat("a", temperature=0.8), "http://g/v1", "m", "vllm"),
        *keys_of(chat("a", temperature=0.8), "http://h/v1", "n", "vllm"),
        *keys_of(chat("a", temperature=0.8), "http://h/v1", "m", "openai"),
    ]
    assert len(set(keys)) == len(keys) == 32
    assert keys_of(chat("a", temperature=0.8, k=4), *where) == keys[:4]
    assert keys_of(chat("a", seed=0), *where) == keys_of(chat("a", seed=1), *where)


def test_seeds_go_by_what_is_asked_and_not_by_where() -> None:
    asked = [asked_digest(chat("a", temperature=0.8, seed=seed)) for seed in range(50)]
    seeds = {draw_seed(one, sample) for one in asked for sample in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_only_missing_samples_are_asked_for(tmp_path: Path) -> None:
    drawn = {"temperature": 0.8}
    with FaultServer(said("a", "b"), said("c", "d"), said("e", "f", "g")) as server:
        two = ask(client(server, cache=tmp_path), chat(k=2, **drawn))
        four = ask(client(server, cache=tmp_path), chat(k=4, **drawn))
        again = ask(client(server, cache=tmp_path), chat(k=4, **drawn))
    assert two == [[Choice("a"), Choice("b")]]
    assert four == again == [[Choice(text) for text in "abcd"]]
    assert [asked.body["n"] for asked in server.asked] == [2, 2]
    assert server.asked[0].body["seed"] != server.asked[1].body["seed"]
