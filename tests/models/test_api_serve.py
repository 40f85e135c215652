"""Against `transformers serve` itself, in a process of its own, with the packaged writer.

Needs the extra `transformers[serving]`. docs/api.md says what was tried and when.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from endpoint_data import run, write_data
from PIL import Image
from serve_stills import Still
from transformers import Qwen2VLForConditionalGeneration

from groundling.data.expressions_jsonl import read_expressions
from groundling.data.jsonl import read_predictions
from groundling.errors import InputError
from groundling.images import load_image
from groundling.models.base import GREEDY, Sampling
from groundling.models.endpoints import Endpoint, endpoint_config
from groundling.models.registry import packaged
from groundling.prompts import writer_messages
from groundling.records import Expression, Failure, Query

MISSING = [name for name in ("fastapi", "uvicorn", "openai") if not importlib.util.find_spec(name)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"needs the extra serving; not installed: {', '.join(MISSING)}"
    ),
]

SOURCE = "writer:x/0"
HOT = Sampling(temperature=2.5, max_new_tokens=64)
"""Hot enough for the packaged writer, which is very sure of itself, to say different things."""
NEARLY_GREEDY = {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.001}
"""What Qwen2-VL's checkpoints ship, and what must never apply."""
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Served:
    """A running server and the checkpoint it serves."""

    url: str
    folder: str

    def endpoint(self, **settings: object) -> Endpoint:
        base = {"endpoint": self.url, "model": self.folder, "server": "transformers"}
        alone = {"api_key_env": None, "concurrency": 1, "picture_format": "png", "attempts": 2}
        return Endpoint(endpoint_config(base | alone | settings))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("serve")
    folder = root / "writer"
    shutil.copytree(packaged("writer"), folder)
    shipped = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(shipped | NEARLY_GREEDY))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hf"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, Path(__file__).with_name("serve_stills.py"), folder, str(port)]
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | offline
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, root / "log")
            yield Served(f"http://127.0.0.1:{port}/v1", str(folder))
        finally:
            server.kill()
            server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the server is well; fail with the end of its log."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end and server.poll() is None:
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"no server: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> list[Query]:
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for number, name in enumerate(("Mara Quill", "Novalis", "Jonas Berg")):
        path = folder / f"{number}.png"
        shade = Image.linear_gradient("L").resize((112, 112)).rotate(90 * number)
        Image.merge("RGB", (shade, shade.rotate(180), shade)).save(path)
        found.append(Query(f"p#{number}", str(path), name, "PER"))
    return found


def texts(rows: list[list[Expression] | Failure]) -> list[list[str]]:
    assert not any(isinstance(row, Failure) for row in rows), rows
    return [[one.text for one in row] for row in rows if not isinstance(row, Failure)]


def greedy_in_this_process(folder: str, queries: list[Query]) -> list[str]:
    """By transformers alone, one query at a time."""
    processor = Still.from_pretrained(folder)
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype="auto")
    found = []
    for query in queries:
        prompt = processor.apply_chat_template(
            writer_messages(query.name, query.type), add_generation_prompt=True, tokenize=False
        )
        picture = load_image(query.image)
        inputs = processor(text=[prompt], images=[picture], return_tensors="pt")
        settings = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
        answer = model.generate(**inputs, **settings, max_new_tokens=64)
        tokens = answer[0, inputs["input_ids"].shape[1] :]
        found.append(processor.decode(tokens, skip_special_tokens=True).strip())
    return found


def test_greedy_answers_are_those_of_the_same_weights_in_this_process(
    served: Served, queries: list[Query]
) -> None:
    wanted = [[text] for text in greedy_in_this_process(served.folder, queries)]
    with served.endpoint() as endpoint:
        found = texts(endpoint.writer().sample(queries, 1, GREEDY, 0, SOURCE))
        bill = endpoint.bill()
    assert found == wanted
    assert bill.calls == 3
    assert bill.input_tokens > 3 * 16  # pictures and all
    assert bill.output_tokens >= 3


def test_draws_differ_whatever_the_checkpoint_ships_and_repeat_with_the_seed(
    served: Served, queries: list[Query]
) -> None:
    with served.endpoint() as endpoint:
        writer = endpoint.writer()
        rows = [texts(writer.sample(queries[:1], 8, HOT, seed, SOURCE))[0] for seed in (0, 0, 1)]
    assert len(rows[0]) == 8
    assert rows[0] == rows[1] != rows[2]
    assert len(set(rows[0] + rows[2])) > 3


def test_without_its_own_fields_the_shipped_settings_apply(
    served: Served, queries: list[Query]
) -> None:
    """Why the server must be named: as plain OpenAI it draws K times the same."""
    with served.endpoint(server="openai") as endpoint:
        rows = texts(endpoint.writer().sample(queries[:1], 4, HOT, 0, SOURCE))
        assert endpoint.bill().calls == 4  # it ignores n: asked for the rest
    assert len(set(rows[0])) == 1


def test_calls_that_it_refuses(served: Served, queries: list[Query]) -> None:
    with served.endpoint(model="another") as endpoint:
        (row,) = endpoint.writer().sample(queries[:1], 1, GREEDY, 0, SOURCE)
    assert isinstance(row, Failure)
    assert row.reason.startswith("HTTP 400: Server is pinned to")
    with served.endpoint(server="vllm") as endpoint:
        (row,) = endpoint.writer().sample(queries[:1], 1, HOT, 0, SOURCE)
    assert isinstance(row, Failure)
    assert row.reason.startswith("HTTP 422: Unexpected fields")
    away = served.url.removesuffix("/v1")
    with served.endpoint(endpoint=away) as endpoint, pytest.raises(InputError, match=r"\(/v1\)"):
        endpoint.writer().sample(queries[:1], 1, GREEDY, 0, SOURCE)


def test_the_commands(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path, 3)
    where = ["--endpoint", served.url, "--model", served.folder, "--server", "transformers"]
    where += ["--api-key-env", "", "--concurrency", 2, "--quiet", "--json"]
    experts = run(capsys, "experts", data, "--out", tmp_path / "e.jsonl", *where)
    assert (experts.code, experts.err) == (0, "")
    assert (experts.json["written"], experts.json["absent"], experts.json["calls"]) == (3, 3, 3)
    assert len(read_expressions(tmp_path / "e.jsonl")) == 6
    # The packaged writer was never taught to answer with boxes.
    direct = run(capsys, "direct", data, "--out", tmp_path / "p.jsonl", *where)
    assert direct.code == 1
    assert direct.json["failed_posts"] == 3
    assert {one.failure.stage for one in read_predictions(tmp_path / "p.jsonl") if one.failure} == {
        "parse"
    }
