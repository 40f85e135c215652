from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from stock import inputs
from transformers import GenerationConfig

from groundling.config import SftOptimiser
from groundling.errors import DataError, ImageError, InputError
from groundling.models import checkpoints
from groundling.models.base import GREEDY, Demonstration, Preference, Sampling
from groundling.models.checkpoints import read_known_names
from groundling.models.local import Adapter, LocalWriter, Resources
from groundling.records import Expression, Failure, Query
from groundling.train import fit

SHORT = Sampling(temperature=0.8, max_new_tokens=6)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder that ships Qwen2-VL's own near-greedy settings, and more."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny.model()
    with torch.no_grad():
        model.lm_head.weight *= 3
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=1, top_p=0.001, temperature=0.01, repetition_penalty=1.05
    )
    model.save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    (folder / "known_names.json").write_text(json.dumps([["Neymar", "PER"], ["X", "OTHER"]]))
    return folder


@pytest.fixture
def loaded(checkpoint) -> LocalWriter:
    return LocalWriter.load(checkpoint, resources=Resources(open_image=tiny.picture))


def texts(results) -> list[list[str]]:
    return [[one.text for one in row] for row in results]


def test_shipped_generation_settings_are_ignored(loaded, processor):
    """First words are drawn as often as the model's own distribution at the temperature says."""
    queries = [Query(f"p{i}#0", "wide-2", "NASA", "ORG") for i in range(600)]
    temperature = 0.8
    drawn = loaded.sample(queries, 4, Sampling(temperature, max_new_tokens=1), 0, "writer:t/0")
    counts = Counter(text for row in texts(drawn) for text in row)
    assert len(counts) > 20, "greedy settings would leave one text"

    with torch.no_grad():
        logits = loaded.model(**inputs(processor, queries[:1], [""])).logits[0, -1]
    expected: Counter[str] = Counter()
    for token, share in enumerate((logits / temperature).softmax(-1).tolist()):
        expected[processor.tokenizer.decode([token], skip_special_tokens=True)] += 2400 * share
    common = [text for text, count in expected.items() if count >= 5]
    seen = [counts[text] for text in common]
    wanted = [expected[text] for text in common]
    seen.append(2400 - sum(seen))
    wanted.append(2400 - sum(wanted))
    assert len(common) > 20
    assert chisquare(seen, wanted).pvalue > 0.01
    assert counts.keys() <= expected.keys()


def test_samples_are_expressions_with_their_source(loaded):
    rows = loaded.sample(tiny.QUERIES, 3, SHORT, 0, "writer:run/2")
    assert [len(row) for row in rows] == [3] * 6
    assert all(isinstance(one, Expression) for row in rows for one in row)
    assert {one.source for row in rows for one in row} == {"writer:run/2"}


def test_the_same_seed_draws_the_same_whatever_the_neighbours(checkpoint):
    writers = [
        LocalWriter.load(checkpoint, resources=Resources(batch_size=size, open_image=tiny.picture))
        for size in (4, 1)
    ]
    first, second = (one.sample(tiny.QUERIES, 4, SHORT, 5, "w") for one in writers)
    backwards = writers[0].sample(tiny.QUERIES[::-1], 4, SHORT, 5, "w")[::-1]
    assert texts(first) == texts(second) == texts(backwards)
    other = writers[0].sample(tiny.QUERIES, 4, SHORT, 6, "w")
    assert texts(first) != texts(other)


def test_greedy_gives_one_answer_k_times(loaded):
    rows = loaded.sample(tiny.QUERIES, 2, GREEDY, 0, "w")
    assert all(first == second for first, second in rows)
    assert rows == loaded.sample(tiny.QUERIES, 2, GREEDY, 99, "w")


def test_an_expression_cut_short_keeps_its_text_and_no_logprob(loaded):
    rows = loaded.sample(tiny.QUERIES, 4, Sampling(0.8, max_new_tokens=2), 0, "w")
    cut = [one for row in rows for one in row if one.logprob is None]
    assert len(cut) > 10
    assert all(one.text for one in cut)


def test_a_drawn_answers_logprob_is_its_score(checkpoint, processor):
    """Where the tokens drawn are those the tokenizer makes of the text, score() agrees."""
    end = processor.tokenizer.eos_token_id
    writer = LocalWriter.load(checkpoint, resources=Resources(open_image=tiny.picture))
    head = writer.model.get_base_model().lm_head
    with torch.no_grad():
        head.weight[end] = head.weight.topk(12, dim=0).values.mean(0)  # ends often enough
    queries = [Query(f"{q.id}/{i}", *key(q)) for q in tiny.QUERIES for i in range(8)]
    rows = writer.sample(queries, 4, Sampling(1.3, max_new_tokens=12), 1, "w")
    pairs = [(query, one) for query, row in zip(queries, rows, strict=True) for one in row]
    ended = [(query, one) for query, one in pairs if one.logprob is not None]
    scores = writer.score([query for query, _ in ended], [one.text for _, one in ended])
    agree = [abs(one.logprob - score) < 1e-4 for (_, one), score in zip(ended, scores, strict=True)]
    assert sum(agree) >= 20


def key(query: Query) -> tuple[str, str, str]:
    return query.image, query.name, query.type


def test_what_cannot_be_run_is_a_failure_in_its_place():
    def open_image(path):
        if path == "square-5":
            raise ImageError("square-5: truncated")
        return tiny.picture(path)

    writer = LocalWriter.from_parts(
        tiny.model(), tiny.processor(), resources=Resources(open_image=open_image, batch_size=2)
    )
    queries = [*tiny.QUERIES, Query("f#0", "wide-2", "a<|im_end|>", "PER")]
    words = ["a"] * 7
    results = (
        writer.sample(queries, 2, SHORT, 0, "w"),
        writer.score(queries, words),
        writer.score_pairs(queries, words, ["b"] * 7),
    )
    for result in results:
        assert [isinstance(one, Failure) for one in result] == [False] * 5 + [True] * 2
        assert result[5] == Failure("square-5: truncated", "image")
        assert result[6].stage == "prompt"
    assert [one is not None for one in writer.prepare(["square-1", "square-5"])] == [False, True]
    for loss in (
        lambda: writer.sft_loss([Demonstration(tiny.QUERIES[5], "a")]),
        lambda: writer.dpo_loss([Preference(tiny.QUERIES[5], "a", "b", -1.0, -1.0)], 0.5),
    ):
        with pytest.raises(ImageError, match=r"X \(PER\): square-5: truncated"):
            loss()


def test_nothing_asked_is_nothing_answered(writer):
    assert writer.sample([], 4, SHORT, 0, "w") == []
    assert writer.score([], []) == []
    assert writer.score_pairs([], [], []) == []


def test_length_counts_picture_prompt_and_answers(writer, processor):
    query = tiny.QUERIES[2]
    prompt = inputs(processor, [query], [""])["input_ids"].shape[1]
    answer = len(processor.tokenizer("the man")["input_ids"]) + 1
    assert writer.length(Demonstration(query, "the man")) == prompt + answer
    pair = Preference(query, "the man", "the man", -1.0, -1.0)
    assert writer.length(pair) == prompt + 2 * answer


def test_sampling_and_scoring_leave_no_trace(writer):
    before = {name: value.clone() for name, value in writer.model.state_dict().items()}
    writer.sample(tiny.QUERIES, 2, SHORT, 0, "w")
    writer.score(tiny.QUERIES, ["a"] * 6)
    after = writer.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(value.grad is None for value in writer.trainable().values())


def test_knows_only_what_is_recorded(loaded, writer):
    assert loaded.knows(Query("a#0", "", "Neymar", "PER")) is True
    assert loaded.knows(Query("a#0", "", "Neymar", "ORG")) is False
    assert loaded.knows(Query("a#0", "", "X", "MISC")) is True
    assert writer.knows(tiny.QUERIES[0]) is None


@pytest.mark.parametrize("content", ['{"a": 1}', '[["a"]]', '[["a", "ANIMAL"]]', "[", "[1]"])
def test_a_bad_list_of_names_is_refused(tmp_path, content):
    file = tmp_path / "known_names.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"wanted a JSON list of \[name, type\]"):
        read_known_names(file)


def test_a_trained_step_lowers_the_loss(writer):
    batch = [Demonstration(query, "the man with red hair") for query in tiny.QUERIES]
    optimiser = torch.optim.AdamW(writer.trainable().values(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = writer.sft_loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


def test_sliding_window_attention_is_refused():
    windowed = tiny.model(
        text={"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    )
    with pytest.raises(InputError, match="sliding-window"):
        LocalWriter.from_parts(windowed, tiny.processor())


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no checkpoint that can be opened") as caught:
        LocalWriter.load(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match="model type 'llama' is not supported"):
        LocalWriter.load(tmp_path)


def test_4_bits_without_bitsandbytes_are_refused_in_one_line(checkpoint, monkeypatch):
    monkeypatch.setattr(checkpoints, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(InputError) as caught:
        LocalWriter.load(checkpoint, four_bit=True)
    assert str(caught.value) == ("load_in_4bit needs bitsandbytes; install groundling[quantised]")


@pytest.mark.parametrize(
    ("k", "sampling"), [(0, SHORT), (4, Sampling(-0.1, 5)), (4, Sampling(0.8, 0))]
)
def test_impossible_draws_are_refused(writer, k, sampling):
    with pytest.raises(InputError, match="cannot draw"):
        writer.sample(tiny.QUERIES, k, sampling, 0, "w")


def test_texts_must_match_queries(writer):
    with pytest.raises(InputError, match="got 2 answers to 6 queries"):
        writer.score(tiny.QUERIES, ["a", "b"])


def test_missing_weights_are_refused(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "less")
    path = tmp_path / "less" / "model.safetensors"
    weights = load_file(path)
    del weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights are missing, first lm_head\.weight"):
        LocalWriter.load(tmp_path / "less")


def test_loading_prints_nothing(checkpoint, capfd):
    LocalWriter.load(checkpoint)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_half_precision_agrees_with_single(writer):
    half = LocalWriter.from_parts(
        tiny.model().to(torch.bfloat16),
        tiny.processor(),
        adapter=Adapter(rank=4, alpha=8),
        resources=Resources(open_image=tiny.picture),
    )
    tiny.move(half)
    words = ["the man with red hair"] * 6
    single = torch.tensor(writer.score(tiny.QUERIES, words))
    assert (single - torch.tensor(half.score(tiny.QUERIES, words))).abs().max() < 0.5
    pairs = torch.tensor(half.score_pairs(tiny.QUERIES, words, ["a"] * 6))
    assert (single - pairs[:, 0]).abs().max() < 0.5
    assert [len(row) for row in half.sample(tiny.QUERIES, 2, SHORT, 0, "w")] == [2] * 6
    loss = half.sft_loss([Demonstration(query, "the man") for query in tiny.QUERIES])
    loss.backward()
    assert all(value.grad.isfinite().all() for value in half.trainable().values())


def test_micro_batches_add_up_to_the_whole():
    """Answers of unlike lengths: the mean over tokens stays the mean over the whole batch."""
    texts = ["a", "the man with red hair on the left", "b c", "the woman", "NASA", "x y z"]
    batch = [Demonstration(*pair) for pair in zip(tiny.QUERIES, texts, strict=True)]
    ends, losses = [], []
    for size in (None, 4, 1):
        made = tiny.writer()
        settings = SftOptimiser(lr=1e-2, batch_size=6, epochs=2, micro_batch=size)
        summary = fit(
            made,
            made.sft_loss,
            batch,
            settings,
            seed=0,
            weight=lambda one, made=made: made.answer_tokens(one.expression),
        )
        losses.append(summary.losses)
        ends.append(torch.cat([p.detach().flatten() for p in made.trainable().values()]))
    for other, their_losses in zip(ends[1:], losses[1:], strict=True):
        assert their_losses == pytest.approx(losses[0], rel=1e-5)
        torch.testing.assert_close(other, ends[0], rtol=0, atol=2e-4)
