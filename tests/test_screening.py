"""Screening of sentences that somebody else has made, and the command for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundling.cli import main
from groundling.config_gmner import SynthesisConfig
from groundling.data.jsonl import read_posts, write_posts
from groundling.errors import InputError
from groundling.records import CCKS, Entity, Post
from groundling.screening import NEAR_HELD_OUT, Imported, Sides, screen_posts
from groundling.synthesis.origins import nearer_held_out


def post(name: str, text: str, **kinds: str) -> Post:
    """A post with some of its words marked: `Kiel="location"`."""
    tokens = tuple(text.split())
    found = [Entity(word, kinds[word], i, i + 1) for i, word in enumerate(tokens) if word in kinds]
    return Post(name, tokens, tuple(found))


SEEDS = [
    post("a", "Early today the Marder crossed a river", Marder="vehicle"),
    post("b", "Two Marder and one Tornado wait in Kiel", Marder="vehicle", Tornado="aircraft"),
    post("c", "Nothing moved on the pier this morning"),
]
HELD_OUT = [post("h", "A Tornado of Laage lands at dusk", Tornado="aircraft", Laage="location")]
NEAR_SEED = [
    post("1", "In fog the Marder went ahead alone", Marder="vehicle"),
    post("2", "The crew cleaned its Marder near a village", Marder="vehicle"),
]
NEAR_HELD = [
    post("3", "From Laage the Tornado went north", Tornado="aircraft", Laage="location"),
    post("4", "People of Laage photographed a Tornado", Tornado="aircraft", Laage="location"),
]
OTHERS = [
    post("5", "a tornado of laage lands at dusk"),
    post("6", "The pilots went home early that evening"),
]


def screened(offered: list[Post], folder: Path, group: int | None = None) -> Imported:
    settings = SynthesisConfig(low=4, high=20)
    return screen_posts(offered, Sides(SEEDS, HELD_OUT), CCKS, settings, folder, group)


def test_sentences_stay_or_go_for_a_reason_and_keep_their_words(tmp_path: Path) -> None:
    odd = post("7", "Marder @ Kiel : a ' quoted ' test", Marder="vehicle", Kiel="location")
    offered = [*NEAR_SEED, *OTHERS, odd, NEAR_SEED[0], post("8", "The Marder hid in a wood")]
    done = screened(offered, tmp_path)
    assert done.refused == {
        "a text that is held out": 1,
        "a text that is there already": 1,
        "leaves unmarked what the seeds mark": 1,
    }
    assert (done.offered, done.held_out_texts, done.groups) == (7, 1, 0)
    kept = read_posts(tmp_path / "synthetic.jsonl", scheme=CCKS).posts
    assert list(kept) == done.posts
    assert [one.id for one in kept] == ["synthetic-1", "synthetic-2", "synthetic-6", "synthetic-7"]
    assert (kept[3].tokens, kept[3].entities) == (odd.tokens, odd.entities)
    lines = [json.loads(x) for x in (tmp_path / "provenance.jsonl").read_text().splitlines()]
    assert [line.get("refused") is None for line in lines] == [1, 1, 0, 1, 1, 0, 0]
    kinds = [line["kind"] for line in lines]
    assert kinds[0] == "same entities"
    assert kinds[2] == "no entities"
    assert kinds[4] == "new entities", "Kiel is no seed's entity"


def test_groups_near_held_out_posts_go_whole(tmp_path: Path) -> None:
    done = screened([*NEAR_SEED, *NEAR_HELD, *OTHERS], tmp_path, group=2)
    assert done.refused == {NEAR_HELD_OUT: 2, "a text that is held out": 1}
    assert (done.groups, done.held_out_groups) == (3, 1)
    with pytest.raises(InputError, match="groups of 4 for 6 sentences; wanted groups that come"):
        screened([*NEAR_SEED, *NEAR_HELD, *OTHERS], tmp_path, group=4)


@pytest.mark.parametrize(
    ("group", "held_out", "wanted"),
    [
        (NEAR_HELD, HELD_OUT, True),
        (NEAR_SEED, HELD_OUT, False),
        (OTHERS, HELD_OUT, False),
        (NEAR_HELD, [post("t", "A Tornado", Tornado="aircraft")], True),
        (NEAR_HELD, [post("m", "A MARDER", MARDER="vehicle")], False),
        (NEAR_HELD, [*HELD_OUT, SEEDS[2]], True),
        (NEAR_SEED, [post("m", "A MARDER", MARDER="vehicle")], False),  # a seed has that name too
    ],
)
def test_the_origin_of_a_group_is_told_by_names_that_occur_together(
    group: list[Post], held_out: list[Post], wanted: bool
) -> None:
    assert nearer_held_out(group, SEEDS, held_out, share=0.5) is wanted


def test_names_of_two_posts_are_not_those_of_one() -> None:
    """Frequent names count as a post's where they stand in the same sentences."""
    apart = [
        post("1", "The Tornado landed", Tornado="aircraft"),
        post("2", "Laage is far", Laage="location"),
    ]
    assert not nearer_held_out(apart, [], HELD_OUT, share=0.5)


def test_seeds_and_held_out_posts_share_no_text() -> None:
    with pytest.raises(InputError, match="1 held-out posts have the text of a seed, 'x' first"):
        Sides(SEEDS, [post("x", "NOTHING moved on the pier this morning")])


# ------------------------------------------------------------------------------------ the command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_posts(tmp_path / "seeds.jsonl", SEEDS, CCKS)
    write_posts(tmp_path / "dev.jsonl", HELD_OUT, CCKS)
    write_posts(tmp_path / "made.jsonl", [*NEAR_SEED, *NEAR_HELD, *OTHERS], CCKS)
    return tmp_path


WORDS = ["data", "screen", "made.jsonl", "out", "--seeds", "seeds.jsonl", "--scheme", "ccks"]
RECIPE = """
scheme: ccks
data: {source: out}
tagger: {backend: bilstm, word_size: 8, hidden_size: 8, device: cpu}
tuning: {epochs: 1, batch_size: 2}
evaluate: [dev]
"""


@pytest.mark.usefixtures("place")
def test_what_it_writes_is_fit_for_a_tagger(capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--held-out", "dev.jsonl", "--group", "2", "--set", "low=4"]
    assert main([*WORDS, *more, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kept"], told["offered"], told["train"], told["held_out"]) == (3, 6, 6, 1)
    assert read_posts("out/dev.jsonl", scheme=CCKS).posts == tuple(HELD_OUT)
    train = read_posts("out/train.jsonl", scheme=CCKS).posts
    assert [one.id for one in train] == ["a", "b", "c", "synthetic-1", "synthetic-2", "synthetic-6"]
    assert main(["data", "leaks", "out", "--scheme", "ccks", "--folded"]) == 0
    capsys.readouterr()
    Path("small.yaml").write_text(RECIPE)
    assert main(["tagger", "fit", "--config", "small.yaml", "--out", "run", "--quiet"]) == 0
    words = ["tagger", "tag", "run", "out", "--split", "dev", "--out", "said.jsonl", "--quiet"]
    assert main(words) == 0


@pytest.mark.usefixtures("place")
def test_it_tells_people_too_and_keeps_to_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--held-out", "dev.jsonl", "--group", "2", "--set", "low=4", "--set", "ratio=0.34"]
    assert main([*WORDS, *more]) == 0
    told = capsys.readouterr().out
    assert "3 of 6 sentences stay" in told
    assert f"     2  {NEAR_HELD_OUT}" in told
    assert "texts of held-out posts among them: 1, all refused" in told
    assert "groups near held-out posts: 1 of 3" in told
    assert "4 posts in out/train.jsonl, 3 of them the seeds" in told


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set", "lowest=4"], "lowest"),
        (["--group", "5"], "got groups of 5 for 6 sentences"),
        (["--held-out", "seeds.jsonl"], "have the text of a seed"),
        (["--held-out", "none.jsonl"], "none.jsonl"),
        (["--split", "train"], "no split 'train'"),
    ],
)
def test_wrong_calls_end_in_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, *words]) == 2
    told = capsys.readouterr().err
    assert line in told
    assert len(told.splitlines()) <= 2
