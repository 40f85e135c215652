from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_ofa

from groundling.errors import DataError, InputError
from groundling.models.ofa import OFATokenizer
from groundling.models.ofa.inputs import prompt


@pytest.fixture(scope="module")
def published() -> OFATokenizer:
    """A stand-in with the layout of the published vocabulary."""
    return tiny_ofa.tokenizer(text_tokens=50265, codes=8192, bins=1000)


def write(folder: Path, words: OFATokenizer, **extra: int) -> Path:
    """The two published files, without any list of added tokens."""
    (folder / "vocab.json").write_text(json.dumps(words.vocabulary | extra), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in words.merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_the_published_layout(published):
    assert len(published) == 59457
    added = published.added_tokens()
    assert (added["<code_0>"], added["<code_8191>"]) == (50265, 58456)
    assert (added["<bin_0>"], added["<bin_999>"]) == (58457, 59456)
    assert published.vocabulary["<mask>"] == 50264
    assert published.first_bin == 58457
    assert [published.bin_of(token) for token in (58456, 58457, 59456, 59457)] == [
        None,
        0,
        999,
        None,
    ]


def test_published_files_and_saved_ones(published, tmp_path):
    (tmp_path / "a").mkdir()
    loaded = OFATokenizer.from_pretrained(write(tmp_path / "a", published))
    loaded.save_pretrained(tmp_path / "b")
    again = OFATokenizer.from_pretrained(tmp_path / "b")
    (tmp_path / "c").mkdir()
    whole = OFATokenizer.from_pretrained(write(tmp_path / "c", published, **loaded.added_tokens()))
    for other in (loaded, again, whole):
        assert (other.vocabulary, other.merges) == (published.vocabulary, published.merges)
        assert (other.codes, other.bins) == (8192, 1000)
        assert other.encode(prompt("x")) == published.encode(prompt("x"))


def test_text_is_plain_text(published):
    tokens = published.encode(prompt("a red square"))
    assert (tokens[0], tokens[-1]) == (0, 2)
    named = [published.vocabulary[f"Ġ{word}"] for word in ("which", "region", "does")]
    assert tokens[1:4] == named
    assert published.decode(tokens) == prompt("a red square")
    for spelt in ("</s>", "<bin_5>", "<pad>", "<mask>", "<s>"):
        inner = published.encode(spelt)[1:-1]
        assert min(inner) > 3
        assert max(inner) < 50264
        assert published.decode(inner) == spelt
    assert published.decode([published.first_bin + 7, *published.encode(" naïve 東 🙂")]) == (
        "<bin_7> naïve 東 🙂"
    )


def test_batches_are_padded(published):
    assert published.batch([[0, 5, 2], [0, 2]]).tolist() == [[0, 5, 2], [0, 2, 1]]


def test_what_is_no_vocabulary(tmp_path):
    words = tiny_ofa.tokenizer()
    with pytest.raises(InputError, match=r"wanted vocab\.json"):
        OFATokenizer.from_pretrained(tmp_path)
    write(tmp_path, words, **{"<bin_0>": len(words.vocabulary)})
    assert OFATokenizer.from_pretrained(tmp_path).bins == 1
    write(tmp_path, words, **{"<bin_1>": len(words.vocabulary)})
    with pytest.raises(InputError, match="out of order"):
        OFATokenizer.from_pretrained(tmp_path)
    write(tmp_path, words, gap=9999)
    with pytest.raises(InputError, match="without a gap"):
        OFATokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('["a"]')
    with pytest.raises(DataError, match="got list; wanted a JSON object"):
        OFATokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": "1"}')
    with pytest.raises(DataError, match="token and number"):
        OFATokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        OFATokenizer.from_pretrained(tmp_path)
    write(tmp_path, words)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(InputError, match=r"merges\.txt:2: wanted two parts"):
        OFATokenizer.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="does not begin with <s>"):
        OFATokenizer({"a": 0}, [])
