"""Confidences that average: passes with dropout on, and ensembles of taggers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_taggers_crf import LABELS, LENGTHS, all_scores, random_lattice
from test_taggers_posterior import all_spans, enumerated
from tiny_taggers import KINDS, POSTS, bilstm_tagger, config, encoder_tagger, post, sharpened, spans

from groundling.config_gmner import TaggerConfig, UncertaintyConfig
from groundling.errors import InputError
from groundling.models.registry import open_ensemble, open_tagger
from groundling.models.taggers.dropout import mask_of, passes, thinned
from groundling.models.taggers.ensemble import EnsembleTagger
from groundling.models.taggers.posterior import Belief, read_lattices
from groundling.models.taggers.sequence import SequenceTagger
from groundling.records import TWITTER, Entity, Failure, Post

Maker = Callable[..., SequenceTagger[Any]]
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def mc(count: int, seed: int = 0) -> UncertaintyConfig:
    return UncertaintyConfig(kind="mc-dropout", count=count, seed=seed)


def with_passes(
    make: Maker, how: UncertaintyConfig, dropout: float = 0.4, **changes: Any
) -> SequenceTagger[Any]:
    return sharpened(make(dropout=dropout, uncertainty=how, **changes))


def ensemble(make: Maker, count: int = 3) -> EnsembleTagger:
    members = [sharpened(make(seed=seed)) for seed in range(count)]
    how = UncertaintyConfig(kind="ensemble", count=count)
    backend = members[0].config.backend
    return EnsembleTagger(members, TWITTER, config(backend=backend, uncertainty=how))


def believed(tagger: Any, posts: list[Post]) -> list[Belief]:
    found: list[Belief] = tagger.beliefs(posts)
    assert not any(isinstance(one, Failure) for one in found)
    return found


def every_span(one: Post) -> list[tuple[int, int, str]]:
    ends = range(len(one.tokens) + 1)
    return [(a, b, kind) for a, b in product(ends, ends) if a < b for kind in TWITTER.types]


# ------------------------------------------------------------------------------------ the average


def test_probabilities_are_means_over_the_lattices_and_spans_those_of_the_mean_score() -> None:
    lattices = [random_lattice(seed) for seed in (3, 4, 5)]
    together = list(read_lattices(lattices, LABELS))
    for row, belief in enumerate(together):
        single = [enumerated(lattice, row) for lattice in lattices]
        for span in all_spans(LENGTHS[row]):
            expected = sum(one[span] for one in single) / 3
            assert belief.probability(*span) == pytest.approx(expected, abs=1e-9)
        scores = [all_scores(lattice, row) for lattice in lattices]
        summed = {path: sum(one[path] for one in scores) for path in scores[0]}
        assert belief.spans == LABELS.decode(max(summed, key=summed.__getitem__))


@pytest.mark.parametrize("learned", [True, False])
def test_of_one_lattice_the_average_is_itself(learned: bool) -> None:
    lattice = random_lattice(6, learned)
    thrice = list(read_lattices([lattice] * 3, LABELS))
    for row, once in enumerate(read_lattices([lattice], LABELS)):
        assert thrice[row].spans == once.spans
        (member,) = once.members
        for span in all_spans(LENGTHS[row]):
            assert once.probability(*span) == member.probability(*span)
            assert thrice[row].probability(*span) == pytest.approx(once.probability(*span))


@kinds
def test_an_ensemble_believes_what_its_members_do_on_average(make: Maker) -> None:
    together = ensemble(make)
    together.temperature = 1.4
    for member in together.members:
        member.temperature = 1.4
    rows = zip(
        POSTS,
        believed(together, POSTS),
        *(believed(member, POSTS) for member in together.members),
        strict=True,
    )
    for one, belief, *members in rows:
        for span in every_span(one):
            total = 0.0
            for member in members:
                total += member.probability(*span)
            assert belief.probability(*span) == pytest.approx(total / 3, abs=1e-9)
    mentions = [m for row in together.tag(POSTS) if isinstance(row, list) for m in row]
    assert mentions
    assert len({round(m.confidence or 0, 6) for m in mentions}) > 1


@kinds
@torch.no_grad()
def test_passes_believe_on_average_what_each_thinned_network_does(make: Maker) -> None:
    tagger = with_passes(make, mc(4, seed=9))
    for one, belief in zip(POSTS, believed(tagger, POSTS), strict=True):
        lattices = []
        for number in range(4):
            with thinned(tagger.net.eval(), 9, number):
                scores = tagger.net(tagger.inputs([one])).double()
            lengths = torch.tensor([len(one.tokens)])
            lattices.append(tagger.net.transitions.lattice(scores, lengths))
        assert not torch.allclose(lattices[0].emissions, lattices[1].emissions)
        (expected,) = read_lattices(lattices, tagger.labels)
        assert belief.spans == expected.spans
        for span in every_span(one):
            assert belief.probability(*span) == pytest.approx(expected.probability(*span), abs=1e-5)


# ----------------------------------------------------------------------------------- the passes


@kinds
@pytest.mark.parametrize("head", ["crf", "linear"])
def test_one_pass_without_dropout_is_the_plain_tagger_exactly(make: Maker, head: str) -> None:
    plain = sharpened(make(head=head, dropout=0.0))
    once = with_passes(make, mc(1), dropout=0.0, head=head)
    assert once.tag(POSTS) == plain.tag(POSTS)
    for tagger in (plain, once):
        tagger.calibrate([*POSTS, replace(POSTS[0], entities=())])
    assert once.temperature == plain.temperature


@kinds
def test_passes_follow_from_the_seed_and_not_from_what_ran_before(make: Maker) -> None:
    tagger, again = with_passes(make, mc(3)), with_passes(make, mc(3))
    first = tagger.tag(POSTS)
    torch.rand(17)
    assert tagger.tag(POSTS) == first
    before = torch.get_rng_state()
    assert again.tag(POSTS) == first
    assert torch.equal(torch.get_rng_state(), before), "and they leave the generator alone"
    other = with_passes(make, mc(3, seed=1)).tag(POSTS)
    assert other != first


@kinds
def test_passes_do_not_depend_on_the_company(make: Maker) -> None:
    tagger = with_passes(make, mc(3))
    for one, belief in zip(POSTS, believed(tagger, POSTS), strict=True):
        (alone,) = believed(tagger, [one])
        assert alone.spans == belief.spans
        for span in every_span(one):
            assert alone.probability(*span) == pytest.approx(belief.probability(*span), abs=1e-5)


def test_more_passes_go_on_where_fewer_ended() -> None:
    few, many = (with_passes(bilstm_tagger, mc(count)).lattices(POSTS) for count in (2, 5))
    assert len(many) == 5
    for one, other in zip(few, many, strict=False):
        assert torch.equal(one.emissions, other.emissions)


def test_a_mask_leaves_out_its_share_and_keeps_the_mean() -> None:
    masks = torch.stack([mask_of(f"0 {number} layer", 1000, 0.3) for number in range(20)])
    assert masks.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((masks == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(masks.mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(masks[3], mask_of("0 3 layer", 1000, 0.3))


def test_a_pass_thins_every_dropout_layer_alike_for_all_words_and_then_nothing() -> None:
    net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Dropout(0.0)).eval()
    ones = torch.ones(2, 3, 64)
    with thinned(net, 0, 0):
        found = net(ones)
        weights = net(torch.ones(2, 3, 4, 4))
    assert torch.equal(found, found[:1, :1].expand_as(found))
    assert 10 < int((found[0, 0] == 0).sum()) < 54
    assert torch.equal(weights, torch.ones(2, 3, 4, 4)), "weights of an attention stay"
    assert torch.equal(net(ones), ones)
    assert list(passes(net, UncertaintyConfig())) == [0]


def test_an_encoders_own_dropout_counts() -> None:
    tagger = with_passes(encoder_tagger, mc(2), dropout=0.0)
    (one, other) = tagger.lattices(POSTS)
    assert torch.equal(one.emissions, other.emissions), "this one has none"
    for layer in tagger.net.encoder.modules():  # type: ignore[union-attr, operator]
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.2
    one, other = tagger.lattices(POSTS)
    assert not torch.allclose(one.emissions, other.emissions)


def test_passes_in_bfloat16_stay_so() -> None:
    tagger = with_passes(encoder_tagger, mc(2), dtype="bfloat16")
    assert all(lattice.emissions.dtype == torch.float64 for lattice in tagger.lattices(POSTS))
    assert tagger.tag(POSTS) == tagger.tag(POSTS)


# ---------------------------------------------------------------------- calibration, files, faults


@kinds
@pytest.mark.parametrize("kind", ["mc-dropout", "ensemble"])
def test_calibration_moves_confidences_and_no_mention(make: Maker, kind: str) -> None:
    tagger: Any = ensemble(make) if kind == "ensemble" else with_passes(make, mc(3))
    before = tagger.tag(POSTS)
    # right where the tagger says so, but for every third post: surer than it should be, or less
    muddled = [
        replace(one, entities=() if i % 3 else _as_entities(one, before[i]))
        for i, one in enumerate(POSTS)
    ]
    tagger.calibrate([*muddled, Post("e", ())])
    after = tagger.tag(POSTS)
    assert tagger.temperature != 1.0
    assert list(map(spans, after)) == list(map(spans, before))
    assert after != before


def _as_entities(one: Post, mentions: Any) -> Any:
    return tuple(
        Entity(" ".join(one.tokens[m.start : m.end]), m.type, m.start, m.end) for m in mentions
    )


@kinds
def test_a_stored_ensemble_answers_as_before(make: Maker, tmp_path: Path) -> None:
    tagger = ensemble(make)
    tagger.temperature = 1.7
    tagger.save(tmp_path)
    again = open_tagger(tagger.config, TWITTER, tmp_path)
    assert again.temperature == 1.7
    assert again.tag([*POSTS, Post("e", ())]) == tagger.tag([*POSTS, Post("e", ())])
    stored = sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors")
    )
    assert stored == [f"member-{number}/model.safetensors" for number in range(3)]
    assert not list(tmp_path.rglob("*.bin"))


@kinds
def test_stored_passes_answer_as_before(make: Maker, tmp_path: Path) -> None:
    tagger = with_passes(make, mc(3))
    tagger.temperature = 0.8
    tagger.save(tmp_path)
    again = open_tagger(tagger.config, TWITTER, tmp_path)
    assert again.tag(POSTS) == tagger.tag(POSTS)
    plain = open_tagger(tagger.config.single, TWITTER, tmp_path)
    assert plain.tag(POSTS) != tagger.tag(POSTS)


def test_what_is_another_kind_of_ensemble_is_told(tmp_path: Path) -> None:
    tagger = ensemble(bilstm_tagger)
    tagger.save(tmp_path)

    def wanted(**how: Any) -> TaggerConfig:
        return config(backend="bilstm", uncertainty=UncertaintyConfig(**how))

    with pytest.raises(InputError, match="ensemble of 3, not ensemble of 2; fit it anew"):
        open_tagger(wanted(kind="ensemble", count=2), TWITTER, tmp_path)
    with pytest.raises(InputError, match="ensemble of 3, not marginal of 5"):
        open_tagger(wanted(), TWITTER, tmp_path)
    with pytest.raises(InputError, match="marginal of 5, not ensemble of 3"):
        open_tagger(tagger.config, TWITTER, tmp_path / "member-0")
    folders = [tmp_path / "member-0", tmp_path / "member-2"]
    pair = open_ensemble(wanted(kind="ensemble", count=2), TWITTER, folders)
    first, third = tagger.members[0], tagger.members[2]
    own: Any = [first, third]
    expected = EnsembleTagger(own, TWITTER, wanted(kind="ensemble", count=2))
    assert pair.tag(POSTS) == expected.tag(POSTS)


def test_one_member_without_numbers_is_a_failure() -> None:
    tagger = ensemble(bilstm_tagger)
    broken: Any = tagger.members[1]
    with torch.no_grad():
        broken.net.projection.bias[3] = float("nan")
    assert tagger.tag(POSTS[:1]) == [Failure("a score is not finite", "tag")]


def test_where_members_disagree_the_confidence_is_low() -> None:
    """Two members, each sure of another type: half each, whichever of them is said."""
    tagger = ensemble(bilstm_tagger, 2)
    for member, label in zip(tagger.members, (1, 3), strict=True):
        net: Any = member
        with torch.no_grad():
            net.net.projection.weight.zero_()
            net.net.projection.bias.zero_()
            net.net.projection.bias[label] = 30.0
    (mentions,) = tagger.tag([post("Paul")])
    assert isinstance(mentions, list)
    assert [m.type for m in mentions] in (["PER"], ["LOC"])
    assert np.mean([m.confidence for m in mentions]) == pytest.approx(0.5, abs=1e-6)
