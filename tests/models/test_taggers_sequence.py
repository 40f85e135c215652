"""What holds for every tagger that scores labels word by word."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_taggers import KINDS, POSTS, config, gold, post, sharpened, spans

from groundling.config import Optimiser
from groundling.errors import InputError
from groundling.models.registry import open_tagger
from groundling.models.taggers.sequence import SequenceTagger
from groundling.records import CCKS, TWITTER, Failure, Post
from groundling.train import fit

Maker = Callable[..., SequenceTagger[Any]]
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
heads = pytest.mark.parametrize("head", ["crf", "linear"])

ODD = post("\u200b \ufffd x")


@cache
def _trained(make: Maker, head: str) -> SequenceTagger[Any]:
    tagger = make(head=head, dropout=0.0, word_dropout=0.0)
    optimiser = Optimiser(lr=0.02, batch_size=3, epochs=20)
    fit(tagger, tagger.loss, POSTS, optimiser, seed=0, length=tagger.length)
    return tagger


def trained(make: Maker, head: str = "crf") -> SequenceTagger[Any]:
    """A tagger that knows POSTS by heart."""
    return deepcopy(_trained(make, head))


@kinds
@heads
def test_it_learns_its_posts_by_heart(make: Maker, head: str) -> None:
    tagger = trained(make, head)
    found = tagger.tag(POSTS)
    assert [spans(mentions) for mentions in found] == gold(POSTS)
    assert all(one.confidence > 0.5 for mentions in found for one in mentions)  # type: ignore


@kinds
def test_in_bfloat16_only_the_arithmetic_is_shorter(make: Maker) -> None:
    exact, rough = trained(make), trained(make)
    rough.config = rough.config.model_copy(update={"dtype": "bfloat16"})
    for tagger in (exact, rough):
        tagger.net.zero_grad()
    losses = [tagger.loss(POSTS) for tagger in (exact, rough)]
    assert losses[0].dtype == losses[1].dtype == torch.float32
    assert 0 < abs(losses[0] - losses[1]) < 0.05 * losses[0] + 0.02
    losses[1].backward()
    assert {weight.grad.dtype for weight in rough.net.parameters() if weight.grad is not None} == {
        torch.float32
    }
    assert [spans(mentions) for mentions in rough.tag(POSTS)] == gold(POSTS)


@kinds
def test_posts_keep_their_order_and_empty_ones_have_no_mentions(make: Maker) -> None:
    tagger = trained(make)
    mixed = [Post("e", ()), POSTS[5], ODD, Post("f", ()), POSTS[0]]
    found = tagger.tag(mixed)
    assert [found[0], found[3]] == [[], []]
    assert [spans(found[1]), spans(found[4])] == gold([POSTS[5], POSTS[0]])
    assert isinstance(found[2], list)
    assert tagger.tag([]) == []


@kinds
@heads
def test_confidences_do_not_depend_on_the_company(make: Maker, head: str) -> None:
    tagger = sharpened(make(head=head))
    together = tagger.tag(POSTS)
    for one, mentions in zip(POSTS, together, strict=True):
        (alone,) = tagger.tag([one])
        assert spans(alone) == spans(mentions)
        assert [m.confidence for m in alone] == pytest.approx(  # type: ignore[union-attr]
            [m.confidence for m in mentions],  # type: ignore[union-attr]
            abs=1e-5,
        )


@kinds
def test_the_loss_of_a_crf_is_minus_the_log_probability_of_the_gold_labels(make: Maker) -> None:
    tagger = make(head="crf", dropout=0.0, word_dropout=0.0)
    single = [-tagger.loss([one]).item() for one in POSTS]
    assert tagger.loss(POSTS).item() == pytest.approx(-sum(single) / len(POSTS), rel=1e-4)
    for one, expected in zip(POSTS, single, strict=True):
        (belief,) = tagger.beliefs([one])
        assert not isinstance(belief, Failure)
        (believed,) = belief.members
        labels = tagger.labels.encode(one)
        score = believed.ahead[0, labels[0]]
        for t in range(1, len(labels)):
            score += believed.moves[labels[t - 1], labels[t]] + believed.emissions[t, labels[t]]
        total = torch.logsumexp(torch.tensor(believed.ahead[-1] + believed.ends), 0)
        assert score + believed.ends[labels[-1]] - float(total) == pytest.approx(expected, abs=1e-4)


@kinds
def test_the_loss_of_a_linear_head_is_each_words_own(make: Maker) -> None:
    tagger = make(head="linear", dropout=0.0, word_dropout=0.0)
    total = 0.0
    for one in POSTS:
        scores = tagger.net(tagger.inputs([one]))[0]
        labels = torch.tensor(tagger.labels.encode(one))
        total += torch.nn.functional.cross_entropy(scores, labels, reduction="sum").item()
    assert tagger.loss(POSTS).item() == pytest.approx(total / len(POSTS), rel=1e-4)


@kinds
def test_posts_without_words_weigh_in_the_mean_and_cannot_be_all(make: Maker) -> None:
    tagger = make(dropout=0.0, word_dropout=0.0)
    alone = tagger.loss([POSTS[0]]).item()
    assert tagger.loss([POSTS[0], Post("e", ())]).item() == pytest.approx(alone / 2, rel=1e-5)
    with pytest.raises(InputError, match="without words"):
        tagger.loss([Post("e", ())])


@kinds
@heads
def test_calibration_keeps_mentions_and_makes_an_overconfident_tagger_humbler(
    make: Maker, head: str
) -> None:
    tagger = trained(make, head)
    with torch.no_grad():
        tagger.net.projection.weight *= 3  # type: ignore[operator]
        tagger.net.projection.bias *= 3  # type: ignore[operator]
    muddled = [replace(POSTS[i], entities=POSTS[i].entities[i % 2 :]) for i in range(len(POSTS))]
    before = tagger.tag(POSTS)
    tagger.calibrate([*muddled, Post("e", ())])
    after = tagger.tag(POSTS)
    assert tagger.temperature > 1
    assert list(map(spans, after)) == list(map(spans, before))
    sure = [one.confidence for mentions in before for one in mentions]  # type: ignore
    humble = [one.confidence for mentions in after for one in mentions]  # type: ignore
    assert sum(humble) < sum(sure)


@kinds
def test_calibration_without_a_mention_changes_nothing(make: Maker) -> None:
    tagger = trained(make)
    tagger.calibrate([Post("e", ()), post("at all")])
    assert tagger.temperature == 1


@kinds
@heads
def test_a_saved_tagger_answers_as_before(make: Maker, head: str, tmp_path: Path) -> None:
    tagger = sharpened(make(head=head, characters=True))
    tagger.temperature = 1.7
    tagger.save(tmp_path / "t")
    again = open_tagger(
        config(backend=tagger.config.backend, batch_size=2), TWITTER, tmp_path / "t"
    )
    assert again.temperature == 1.7
    assert again.config.head == head  # type: ignore[attr-defined]
    found, expected = again.tag([*POSTS, ODD]), tagger.tag([*POSTS, ODD])
    assert list(map(spans, found)) == list(map(spans, expected))
    for one, other in zip(found, expected, strict=True):
        assert [m.confidence for m in one] == pytest.approx(  # type: ignore[union-attr]
            [m.confidence for m in other],  # type: ignore[union-attr]
            abs=1e-5,
        )
    assert not list((tmp_path / "t").glob("*.bin"))


@kinds
def test_what_cannot_be_opened_is_told(make: Maker, tmp_path: Path) -> None:
    tagger = make()
    tagger.save(tmp_path)
    kind = tagger.config.backend
    other = "bilstm" if kind == "encoder" else "encoder"
    with pytest.raises(InputError, match=f"of kind {kind}, not {other}"):
        open_tagger(config(backend=other), TWITTER, tmp_path)
    with pytest.raises(InputError, match="finds PER, LOC, ORG, MISC; scheme ccks has aircraft"):
        open_tagger(config(backend=kind), CCKS, tmp_path)
    with pytest.raises(InputError, match="no tagger here"):
        open_tagger(config(backend=kind), TWITTER, tmp_path / "elsewhere")
    if kind == "encoder":
        (tmp_path / "config.json").rename(tmp_path / "away.json")
        with pytest.raises(InputError, match="its encoder cannot be opened"):
            open_tagger(config(backend=kind), TWITTER, tmp_path)
        (tmp_path / "away.json").rename(tmp_path / "config.json")
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(
        InputError, match=r"model\.safetensors: no(t this tagger's weights| checkpoint)"
    ):
        open_tagger(config(backend=kind), TWITTER, tmp_path)
    (tmp_path / "tagger.json").write_text(json.dumps({"scheme": "twitter"}))
    with pytest.raises(InputError, match=r"tagger\.json: no tagger's facts"):
        open_tagger(config(backend=kind), TWITTER, tmp_path)


@kinds
def test_scores_that_are_no_numbers_are_a_failure_not_an_empty_answer(make: Maker) -> None:
    tagger = make()
    with torch.no_grad():
        tagger.net.projection.bias[3] = float("nan")  # type: ignore[index]
    assert tagger.tag([POSTS[0], Post("e", ())]) == [Failure("a score is not finite", "tag"), []]
    tagger.calibrate(POSTS)
    assert tagger.temperature == 1


@kinds
def test_the_seed_decides_the_initial_weights(make: Maker) -> None:
    one, same, other = make(seed=1), make(seed=1), make(seed=2)
    weights = [made.net.projection.weight for made in (one, same, other)]
    assert torch.equal(weights[0], weights[1])  # type: ignore[arg-type]
    assert not torch.equal(weights[0], weights[2])  # type: ignore[arg-type]


@kinds
def test_dropout_is_for_training_alone(make: Maker) -> None:
    tagger = make(dropout=0.5, word_dropout=0.5)
    with torch.no_grad():
        losses = {tagger.loss(POSTS).item() for _ in range(3)}
        assert len(losses) == 3
    assert tagger.tag(POSTS) == tagger.tag(POSTS)
