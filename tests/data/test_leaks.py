from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundling.data.jsonl import read_posts
from groundling.data.leaks import find_leaks, folded_text, format_leaks, honest_split
from groundling.errors import InputError
from groundling.records import Entity, Post


def post(post_id: str, text: str, *names: str) -> Post:
    tokens = tuple(text.split())
    entities = [Entity(name, "LOC", tokens.index(name), tokens.index(name) + 1) for name in names]
    return Post(post_id, tokens, tuple(entities))


TRAIN = (
    post("a1", "see Kent", "Kent"),
    post("a2", "see Kent"),
    post("a3", "See Kent", "Kent"),
    post("a4", "see Ely", "Ely"),
    post("a5", "see Kent", "Kent"),
)
DEV = (post("b1", "see Ely", "Ely"), post("b2", "see Kent", "see"), post("b3", "no"))


def test_leaks_within_and_between_splits() -> None:
    leaks = find_leaks({"train": TRAIN, "dev": DEV, "test": (post("c1", "see Ely"),)})
    train, dev, test = leaks.within
    assert (train.posts, train.entities, train.texts) == (5, 4, 3)
    assert train.repeats == (("a2", "a1"), ("a5", "a1"))
    assert train.conflicting == ("a1",)
    assert (dev.repeats, dev.conflicting, test.entities) == ((), (), 0)
    pairs = {(pair.split, pair.other): pair for pair in leaks.between}
    assert pairs["dev", "train"].shared == (("b1", "a4"), ("b2", "a1"))
    assert pairs["dev", "train"].same == 1
    assert pairs["test", "train"].shared == (("c1", "a4"),)
    assert pairs["test", "train"].same == 0
    assert pairs["test", "dev"].shared == (("c1", "b1"),)
    assert "test: 1 posts, no entities: not tagged?" in format_leaks(leaks)


def test_letter_case_may_be_folded() -> None:
    (train,) = find_leaks({"train": TRAIN}, folded_text).within
    assert (train.texts, len(train.repeats), train.conflicting) == (2, 3, ("a1",))


def test_nothing_found_is_said() -> None:
    leaks = find_leaks({"train": TRAIN[:1], "dev": DEV[:1]})
    assert not leaks.found
    assert format_leaks(leaks).endswith("no text comes twice")


posts = st.lists(
    st.tuples(st.text("abAB", min_size=1, max_size=2), st.integers(0, 2)), max_size=20
).map(
    lambda drawn: [
        post(str(index), f"{name} x" + " y" * more, *([name] if more else []))
        for index, (name, more) in enumerate(drawn)
    ]
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(posts, st.floats(0, 1), st.integers(0, 5), st.sampled_from(["text", "name"]))
def test_an_honest_split_shares_no_text(
    drawn: list[Post], share: float, seed: int, by: Any
) -> None:
    split = honest_split(drawn, share, seed, by)
    sides = {name: {folded_text(p) for p in getattr(split, name)} for name in ("train", "held_out")}
    assert not sides["train"] & sides["held_out"]
    kept = [*split.train, *split.held_out, *split.mixed]
    assert len({folded_text(p) for p in kept}) == len(kept)
    assert sorted(p.id for p in (*kept, *split.repeated)) == sorted(p.id for p in drawn)
    assert list(split.train) == sorted(split.train, key=lambda p: int(p.id))
    if by == "name":
        names = [{e.name.casefold() for p in part for e in p.entities} for part in
                 (split.train, split.held_out)]  # fmt: skip
        assert not names[0] & names[1]
    else:
        assert split.mixed == ()
        assert abs(len(split.held_out) - share * len(kept)) <= 0.5


def test_what_is_held_out_depends_on_the_seed_and_the_texts_alone() -> None:
    many = [post(str(n), f"word{n} there", f"word{n}") for n in range(100)]
    for by in ("text", "name"):
        first = honest_split(many, 0.25, 3, by)  # type: ignore[arg-type]
        assert len(first.held_out) == 25
        again = honest_split(many[::-1], 0.25, 3, by)  # type: ignore[arg-type]
        assert again.held_out == first.held_out[::-1]
        other = honest_split(many, 0.25, 4, by)  # type: ignore[arg-type]
        assert set(other.held_out) != set(first.held_out)


def test_a_post_with_names_of_both_sides_is_on_neither() -> None:
    many = [post(f"{a}{b}", f"{a} {b}", a, b) for a in "abcdefgh" for b in "ijklmnop"]
    split = honest_split(many, 0.2, 0, "name")
    assert split.mixed
    assert len(split.train) + len(split.held_out) + len(split.mixed) == 64


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(InputError, match="wanted 0 to 1"):
        honest_split([], share, 0)


def test_the_commands(tmp_path: Path, data_command: Any) -> None:
    src = tmp_path / "src"
    src.mkdir()
    (src / "x_train.conll").write_text("Kent\tB-LOC\n\nkent\tB-LOC\n\nEly\tB-LOC\n\nYork\tB-LOC\n")
    (src / "x_dev.conll").write_text("Ely\tB-LOC\n")
    found = data_command("leaks", src, "--json")
    assert found.code == 1
    assert found.json["between"] == [
        {
            "split": "dev",
            "in": "train",
            "posts": 1,
            "shared": 1,
            "same_entities": 1,
            "shared_posts": [["dev-1", "train-3"]],
        }
    ]
    assert [part["repeats"] for part in found.json["within"]] == [0, 0]
    folded = data_command("leaks", src / "x_train.conll", "--folded")
    assert folded.code == 1
    assert "1 posts repeat an earlier one" in folded.out
    two = data_command("leaks", src / "x_train.conll", src / "x_train.conll")
    assert f"{src / 'x_train.conll'}:train in train: the texts of 4 of 4 posts" in two.out

    done = data_command("split", src, tmp_path / "out", "--split", "train", "--held-out", "0.3")
    assert done.out.splitlines()[2] == "left out: 1 posts whose text came before"
    sides = [read_posts(tmp_path / "out" / f"{name}.jsonl").posts for name in ("train", "dev")]
    assert [len(side) for side in sides] == [2, 1]
    assert data_command("leaks", tmp_path / "out").code == 0
    assert data_command("split", src, tmp_path / "out", "--held-out", "2").code == 2
