from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_taggers import POSTS, bilstm_tagger, config, post

from groundling.errors import DataError, InputError
from groundling.models.registry import open_tagger
from groundling.models.taggers.characters import Characters, alphabet_of
from groundling.models.taggers.words import PAD, UNKNOWN, Vocabulary, read_vectors
from groundling.records import TWITTER, Post


def test_the_vocabulary_folds_case_and_orders_by_count() -> None:
    words = Vocabulary.of([("b", "A", "a"), ("a", "c", "C")])
    assert words.words == ("a", "c", "b")
    assert [words.number(word) for word in ("A", "C", "b", "new")] == [2, 3, 4, UNKNOWN]
    assert len(words) == 5


def test_unknown_words_differ_by_their_characters() -> None:
    tagger = bilstm_tagger()
    net = tagger.net.eval()
    inputs = tagger.inputs([post("Yorkish"), post("paulette")])
    assert inputs.words.tolist() == [[UNKNOWN], [UNKNOWN]]
    with torch.no_grad():
        one, other = net(inputs)
    assert not torch.allclose(one, other)


def test_training_sometimes_takes_a_word_for_unknown_so_that_unknown_learns() -> None:
    tagger = bilstm_tagger(word_dropout=0.5)
    tagger.loss(POSTS).backward()  # type: ignore[no-untyped-call]
    gradient = tagger.net.embedding.weight.grad
    assert gradient is not None
    assert gradient[UNKNOWN].abs().sum() > 0
    assert gradient[PAD].abs().sum() == 0


def test_without_posts_there_is_no_vocabulary() -> None:
    with pytest.raises(InputError, match="give it posts to take its words from"):
        open_tagger(config(backend="bilstm"), TWITTER, posts=[Post("e", ())])


# ------------------------------------------------------------------------------------- characters


def test_characters_of_a_word_do_not_depend_on_its_company() -> None:
    layer = Characters("abc").eval()
    device = torch.device("cpu")
    with torch.no_grad():
        alone = layer(layer.numbers([["ab"]], device))
        together = layer(layer.numbers([["ab", "abcabcabc"], ["c"]], device))
    torch.testing.assert_close(together[0, 0], alone[0, 0])
    assert (together[1, 1] == 0).all(), "no word, no vector"


def test_the_maximum_is_over_the_words_own_windows() -> None:
    layer = Characters("ab", size=2, width=1)
    with torch.no_grad():
        layer.convolution.weight.zero_()
        layer.convolution.weight[0, 0, 1] = 1.0  # the middle character's first number
        layer.convolution.bias.fill_(-5.0)  # type: ignore[union-attr]
        layer.embedding.weight[2:] = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        found = layer(layer.numbers([["aa", "aba", ""]], torch.device("cpu")))
    assert found[0, :2, 0].tolist() == [-4.0, -2.0]


def test_empty_and_endless_words_have_characters_too() -> None:
    layer = Characters("a")
    numbers = layer.numbers([["", "a" * 100, "\u200b"]], torch.device("cpu"))
    assert numbers.shape == (1, 3, 30)
    assert numbers[0, 0, 0] == numbers[0, 2, 0] == 1


def test_the_alphabet_leaves_out_what_is_rare() -> None:
    assert alphabet_of(["ab", "ba", "aé"], least=2) == ("a", "b")


# ---------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("head", ["", "4 3\n"])
def test_vectors_of_known_words_are_read(tmp_path: Path, head: str) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text(head + "Paul 9 9 9\npaul 1 2 3\nPAUL 8 8 8\nother 4 5 6\nYork -1 0 1e-1 \n")
    found = read_vectors(path, Vocabulary(("paul", "york")), 3)
    assert found == {2: [1.0, 2.0, 3.0], 3: [-1.0, 0.0, 0.1]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("paul 1 2\n", "1: a vector of 2 numbers; word_size is 3"),
        ("x 1 2 3\npaul 1 2 x\n", "2: not a vector"),
        ("x 1 2 3\n", "holds no word of the training posts"),
    ],
)
def test_files_that_are_not_of_vectors(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_vectors(path, Vocabulary(("paul",)), 3)


def test_a_tagger_starts_from_given_vectors(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("york " + " ".join("7" * 12) + "\n")
    tagger = bilstm_tagger(vectors=str(path))
    weight = tagger.net.embedding.weight
    assert (weight[tagger.vocabulary.number("York")] == 7).all()
    assert (weight[tagger.vocabulary.number("Paul")] != 7).all()
    with pytest.raises(DataError, match="cannot be read"):
        bilstm_tagger(vectors=str(tmp_path / "none.txt"))
