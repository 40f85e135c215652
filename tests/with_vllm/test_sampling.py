"""The vLLM sampler against the writer that it stands in for, with vLLM itself.

`./run test-vllm`; docs/vllm.md says with which vLLM.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import vllm_checkpoints
from overheard import Overheard, distances
from PIL import Image
from scipy.stats import chisquare

from groundling.errors import ImageError, InputError
from groundling.models.base import GREEDY, Demonstration, Sampling
from groundling.models.local import Adapter, LocalWriter
from groundling.models.packing import Row
from groundling.models.vllm_sampler import VllmSampler
from groundling.records import Expression, Failure, Query

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

QUERIES = tiny.QUERIES
SOURCE = "writer:x/0"
HOT = Sampling(temperature=0.8, max_new_tokens=24)
NEAR = 5e-4
"""Nats that the sum over an answer's tokens may differ by; the largest seen is 1.05e-4."""
TEXTS = [
    "the man with red hair on the left",
    "the woman with black hair",
    "a blue shirt",
    "the picture on the right",
    "a yellow shirt in the picture",
    "the man in a blue shirt",
]


def open_image(path: str) -> Image.Image:
    if path == "broken":
        raise ImageError("broken: the picture is damaged")
    if path == "thin":
        return Image.new("RGB", (5000, 10))
    return tiny.picture(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        vllm_checkpoints.write(made, "qwen2_vl", patch)
    return made


@pytest.fixture(scope="module")
def rounds(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters as two rounds would leave them; with the first, whole phrases are said."""
    made = vllm_checkpoints.writer(folder)
    lessons = [Demonstration(*pair) for pair in zip(QUERIES, TEXTS, strict=True)]
    optimiser = torch.optim.AdamW(made.trainable().values(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        made.sft_loss(lessons).backward()
        optimiser.step()
    folders = [tmp_path_factory.mktemp(f"round-{number}") for number in range(2)]
    made.save_adapter(folders[0])
    tiny.move(made, size=0.02)
    made.save_adapter(folders[1])
    return folders


@pytest.fixture(scope="module")
def sampler(folder: Path) -> Iterator[VllmSampler]:
    made = VllmSampler.load(
        str(folder),
        rank=vllm_checkpoints.RANK,
        dtype="float32",
        memory_share=0.2,
        longest=160,
        open_image=open_image,
    )
    yield made
    made.close()


@pytest.fixture
def writer(folder: Path) -> LocalWriter:
    return vllm_checkpoints.writer(folder)


def texts(rows: list[list[Expression] | Failure]) -> list[list[str]]:
    assert not any(isinstance(row, Failure) for row in rows), rows
    return [[one.text for one in row] for row in rows if not isinstance(row, Failure)]


def test_prompts_are_the_writers_own(
    sampler: VllmSampler, writer: LocalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler.follow(None)
    heard = Overheard(sampler, monkeypatch)
    sampler.sample(QUERIES, 1, GREEDY, 0, SOURCE)
    assert heard.prompts() == [prompt.ids for prompt in tiny.prompts(writer, QUERIES)]


def test_rounds_take_turns_and_score_as_the_writer_scores(
    sampler: VllmSampler,
    writer: LocalWriter,
    rounds: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = {}
    for turn, adapter in enumerate([rounds[0], rounds[1], None, rounds[0], rounds[1]]):
        with monkeypatch.context() as patch:
            heard = Overheard(sampler, patch)
            sampler.follow(adapter)
            drawn[turn] = texts(sampler.sample(QUERIES, 4, HOT, 0, SOURCE))
        if adapter is None:
            writer.restart_adapter(0)
        else:
            writer.load_adapter(adapter)
        apart = distances(writer, QUERIES, heard)
        assert len(apart) >= 12
        assert max(apart) < NEAR
    assert drawn[0] == drawn[3] != drawn[1] == drawn[4] != drawn[2]


def test_an_expression_carries_the_writers_score_of_its_text(
    sampler: VllmSampler, writer: LocalWriter, rounds: list[Path]
) -> None:
    sampler.follow(rounds[0])
    writer.load_adapter(rounds[0])
    rows = sampler.sample(QUERIES, 8, HOT, 0, SOURCE)
    pairs = [
        (query, one)
        for query, row in zip(QUERIES, rows, strict=True)
        if not isinstance(row, Failure)
        for one in row
        if one.text in TEXTS
    ]
    assert len(pairs) >= 12
    assert all(one.source == SOURCE for _, one in pairs)
    queries, said = zip(*pairs, strict=True)
    scores = writer.score(queries, [one.text for one in said])
    assert [one.logprob for one in said] == pytest.approx(scores, abs=NEAR)


def test_the_greedy_answer_is_the_writers(
    sampler: VllmSampler, writer: LocalWriter, rounds: list[Path]
) -> None:
    sampler.follow(rounds[0])
    writer.load_adapter(rounds[0])
    wanted = writer.sample(QUERIES, 2, GREEDY, 0, SOURCE)
    found = sampler.sample(QUERIES, 2, GREEDY, 0, SOURCE)
    assert texts(found) == texts(wanted) == [[text] * 2 for text in TEXTS]


def test_draws_depend_on_seed_and_query_alone(sampler: VllmSampler) -> None:
    sampler.follow(None)
    first = texts(sampler.sample(QUERIES, 4, HOT, 0, SOURCE))
    assert texts(sampler.sample(QUERIES, 4, HOT, 0, SOURCE)) == first
    assert texts(sampler.sample(QUERIES[::-1], 4, HOT, 0, SOURCE))[::-1] == first
    assert texts(sampler.sample(QUERIES[3:4], 4, HOT, 0, SOURCE)) == first[3:4]
    other = texts(sampler.sample(QUERIES, 4, HOT, 1, SOURCE))
    said = Counter(text for row in first + other for text in row)
    assert len(said) == 2 * 4 * len(QUERIES)


def first_tokens(writer: LocalWriter, query: Query, temperature: float) -> dict[str, float]:
    """The exact chances of each first token, by its text."""
    (prompt,) = tiny.prompts(writer, [query])
    size = len(writer.chat._processor.tokenizer)
    with torch.no_grad():
        every = Row(prompt, tuple((token,) for token in range(size)))
        logprobs, _ = writer.chat.engine.answer_logprobs([every])
    chances = torch.softmax(logprobs.double() / temperature, 0).tolist()
    by_text: dict[str, float] = {}
    for token, chance in enumerate(chances):
        text = writer.chat.wording.text((token,))
        by_text[text] = by_text.get(text, 0.0) + chance
    return by_text


def test_draws_follow_the_model_at_the_temperature_asked_for(
    sampler: VllmSampler, writer: LocalWriter
) -> None:
    """Whatever the checkpoint ships: temperature 0.01, top_k 1, top_p 0.001."""
    many = 3000
    sampler.follow(None)
    (row,) = texts(sampler.sample(QUERIES[:1], many, Sampling(0.8, 1), 0, SOURCE))
    seen = Counter(row)

    def fit(temperature: float) -> float:
        chances = first_tokens(writer, QUERIES[0], temperature)
        often = [text for text, chance in chances.items() if chance * many >= 5]
        assert len(often) > 10
        observed = [seen[text] for text in often]
        expected = [chances[text] * many for text in often]
        observed, expected = [*observed, many - sum(observed)], [*expected, many - sum(expected)]
        return float(chisquare(observed, expected).pvalue)

    assert fit(0.8) > 0.01
    assert max(fit(0.7), fit(1.0)) < 1e-6


def test_every_end_that_the_checkpoint_lists_ends_an_answer(
    sampler: VllmSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ended otherwise than the writer's answers do carries no log-probability."""
    sampler.follow(None)
    heard = Overheard(sampler, monkeypatch)
    rows = sampler.sample(QUERIES, 16, HOT, 0, SOURCE)
    answers = [answer for row in heard.answers() for answer, _ in row]
    usual, *others = sampler._known.ends
    assert vllm_checkpoints.SECOND_END in others
    assert not any({usual, *others} & set(answer[:-1]) for answer in answers)
    assert any(answer[-1] in others for answer in answers)
    expressions = [one for row in rows if not isinstance(row, Failure) for one in row]
    assert [one.logprob is None for one in expressions] == [
        answer[-1] != usual for answer in answers
    ]


def test_what_one_query_meets_is_its_own(sampler: VllmSampler) -> None:
    sampler.follow(None)
    bad = [
        Query("x#0", "broken", "Neymar", "PER"),
        Query("x#1", "thin", "Neymar", "PER"),
        Query("x#2", "square-1", "Ney<|im_end|>mar", "PER"),
        Query("x#3", "square-1", "Neymar " * 100, "PER"),
        Query("x#4", "square-1", "Neymar " * 40, "PER"),
    ]
    mixed = [query for pair in zip(bad, QUERIES, strict=False) for query in pair]
    rows = sampler.sample(mixed, 2, HOT, 0, SOURCE)
    assert rows[1::2] == sampler.sample(QUERIES[:5], 2, HOT, 0, SOURCE)
    failures = [row for row in rows[::2] if isinstance(row, Failure)]
    assert [failure.stage for failure in failures] == ["image", "image"] + ["prompt"] * 3
    assert failures[0].reason == "broken: the picture is damaged"
    assert "absolute aspect ratio" in failures[1].reason
    assert "control token" in failures[2].reason
    assert "maximum context length is 160 tokens" in failures[3].reason
    assert "leaves no room for 24 more in 160" in failures[4].reason


def test_the_process_stays_as_it_was(sampler: VllmSampler, rounds: list[Path]) -> None:
    def state() -> list[object]:
        return [
            torch.get_num_threads(),
            torch.set_num_threads,
            torch.get_rng_state().tolist(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
        ]

    before = state()
    sampler.follow(rounds[0])
    sampler.sample(QUERIES, 2, HOT, 0, SOURCE)
    assert state() == before


def test_adapters_that_do_not_fit(
    sampler: VllmSampler, folder: Path, rounds: list[Path], tmp_path: Path
) -> None:
    sampler.follow(rounds[0])
    before = sampler.sample(QUERIES[:1], 2, HOT, 0, SOURCE)
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        sampler.follow(tmp_path)
    large = LocalWriter.load(folder, adapter=Adapter(rank=8, alpha=8))
    large.save_adapter(tmp_path / "large")
    with pytest.raises(InputError, match="rank 8; vLLM was opened for at most 4"):
        sampler.follow(tmp_path / "large")
    tiny.writer().save_adapter(tmp_path / "narrow")  # of a model of another width
    with pytest.raises(InputError, match="wanted an adapter trained on the same base model"):
        sampler.follow(tmp_path / "narrow")
    assert sampler.sample(QUERIES[:1], 2, HOT, 0, SOURCE) == before
