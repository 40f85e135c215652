from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tiny_taggers import bytelevel, post, wordpiece

from groundling.errors import InputError
from groundling.models.taggers.pieces import Pieces, Window
from groundling.records import Post

TOKENIZERS = {"wordpiece": wordpiece, "bytelevel": bytelevel}


def shown(pieces: Pieces, window: Window) -> str:
    return " ".join(pieces.tokenizer.convert_ids_to_tokens(window.ids))


def test_a_post_is_one_row_and_each_word_is_its_first_piece() -> None:
    pieces = Pieces(wordpiece(), 64)
    (row,) = pieces.windows(post("the Paul/PER ab !"))
    assert shown(pieces, row) == "[CLS] the pa ##ul a ##b [UNK] [SEP]"
    assert row.words == [(0, 1), (1, 2), (2, 4), (3, 6)]
    assert row.segments == [0] * 8
    assert pieces.length(post("the Paul/PER ab !")) == 8


def test_words_that_a_tokenizer_makes_nothing_of_have_a_piece_too() -> None:
    pieces = Pieces(wordpiece(), 64)
    odd = Post("p", ("a", "\u200b", "", "\ufffd", "\u200d\ufe0f", "b"))
    (row,) = pieces.windows(odd)
    assert shown(pieces, row) == "[CLS] a [UNK] [UNK] [UNK] [UNK] b [SEP]"
    assert [word for word, _ in row.words] == list(range(6))


def test_knowledge_stands_behind_and_is_cut_from_the_right() -> None:
    told = replace(post("Paul/PER sings"), knowledge="the paul the")
    sentence = "[CLS] pa ##ul s ##i ##n ##g ##s [SEP]"
    for length, expected in {
        64: "the pa ##ul the [SEP]",
        12: "the pa [SEP]",
        11: "the [SEP]",
    }.items():
        pieces = Pieces(wordpiece(), length, knowledge=True)
        (row,) = pieces.windows(told)
        assert shown(pieces, row) == f"{sentence} {expected}"
        assert row.segments == [0] * 9 + [1] * len(expected.split())
        assert row.words == [(0, 1), (1, 3)]
    for pieces in (Pieces(wordpiece(), 10, knowledge=True), Pieces(wordpiece(), 64)):
        assert shown(pieces, pieces.windows(told)[0]) == sentence
    untold = Pieces(wordpiece(), 64, knowledge=True).windows(post("Paul/PER sings"))[0]
    assert shown(pieces, untold) == sentence


def test_a_tokenizer_with_two_separators() -> None:
    pieces = Pieces(bytelevel(), 64, knowledge=True)
    (row,) = pieces.windows(replace(post("ab c"), knowledge="de"))
    assert shown(pieces, row) == "<s> Ġ a b Ġ c </s> </s> Ġ d e </s>"
    assert row.words == [(0, 1), (1, 4)]
    assert not pieces.has_segments


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("seed", range(8))
def test_long_posts_lose_no_word(kind: str, seed: int) -> None:
    draws = random.Random(seed)
    length = draws.choice([8, 12, 30])
    pieces = Pieces(TOKENIZERS[kind](), length, knowledge=True)
    words = tuple("x" * draws.choice([0, 1, 1, 2, 3, 9, 40]) for _ in range(draws.randint(1, 60)))
    long = Post("p", words, knowledge="the")
    rows = pieces.windows(long)
    assert sorted(word for row in rows for word, _ in row.words) == list(range(len(words)))
    for row in rows:
        assert len(row.ids) == len(row.segments) <= length
        for word, place in row.words:
            assert row.ids[place] == pieces.of_word(words[word])[0]


def test_windows_overlap_and_a_word_is_taken_far_from_cuts() -> None:
    pieces = Pieces(wordpiece(), 12)  # ten pieces of text
    long = Post("p", tuple("abcdefghijklmnopqrst"))
    rows = pieces.windows(long)
    assert [shown(pieces, row).replace(" ", "") for row in rows] == [
        "[CLS]abcdefghij[SEP]",
        "[CLS]fghijklmno[SEP]",
        "[CLS]klmnopqrst[SEP]",
    ]
    taken = ["".join(long.tokens[word] for word, _ in row.words) for row in rows]
    assert taken == ["abcdefg", "hijkl", "mnopqrst"]


def test_a_word_longer_than_a_row_is_cut_not_lost() -> None:
    pieces = Pieces(wordpiece(), 8)
    rows = pieces.windows(Post("p", ("a", "b" * 50, "c")))
    assert all(len(row.ids) <= 8 for row in rows)
    assert [word for row in rows for word, _ in row.words] == [0, 1, 2]


def test_encoders_that_cannot_do_it_are_refused() -> None:
    with pytest.raises(InputError, match=r"max_length: got 65; this encoder reads at most 64"):
        Pieces(wordpiece(), 65)
    with pytest.raises(InputError, match="no unknown piece"):
        Pieces(bytelevel(unk_token=None), 64)
