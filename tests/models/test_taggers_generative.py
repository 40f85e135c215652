"""The generative tagger, on tiny random BARTs and T5s."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_taggers import POSTS, bert, bytelevel, config, gold, post, spans, wordpiece
from tokenizers import pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartModel,
    BartTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
    T5Tokenizer,
)

from groundling import tagging
from groundling.config import Optimiser
from groundling.config_gmner import TaggerOptimiser, TaggingConfig, TextData
from groundling.data.jsonl import write_posts
from groundling.errors import InputError
from groundling.models.registry import open_tagger
from groundling.models.taggers.generative import GenerativeTagger
from groundling.models.taggers.labels import Labels, Span
from groundling.models.taggers.pointers import END, START, Pointers
from groundling.records import CCKS, TWITTER, Entity, Failure, Post
from groundling.settings import load_config
from groundling.train import fit

RECIPES = Path(__file__).parents[2] / "recipes" / "gmner"
ODD = post("\u200b \ufffd x")


def bart(seed: int = 0) -> BartModel:
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in SIZES.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BartModel(
            BartConfig(
                **sizes,
                vocab_size=len(bytelevel()),
                d_model=32,
                max_position_embeddings=80,
                init_std=0.2,
                dropout=0.0,
            )
        )


SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 48}


def t5(seed: int = 0) -> T5Model:
    sizes = {"d_model": 32, "d_kv": 16, "num_layers": 1, "num_heads": 2, "d_ff": 48}
    tokens = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5Model(T5Config(**sizes, **tokens, vocab_size=len(bytelevel()), dropout_rate=0.0))


FAMILIES = {"bart": bart, "t5": t5}
families = pytest.mark.parametrize("family", FAMILIES)


def tagger_of(family: str = "bart", seed: int = 0, **changes: Any) -> GenerativeTagger:
    settings = config(backend="generative", **{"dropout": 0.0, **changes})
    model = FAMILIES[family](seed)
    return GenerativeTagger.from_parts(model, bytelevel(), TWITTER, settings, seed=seed)


@cache
def _trained() -> GenerativeTagger:
    tagger = tagger_of()
    optimiser = Optimiser(lr=0.01, batch_size=3, epochs=30)
    fit(tagger, tagger.loss, POSTS, optimiser, seed=0, length=tagger.length)
    return tagger


def trained() -> GenerativeTagger:
    """A tagger that knows POSTS by heart."""
    return deepcopy(_trained())


def taggings(words: int) -> Iterator[list[Span]]:
    """Every tagging of so many words, found by way of the BIO labels."""
    labels = Labels(TWITTER.types)
    start, follow = labels.may_start(), labels.may_follow()
    for path in product(range(len(labels)), repeat=words):
        if start[path[0]] and all(follow[a, b] for a, b in pairwise(path)):
            yield labels.decode(path)


def marked(tokens: Sequence[str], found: Sequence[Span]) -> Post:
    return Post("p", tuple(tokens), tuple(Entity("", kind, a, b) for a, b, kind in found))


def log_probabilities(
    tagger: GenerativeTagger, one: Post, found: Sequence[Sequence[Span]]
) -> torch.Tensor:
    """Of whole taggings of a text, each read by the decoder at once, as in training."""
    net = tagger.net.eval()
    with torch.no_grad():
        memory = net.read(tagger._source([one])).repeat(len(found))
        written = [net.symbols.encode(row) for row in found]
        return tagger._steps(memory, written).log_p(1.0).sum(1)


def confidences(mentions: object) -> list[float]:
    assert isinstance(mentions, list)
    return [one.confidence for one in mentions]


# -------------------------------------------------------------------------------------- pointers


def test_allowed_sequences_are_the_taggings_one_for_one() -> None:
    symbols = Pointers(TWITTER.types)

    def grown(before: list[int]) -> Iterator[list[int]]:
        if before[-1] == END:
            yield before[1:]
            return
        allowed = symbols.allowed(torch.tensor([before]), torch.tensor([3]))[0, -1]
        for symbol in allowed.nonzero()[:, 0].tolist():
            yield from grown([*before, symbol])

    every = list(grown([START]))
    spelled = [[span for span, _ in symbols.decode(one)] for one in every]
    assert sorted(spelled) == sorted(taggings(3))
    assert [symbols.encode(found) for found in spelled] == every


def test_symbols_of_a_mention_are_its_words_and_its_type() -> None:
    symbols = Pointers(("PER", "LOC"))
    ((first, at), (second, behind)) = symbols.decode([3, 1, 5, 6, 2, END])
    assert (first, second) == ((0, 1, "PER"), (2, 4, "LOC"))
    assert (at, behind) == (slice(0, 2), slice(2, 5))


def test_shorter_texts_of_a_batch_have_no_further_words_and_an_end_lasts() -> None:
    symbols = Pointers(("PER", "LOC"))
    before = torch.tensor([[START, 3, 1, END], [START, 3, 4, 5]])
    allowed = symbols.allowed(before, torch.tensor([1, 3]))
    sets = [[row.nonzero()[:, 0].tolist() for row in one] for one in allowed]
    assert sets[0] == [[END, 3], [1, 2], [END], [END]]
    assert sets[1] == [[END, 3, 4, 5], [1, 2, 4], [1, 2, 5], [1, 2]]


# ------------------------------------------------------------------------------- the distribution


@families
def test_the_probabilities_of_all_taggings_add_up_to_one(family: str) -> None:
    tagger = tagger_of(family)
    one = post("Paul visits York")
    every = list(taggings(3))
    log_p = log_probabilities(tagger, one, every)
    assert len(every) > 100
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-4)
    batch = [marked(one.tokens, found) for found in every]
    assert tagger.loss(batch).item() == pytest.approx(-log_p.mean().item(), rel=1e-4)


@families
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_wide_search_finds_the_most_probable_tagging(family: str, seed: int) -> None:
    tagger = tagger_of(family, seed, beams=200)
    one = post("Paul visits York")
    every = list(taggings(3))
    best = int(log_probabilities(tagger, one, every).argmax())
    assert spans(tagger.tag([one])[0]) == every[best]


@families
def test_one_beam_takes_the_best_step_by_step(family: str) -> None:
    """The search remembers what the decoder read; here everything is read anew at each step."""
    tagger = tagger_of(family)
    net = tagger.net.eval()
    with torch.no_grad():
        memory = net.read(tagger._source(POSTS[:1]))
        before = [START]
        while before[-1] != END:
            before.append(int(net(memory, torch.tensor([before]))[0, -1].argmax()))
        assert net.search(memory, 1) == [before[1:]]


def test_more_beams_find_nothing_less_probable() -> None:
    narrow, wide = tagger_of(seed=3), tagger_of(seed=3, beams=6)
    gains = []
    for one, *found in zip(POSTS, narrow.tag(POSTS), wide.tag(POSTS), strict=True):
        log_p = log_probabilities(narrow, one, list(map(spans, found)))
        gains.append(float(log_p[1] - log_p[0]))
    assert min(gains) > -1e-4
    assert max(gains) > 0.01


@families
def test_confidences_and_the_end_make_up_the_probability_of_a_tagging(family: str) -> None:
    tagger = tagger_of(family, seed=1)
    for one in POSTS:
        (mentions,) = tagger.tag([one])
        found = spans(mentions)
        memory = tagger.net.eval().read(tagger._source([one]))
        steps = tagger._steps(memory, [tagger.net.symbols.encode(found)])
        parts = [*confidences(mentions), steps.log_p(1.0)[0, -1].exp().item()]
        whole = log_probabilities(tagger, one, [found]).exp().item()
        assert torch.tensor(parts).prod().item() == pytest.approx(whole, rel=1e-3)


# --------------------------------------------------------------------------------------- learning


def test_it_learns_its_posts_by_heart() -> None:
    tagger = trained()
    found = tagger.tag(POSTS)
    assert [spans(mentions) for mentions in found] == gold(POSTS)
    assert tagging.mner_f1(tagger, POSTS) == 1
    assert all(value > 0.5 for mentions in found for value in confidences(mentions))


@families
def test_every_weight_is_trained_and_the_loss_falls(family: str) -> None:
    tagger = tagger_of(family)
    before = tagger.loss(POSTS)
    before.backward()  # type: ignore[no-untyped-call]
    unread = [name for name, weight in tagger.trainable().items() if weight.grad is None]
    assert unread == []
    assert {name.split(".")[0] for name in tagger.trainable()} == {"model", "projection"}
    optimiser = Optimiser(lr=0.003, batch_size=6, epochs=10)
    fit(tagger, tagger.loss, POSTS, optimiser, seed=0, length=tagger.length)
    assert tagger.loss(POSTS).item() < 0.9 * before.item()


@families
def test_posts_do_not_depend_on_the_company(family: str) -> None:
    tagger = tagger_of(family, beams=3)
    batch = [*POSTS, ODD]
    single = [tagger.loss([one]).item() for one in batch]
    assert tagger.loss(batch).item() == pytest.approx(sum(single) / len(batch), rel=1e-4)
    for one, mentions in zip(batch, tagger.tag(batch), strict=True):
        (alone,) = tagger.tag([one])
        assert spans(alone) == spans(mentions)
        assert confidences(alone) == pytest.approx(confidences(mentions), abs=1e-4)


def test_posts_without_words_have_no_mentions_and_cannot_be_a_batch() -> None:
    tagger = trained()
    found = tagger.tag([Post("e", ()), POSTS[5], Post("f", ()), POSTS[0]])
    assert [found[0], found[2]] == [[], []]
    assert [spans(found[1]), spans(found[3])] == gold([POSTS[5], POSTS[0]])
    assert tagger.tag([]) == []
    alone = tagger.loss([POSTS[0]]).item()
    assert tagger.loss([POSTS[0], Post("e", ())]).item() == pytest.approx(alone / 2, rel=1e-4)
    with pytest.raises(InputError, match="without words"):
        tagger.loss([Post("e", ())])


def test_a_long_post_is_read_in_windows_and_written_as_one() -> None:
    tagger = tagger_of(max_length=12)
    words = tuple("abcdefgh"[i % 8] for i in range(20))
    long = Post("long", words, (Entity("", "ORG", 7, 14),))
    source = tagger._source([long, POSTS[0]])
    cut = [len(tagger.pieces.windows(one)) for one in (long, POSTS[0])]
    assert (source.windows >= 0).sum(1).tolist() == cut
    assert cut[0] > 2
    memory = tagger.net.eval().read(source)
    firsts = [tagger.pieces.of_word(word)[0] for word in words]
    assert memory.pieces[0].tolist() == firsts
    optimiser = Optimiser(lr=0.01, batch_size=2, epochs=25)
    fit(tagger, tagger.loss, [long, POSTS[3]], optimiser, seed=0)
    assert list(map(spans, tagger.tag([long, POSTS[3]]))) == gold([long, POSTS[3]])


def test_knowledge_is_read_but_not_pointed_at() -> None:
    tagger = tagger_of(knowledge=True)
    known = replace(POSTS[0], knowledge="ab")
    assert tagger.length(known) > tagger.length(POSTS[0])
    assert tagger.loss([known]).item() != pytest.approx(tagger.loss([POSTS[0]]).item(), rel=1e-6)
    memory = tagger.net.read(tagger._source([known]))
    assert memory.pointers.shape[1] == len(POSTS[0].tokens)


def test_dropout_is_for_training_alone() -> None:
    tagger = tagger_of(dropout=0.5)
    with torch.no_grad():
        assert len({tagger.loss(POSTS).item() for _ in range(3)}) == 3
    assert tagger.tag(POSTS) == tagger.tag(POSTS)


def test_types_begin_as_the_vectors_of_their_words() -> None:
    rows = bart().shared.weight
    grown = tagger_of().net.model.shared.weight
    assert len(grown) == len(rows) + 4
    assert torch.equal(grown[: len(rows)], rows)
    pieces = bytelevel()("location", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(grown[len(rows) + 1], rows[pieces].mean(0))


def test_what_the_decoder_has_no_place_for_is_told() -> None:
    tagger = tagger_of(max_length=64)
    long = Post("long", ("a",) * 40)
    found = tagger.tag([POSTS[3], long])
    assert found[1] == Failure("40 words are too many for this decoder", "tag")
    assert isinstance(found[0], list)
    assert isinstance(tagger_of("t5").tag([long])[0], list), "T5 counts no places"
    full = replace(long, entities=tuple(Entity("", "ORG", i, i + 1) for i in range(40)))
    with pytest.raises(InputError, match="post long: its mentions take 81 places of 80"):
        tagger.loss([full])


def test_scores_that_are_no_numbers_are_a_failure_not_an_empty_answer() -> None:
    tagger = tagger_of()
    with torch.no_grad():
        tagger.net.projection[0].bias[3] = float("nan")
    assert tagger.tag([POSTS[0], Post("e", ())]) == [Failure("a score is not finite", "tag"), []]
    tagger.calibrate(POSTS)
    assert tagger.temperature == 1


# ------------------------------------------------------------------------- calibration and files


def test_calibration_keeps_mentions_and_makes_an_overconfident_tagger_humbler() -> None:
    tagger = trained()
    muddled = [replace(POSTS[i], entities=POSTS[i].entities[i % 2 :]) for i in range(len(POSTS))]
    before = tagger.tag(POSTS)
    tagger.calibrate([*muddled, Post("e", ())])
    after = tagger.tag(POSTS)
    assert tagger.temperature > 1
    assert list(map(spans, after)) == list(map(spans, before))
    sums = [sum(sum(confidences(mentions)) for mentions in found) for found in (before, after)]
    assert sums[1] < sums[0]


@families
def test_a_saved_tagger_answers_as_before(family: str, tmp_path: Path) -> None:
    tagger = tagger_of(family, beams=2)
    tagger.temperature = 1.7
    tagger.save(tmp_path)
    again = open_tagger(config(backend="generative", batch_size=2), TWITTER, tmp_path)
    assert isinstance(again, GenerativeTagger)
    assert (again.temperature, again.config.beams) == (1.7, 2)
    for one, other in zip(again.tag(POSTS), tagger.tag(POSTS), strict=True):
        assert spans(one) == spans(other)
        assert confidences(one) == pytest.approx(confidences(other), abs=1e-5)
    assert not list(tmp_path.glob("*.bin"))
    assert load_file(tmp_path / "model.safetensors").keys() == again.trainable().keys()


@families
def test_a_checkpoint_folder_is_opened(family: str, tmp_path: Path) -> None:
    FAMILIES[family]().save_pretrained(tmp_path)
    bytelevel().save_pretrained(tmp_path)
    opened = open_tagger(config(backend="generative", path=str(tmp_path), dropout=0.0), TWITTER)
    expected = tagger_of(family).trainable()
    assert all(torch.equal(expected[name], w) for name, w in opened.trainable().items())


def real_classes() -> dict[str, Any]:
    """Checkpoints with an output layer and tokenizers, as transformers' own classes write them."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    letters = [(one, -3.0) for one in sorted(set("".join(w for p in POSTS for w in p.tokens)))]
    unigram = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    return {
        "bart": (
            BartForConditionalGeneration(bart().config),
            BartTokenizer({piece: i for i, piece in enumerate(pieces)}, [], model_max_length=80),
        ),
        "t5": (
            T5ForConditionalGeneration(t5().config),
            T5Tokenizer(unigram, extra_ids=0, model_max_length=80),
        ),
    }


@families
def test_checkpoints_of_real_classes_open_and_survive_saving(family: str, tmp_path: Path) -> None:
    for part in real_classes()[family]:
        part.save_pretrained(tmp_path / "published")
    settings = config(backend="generative", path=str(tmp_path / "published"))
    tagger = open_tagger(settings, TWITTER)
    tagger.loss(POSTS).backward()  # type: ignore[no-untyped-call]
    tagger.save(tmp_path / "saved")
    again = open_tagger(config(backend="generative"), TWITTER, tmp_path / "saved")
    assert again.tag([*POSTS, ODD]) == tagger.tag([*POSTS, ODD])


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    settings = config(backend="generative")
    with pytest.raises(InputError, match=r"tagger\.path: missing"):
        open_tagger(settings, TWITTER)
    for part in (bert(), wordpiece()):
        part.save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="has no decoder"):
        open_tagger(config(backend="generative", path=str(tmp_path / "bert")), TWITTER)
    tagger_of().save(tmp_path)
    with pytest.raises(InputError, match="finds PER, LOC, ORG, MISC; scheme ccks has aircraft"):
        open_tagger(settings, CCKS, tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "away.json")
    with pytest.raises(InputError, match="its model cannot be opened"):
        open_tagger(settings, TWITTER, tmp_path)
    (tmp_path / "away.json").rename(tmp_path / "config.json")
    facts = json.loads((tmp_path / "tagger.json").read_text())
    t5().save_pretrained(tmp_path)
    (tmp_path / "tagger.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"model\.safetensors: not this tagger's weights"):
        open_tagger(settings, TWITTER, tmp_path)


# ------------------------------------------------------------------------------------- in the flow


class StopError(Exception):
    pass


def test_a_run_that_is_stopped_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bart().save_pretrained(tmp_path / "bart")
    bytelevel().save_pretrained(tmp_path / "bart")
    for split in ("train", "dev"):
        write_posts(tmp_path / f"{split}.jsonl", POSTS[:4])
    recipe = TaggingConfig(
        data=TextData(source=str(tmp_path)),
        tagger=config(backend="generative", path=str(tmp_path / "bart"), device="cpu"),
        tuning=TaggerOptimiser(lr=0.01, batch_size=2, epochs=2),
        evaluate=["dev"],
        checkpoint_every_s=1e-6,
    )
    calm = tagging.run_tagging(recipe, tmp_path / "calm", quiet=True)
    assert len(calm["fit"]["dev_mner_f1"]) == 2
    real, left = tagging.atomic.write_bytes, [6]

    def failing(*words: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise StopError
        real(*words)

    monkeypatch.setattr(tagging.atomic, "write_bytes", failing)
    with pytest.raises(StopError):
        tagging.run_tagging(recipe, tmp_path / "run", quiet=True)
    assert tagging.run_tagging(recipe, tmp_path / "run", quiet=True) == calm
    for name in ("tagger/model.safetensors", "predictions/dev.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


def test_the_recipe_is_read() -> None:
    recipe = load_config(TaggingConfig, RECIPES / "bartner.yaml")
    assert (recipe.tagger.backend, recipe.tagger.path) == ("generative", "facebook/bart-large")
    assert recipe.tuning is not None
    assert (recipe.tuning.lr, recipe.tuning.batch_size, recipe.tuning.epochs) == (1e-5, 16, 30)
