"""Every family of writers against its own stock forward pass and `generate`."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tiny
import tiny_families
import torch
from peft import PeftModel
from transformers import GenerationConfig, LlamaConfig, LogitsProcessor

from groundling.errors import ImageError, InputError
from groundling.losses import IGNORE, dpo_loss, sequence_logprobs
from groundling.models import stock
from groundling.models.base import Demonstration, Preference, Sampling
from groundling.models.decoding import Noise
from groundling.models.families import FAMILIES, family_of
from groundling.models.local import Adapter, LocalWriter, Resources
from groundling.models.packing import Row, sum_by_answer
from groundling.prompts import writer_messages
from groundling.records import Failure, Query

QUERIES = tiny.QUERIES[1:5]  # three sizes, four prompt lengths
CHOSEN = ["the man on the left", "the tower", "a", "the woman with black hair"]
REJECTED = ["the woman", "The entity does not appear in the image.", "the red one", "b c"]
REFERENCE = [(-20.0, -31.5), (-17.25, -40.0), (-9.0, -12.0), (-30.0, -8.5)]
STEPS = 5
NAMES = sorted(tiny_families.FAMILIES)


def make(name: str, **resources) -> LocalWriter:
    """A tiny writer of the family whose adapter has already moved."""
    model, processor = tiny_families.build(name)
    made = LocalWriter.from_parts(
        model,
        processor,
        adapter=Adapter(rank=4, alpha=8, seed=0),
        resources=Resources(engine="stock", open_image=tiny.picture, **resources),
    )
    tiny.move(made)
    return made


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def writer(name) -> LocalWriter:
    return make(name)


@pytest.fixture(scope="module")
def processor(name):
    return tiny_families.build(name)[1]


def together(processor, queries, ending: str = "") -> dict[str, torch.Tensor]:
    """The stock processor's left-padded batch of prompts and the text after them."""
    texts = [
        processor.apply_chat_template(
            writer_messages(query.name, query.type), add_generation_prompt=True, tokenize=False
        )
        + ending
        for query in queries
    ]
    pictures = [[tiny.picture(query.image)] for query in queries]
    return dict(processor(text=texts, images=pictures, padding=True, return_tensors="pt"))


def alone(processor, query, ending: str = "") -> dict[str, torch.Tensor]:
    """The stock processor's inputs for one prompt and the text after it."""
    return together(processor, [query], ending)


def plain(writer, processor, texts: list[str]) -> torch.Tensor:
    """log π(text + end | query), each from a sequence of its own, with gradient."""
    values = []
    for query, text in zip(QUERIES, texts, strict=True):
        prompt = alone(processor, query)["input_ids"].shape[1]
        batch = alone(processor, query, text + "<|im_end|>")
        labels = batch["input_ids"].clone()
        labels[:, :prompt] = IGNORE
        values.append(sequence_logprobs(writer.model(**batch).logits, labels)[0])
    return torch.stack(values)


def gradients(writer, loss: torch.Tensor) -> torch.Tensor:
    grads = torch.autograd.grad(loss, list(writer.trainable().values()))
    return torch.cat([one.flatten() for one in grads])


class ByNoise(LogitsProcessor):
    """Makes greedy `generate` take the tokens that invert the distribution function at `noise`."""

    def __init__(self, noise: np.ndarray, temperature: float) -> None:
        self.noise = torch.from_numpy(noise).unbind(1)
        self.temperature = temperature
        self.seen: list[torch.Tensor] = []

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        goal = self.noise[len(self.seen)]
        self.seen.append(scores.clone())
        shares = (scores.double() / self.temperature).softmax(-1).cumsum(-1)
        tokens = torch.searchsorted(shares, goal[:, None].contiguous(), right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, 0.0)


@pytest.fixture
def kept(monkeypatch) -> list[torch.Tensor]:
    """The logits that an engine computes, call by call."""
    calls: list[torch.Tensor] = []
    original = stock.StockEngine.logits

    def recording(self, hidden):
        calls.append(original(self, hidden))
        return calls[-1]

    monkeypatch.setattr(stock.StockEngine, "logits", recording)
    return calls


def test_sampling_equals_generate_with_the_same_noise(writer, processor, kept, monkeypatch):
    """Same tokens, same logits but for rounding, in a batch of mixed lengths and picture sizes."""
    monkeypatch.setattr(writer.chat.wording, "ends", (-1,))
    noise = np.stack([Noise(3, STEPS).of(query.id, 2) for query in QUERIES])
    with torch.no_grad():
        ours = writer.chat.engine.draw(tiny.prompts(writer, QUERIES), noise, 0.8, STEPS)
    batch = together(processor, QUERIES)
    for k in range(2):
        chooser = ByNoise(noise[:, k], 0.8)
        theirs = writer.model.generate(
            **batch,
            logits_processor=[chooser],
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=STEPS, eos_token_id=0, pad_token_id=0
            ),
        )[:, batch["input_ids"].shape[1] :]
        assert [list(row[k].tokens) for row in ours] == theirs.tolist()
        for step, scores in enumerate(chooser.seen):
            rows = kept[step] if step == 0 else kept[step][k::2]
            tiny.assert_near(rows, scores)


def test_a_batch_gives_what_each_prompt_gives_alone(name, writer, kept, monkeypatch):
    """Left padding, padded tiles and neighbours change nothing."""
    monkeypatch.setattr(writer.chat.wording, "ends", (-1,))
    engine = writer.chat.engine
    with torch.no_grad():
        every = engine.draw(tiny.prompts(writer, QUERIES), None, 0.0, STEPS)
        batch = [logits.clone() for logits in kept]
        for place, query in enumerate(QUERIES):
            kept.clear()
            (one,) = engine.draw(tiny.prompts(writer, [query]), None, 0.0, STEPS)[0]
            assert one.tokens == every[place][0].tokens
            for step, logits in enumerate(kept):
                # linear attention works in chunks, which padding shifts: it rounds differently
                if name == "qwen3_5":
                    torch.testing.assert_close(batch[step][place], logits[0], rtol=0, atol=1e-4)
                else:
                    tiny.assert_near(batch[step][place], logits[0])


def test_answers_that_end_leave_the_batch(writer, processor, monkeypatch):
    """Dropping finished rows changes no answer, and log-probabilities are those of scoring."""
    runs = []
    monkeypatch.setattr(writer.chat.wording, "ends", (299,))
    engine = writer.chat.engine
    noise = np.stack([Noise(5, 12).of(query.id, 8) for query in QUERIES])
    with torch.no_grad():
        free = engine.draw(tiny.prompts(writer, QUERIES), noise, 0.5, 12)
    often = max(
        {token for row in free for one in row for token in one.tokens},
        key=lambda token: sum(one.tokens.count(token) for row in free for one in row),
    )
    monkeypatch.setattr(writer.chat.wording, "ends", (often,))
    for thin in (0.0, 1.1):
        monkeypatch.setattr(stock, "THIN", thin)
        with torch.no_grad():
            runs.append(engine.draw(tiny.prompts(writer, QUERIES), noise, 0.5, 12))
    assert [[one.tokens for one in row] for row in runs[0]] == [
        [one.tokens for one in row] for row in runs[1]
    ]
    assert len({len(one.tokens) for row in runs[0] for one in row}) > 2
    prompts = tiny.prompts(writer, QUERIES)
    ended = [
        (one.logprob, Row(prompts[place], ((*one.tokens, often),)))
        for place, row in enumerate(runs[0])
        for one in row
        if one.logprob is not None and processor.image_token_id not in one.tokens
    ]
    assert len(ended) > 2
    with torch.no_grad():
        logprobs, owners = engine.answer_logprobs([row for _, row in ended])
    sums = sum_by_answer(logprobs, owners, len(ended))
    drawn = torch.tensor([value for value, _ in ended])
    torch.testing.assert_close(drawn, sums, rtol=0, atol=1e-4)


def test_scores_equal_sequences_of_their_own(writer, processor):
    ours = torch.tensor(writer.score(QUERIES, CHOSEN))
    with torch.no_grad():
        theirs = plain(writer, processor, CHOSEN)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=2e-5)


def test_dpo_loss_and_gradients_equal_the_plain_pair(writer, processor):
    batch = [
        Preference(query, chosen, rejected, *reference)
        for query, chosen, rejected, reference in zip(
            QUERIES, CHOSEN, REJECTED, REFERENCE, strict=True
        )
    ]
    ours = writer.dpo_loss(batch, beta=0.1)
    theirs = dpo_loss(
        plain(writer, processor, CHOSEN),
        plain(writer, processor, REJECTED),
        *torch.tensor(REFERENCE).unbind(1),
        beta=0.1,
    )
    assert abs(ours.item() - 0.6931) > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    first, second = gradients(writer, ours), gradients(writer, theirs)
    assert torch.linalg.vector_norm(first - second) < 1e-5 * torch.linalg.vector_norm(second)


def test_sft_loss_and_gradients_equal_the_plain_ones(writer, processor):
    batch = [Demonstration(*pair) for pair in zip(QUERIES, CHOSEN, strict=True)]
    ours = writer.sft_loss(batch)
    words = processor.tokenizer
    tokens = sum(len(words(text, add_special_tokens=False)["input_ids"]) + 1 for text in CHOSEN)
    theirs = -plain(writer, processor, CHOSEN).sum() / tokens
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    first, second = gradients(writer, ours), gradients(writer, theirs)
    assert torch.linalg.vector_norm(first - second) < 1e-5 * torch.linalg.vector_norm(second)


def test_gradient_checkpointing_changes_nothing(name, writer):
    thrifty = make(name, checkpointing=True)
    batch = [Demonstration(*pair) for pair in zip(QUERIES, CHOSEN, strict=True)]
    ours, theirs = thrifty.sft_loss(batch), writer.sft_loss(batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    first, second = gradients(thrifty, ours), gradients(writer, theirs)
    assert torch.linalg.vector_norm(first - second) < 1e-5 * torch.linalg.vector_norm(second)
    assert not thrifty.model.training


def test_a_checkpoint_and_its_adapter_come_back(name, writer, tmp_path):
    """Through a folder, with what it ships of generation settings; and by PEFT alone."""
    model, processor = tiny_families.build(name)
    model.generation_config = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=1.05)
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    writer.save_adapter(tmp_path / "adapter")
    again = LocalWriter.load(
        tmp_path / "base",
        adapter=tmp_path / "adapter",
        resources=Resources(engine="stock", open_image=tiny.picture),
    )
    assert again.score(QUERIES, CHOSEN) == pytest.approx(writer.score(QUERIES, CHOSEN), abs=1e-5)
    texts = [
        [one.text for row in one_writer.sample(QUERIES, 4, Sampling(0.8, 3), 0, "s") for one in row]
        for one_writer in (again, writer)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 8, "top_k 1 would leave one text a query"
    bare, _ = tiny_families.build(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        opened = PeftModel.from_pretrained(bare, tmp_path / "adapter").eval()
    batch = alone(processor, QUERIES[0])
    with torch.no_grad():
        torch.testing.assert_close(
            opened(**batch).logits, writer.model(**batch).logits, rtol=1e-5, atol=1e-5
        )


def test_fewer_pixels_make_shorter_prompts_or_smaller_pictures(name):
    example = Demonstration(QUERIES[3], "a")
    full, small = make(name), make(name, max_pixels=32 * 32)  # Qwen3's least image
    assert small.length(example) <= full.length(example)
    if name != "mllama":  # whose prompt holds one token, however large the picture
        assert small.length(example) < full.length(example)


def test_what_cannot_be_read_is_a_failure_in_its_place(writer):
    bad = Query("z#0", "nowhere-1", "X", "PER")
    smuggled = Query("y#0", "square-1", "X<|im_end|>", "PER")

    def opener(path):
        if path.startswith("nowhere"):
            raise ImageError(f"{path}: no such file")
        return tiny.picture(path)

    before, writer.chat.engine._open = writer.chat.engine._open, opener
    try:
        rows = writer.sample([bad, QUERIES[0], smuggled], 2, Sampling(0.8, 3), 0, "s")
    finally:
        writer.chat.engine._open = before
    assert isinstance(rows[0], Failure)
    assert rows[0].stage == "image"
    assert len(rows[1]) == 2
    assert isinstance(rows[2], Failure)
    assert rows[2].stage == "prompt"


def test_every_family_is_tried_here():
    assert {family.model_type for family in FAMILIES} == set(NAMES)


def test_an_unknown_family_is_refused():
    config = LlamaConfig(**tiny_families.text_sizes(tiny.tokenizer()))
    with pytest.raises(InputError, match="model type 'llama' is not supported; wanted one of"):
        family_of(config)
