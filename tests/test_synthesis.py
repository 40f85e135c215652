from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_server import Act, Asked, FaultServer, refused, said

from groundling.config_gmner import SynthesisConfig
from groundling.data.jsonl import read_posts
from groundling.errors import RunError
from groundling.models.endpoints import Endpoint, endpoint_config
from groundling.records import CCKS, TWITTER, Entity, Post
from groundling.synthesis.prompts import (
    Sentence,
    read_sentences,
    sentence_messages,
    to_post,
    tokenised,
)
from groundling.synthesis.screen import Limits, Offer, Screen, distinct, mixed
from groundling.synthesis.style import style_of
from groundling.synthesise import Synthesised, synthesise, tokenisation_of


def post(name: str, text: str, *entities: tuple[str, str]) -> Post:
    """A post with its names marked at their first place."""
    tokens = tuple(text.split())
    found = []
    for words, kind in entities:
        size = len(words.split())
        start = next(i for i in range(len(tokens)) if " ".join(tokens[i : i + size]) == words)
        found.append(Entity(words, kind, start, start + size))
    return Post(name, tokens, tuple(found))


SEEDS = [
    post("1", "The USS Nimitz left the harbour today", ("USS Nimitz", "vessel")),
    post("2", "A frigate and a tank met near Kiel", ("Kiel", "location")),
    post("3", "The frigate fired a missile near Kiel again", ("Kiel", "location")),
    post("4", "Nothing moved on the pier this morning"),
]


# ------------------------------------------------------------------------------------ answers


def test_the_question_shows_post_types_and_what_is_wanted() -> None:
    (turn,) = sentence_messages(SEEDS[0], "new entities", "Navy talk.", CCKS, 10, 10, 30)
    text = turn["content"][0]["text"]
    for words in (
        "The domain: Navy talk.",
        "The USS Nimitz left the harbour today — USS Nimitz [vessel]",
        "Write 10 new sentences of 10 to 30 words",
        "other entities than the post's, of the same types",
        f"- vessel: {CCKS.descriptions['vessel']}",
        '"type": "aircraft | vehicle | vessel | weapon | location | other"',
    ):
        assert words in text


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("Here you are:", "not one JSON object"),
        ("[]", 'a list "sentences"'),
        (json.dumps({"sentences": [{"text": "\ud800", "entities": []}]}), "surrogate pair"),
        ('{"sentences": []}', 'a list "sentences"'),
        ('{"sentences": [{"text": "a"}]}', 'needs "text" and "entities"'),
        ('{"sentences": ["a"]}', 'needs "text" and "entities"'),
        ('{"sentences": [{"text": "a", "entities": [{"name": "a"}]}]}', 'needs "name" and "type"'),
    ],
)
def test_answers_without_form_say_why(answer: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        read_sentences(answer)


def sentence(text: str, *entities: tuple[str, str]) -> Sentence:
    return Sentence(text, entities)


def test_names_are_marked_wherever_they_stand_the_longer_first() -> None:
    made = to_post(
        sentence(
            "New York, New York Times; New York.", ("New York", "LOC"), ("New York Times", "ORG")
        ),
        "x",
        TWITTER,
    )
    assert made.tokens == ("New", "York", ",", "New", "York", "Times", ";", "New", "York", ".")
    assert [(one.start, one.end, one.type) for one in made.entities] == [
        (0, 2, "LOC"),
        (3, 6, "ORG"),
        (7, 9, "LOC"),
    ]


def test_a_name_that_overlaps_itself_is_marked_once() -> None:
    made = to_post(sentence("New New New moon", ("New New", "LOC")), "x", TWITTER)
    assert [(one.start, one.end) for one in made.entities] == [(0, 2)]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (sentence("the boat", ("ship", "vessel")), "a name that its text does not hold"),
        (sentence("the boat", ("  ", "vessel")), "a name that its text does not hold"),
        (sentence("the boat", ("boat", "ship")), "an unknown type"),
        (sentence("the boat", ("boat", "vessel"), ("boat", "other")), "overlaps"),
        (sentence("the Kiel boat", ("Kiel boat", "vessel"), ("Kiel", "location")), "overlaps"),
    ],
)
def test_unsound_sentences_say_why(given: Sentence, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        to_post(given, "x", CCKS)


def test_tokens_are_words_handles_and_marks() -> None:
    words = tokenised("@nasa's F-35B (#jets) can't land.")
    assert words == ("@nasa's", "F-35B", "(", "#jets", ")", "can't", "land", ".")


# ---------------------------------------------------------------------------------- screening


FRIGATE = sentence("A frigate left Odessa", ("frigate", "vessel"), ("Odessa", "location"))


def screen(**limits: object) -> Screen:
    return Screen(CCKS, style_of(SEEDS), Limits(low=3, **limits), SEEDS)  # type: ignore[arg-type]


def offer(given: Sentence, kind: str = "new entities", number: int = 0) -> Offer:
    return Offer(given, "1", kind, number)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "kind", "why"),
    [
        (sentence("Go now"), "no entities", "too short or too long"),
        (sentence("word " * 41), "no entities", "too short or too long"),
        (sentence("Many boats sail the sea"), "new entities", "no entity"),
        (
            sentence("The HMS Hood sails on", ("HMS Hood", "vessel")),
            "no entities",
            "none were asked",
        ),
        (
            sentence("the uss nimitz left the HARBOUR today", ("uss nimitz", "vessel")),
            "same entities",
            "a text that is there already",
        ),
        (
            sentence("So the USS Nimitz left the harbour today", ("USS Nimitz", "vessel")),
            "same entities",
            "too much like another text",
        ),
        (
            sentence(
                "A frigate left Odessa at night", ("frigate", "vessel"), ("Odessa", "location")
            ),
            "new entities",
            "marks what the seeds leave unmarked",
        ),
        (
            sentence("They all love Kiel in summer", ("Kiel", "other")),
            "same entities",
            "marks with another type than the seeds",
        ),
        (
            sentence("a grey destroyer waits at sea", ("grey destroyer", "vessel")),
            "new entities",
            "marks a name written small",
        ),
        (
            sentence("HMS Hood steams to Kiel now", ("HMS Hood", "vessel")),
            "new entities",
            "leaves unmarked what the seeds mark",
        ),
    ],
)
def test_sentences_that_do_not_stay(given: Sentence, kind: str, why: str) -> None:
    fate = screen().take(offer(given, kind))
    assert isinstance(fate, str)
    assert why in fate


def test_what_stays_is_a_post_and_is_remembered() -> None:
    taking = screen()
    given = sentence("HMS Hood steams out to sea", ("HMS Hood", "vessel"))
    first = taking.take(offer(given))
    assert isinstance(first, Post)
    assert first.id == "1.new.0"
    assert [(one.name, one.type) for one in first.entities] == [("HMS Hood", "vessel")]
    assert taking.take(offer(given, number=1)) == "a text that is there already"


def test_the_style_check_can_be_left_out() -> None:
    loose = Screen(CCKS, style_of(SEEDS), Limits(low=3), SEEDS, check_style=False)
    assert isinstance(loose.take(offer(FRIGATE)), Post)


def test_one_new_name_is_not_used_for_ever() -> None:
    taking = screen(per_name=2)
    said_of_it = ("was built in Odessa long ago", "carries helicopters and troops", "needs paint")
    fates = [
        taking.take(offer(sentence(f"HMS Hood {words}", ("HMS Hood", "vessel"))))
        for words in said_of_it
    ]
    assert [isinstance(fate, Post) for fate in fates] == [True, True, False]
    assert fates[2] == "a name that is there often enough"
    kept = sentence("At noon the USS Nimitz turned", ("USS Nimitz", "vessel"))
    assert isinstance(taking.take(offer(kept, "same entities")), Post)


@pytest.mark.parametrize(
    ("name", "kind", "stays"),
    [
        ("HMS Hood", "same entities", False),  # not the seed's own, whatever was asked for
        ("HMS Hood", "new entities", False),
        ("USS Nimitz", "same entities", True),
        ("USS Nimitz", "new entities", True),
    ],
)
def test_only_the_seed_s_own_names_may_come_back_for_ever(
    name: str, kind: str, stays: bool
) -> None:
    taking = screen(per_name=1)
    for number, words in enumerate(("was built far away", "needs much paint")):
        given = sentence(f"Now {name} {words}", (name, "vessel"))
        fate = taking.take(offer(given, kind, number))
    assert isinstance(fate, Post) == stays


def test_new_sentences_get_tokens_like_the_seeds() -> None:
    """The CCKS task's texts have every mark alone, so must names that are learnt from."""
    apart = [post("1", "An NH - 90 and its crew", ("NH - 90", "aircraft"))]
    whole = [post("1", "@army can't fly NH-90s", ("@army", "other"))]
    given = sentence("Two F-16s can't land here", ("F-16s", "aircraft"))
    for seeds, name in ((apart, "F - 16s"), (whole, "F-16s")):
        tokenise = tokenisation_of(seeds)
        (entity,) = to_post(given, "x", CCKS, tokenise).entities
        assert entity.name == name
        taking = Screen(CCKS, style_of(seeds), Limits(low=3), seeds, tokenise=tokenise)
        made = taking.take(offer(given))
        assert isinstance(made, Post)
        assert made.entities == (entity,)


def test_the_mix_keeps_the_ratio_and_grows_with_it() -> None:
    many = [post(f"s{n}", f"word{n} here and there") for n in range(50)]
    small, large = (mixed(SEEDS, many, ratio, seed=1) for ratio in (2.0, 5.0))
    assert small[:4] == large[:4] == SEEDS
    assert (len(small), len(large)) == (4 + 8, 4 + 20)
    assert {one.id for one in small} < {one.id for one in large}
    assert len(mixed(SEEDS, many, 99.0, seed=1)) == 54


def test_distinct_bigrams() -> None:
    assert distinct([post("a", "x y x y")]) == pytest.approx(2 / 3)
    assert distinct([]) == 0.0


# --------------------------------------------------------------------------------------- flow


class Author:
    """Writes two sentences a question; fails or rambles when some are first put."""

    def __init__(self, faulty: int = 0) -> None:
        self.asked: Counter[str] = Counter()
        self.faulty = faulty
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Act:
        if "Describe in at most 150 words" in asked.text:
            return said("Posts about ships.  Only names are marked.")
        with self._lock:
            self.asked[asked.text] += 1
            number, times = list(self.asked).index(asked.text), self.asked[asked.text]
        if times == 1 and number < self.faulty:
            return refused(500)
        shown = re.search("as name \\[type\\]:\n(.*)\n", asked.text)
        assert shown is not None
        seed = next(one for one in SEEDS if shown[1].startswith(one.text))
        if "other entities than" in asked.text:
            names = [(f"HMS Hood {seed.id}", "vessel")]
        else:
            names = [(one.name, one.type) for one in seed.entities]
        words = f"In fog number {seed.id} we heard of " + " and ".join(
            n for n, _ in names or [("rain", "")]
        )
        rows = [(words, names), (words + " , frigate", [*names, ("frigate", "vessel")])]
        told = [
            {"text": text, "entities": [{"name": n, "type": k} for n, k in found]}
            for text, found in rows
        ]
        return said(json.dumps({"sentences": told}))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Synthesised]:
    def call(server: FaultServer, **settings: object) -> Synthesised:
        quick = {"backoff_s": 0.001, "attempts": 1, "api_key_env": None, "concurrency": 1}
        config = SynthesisConfig.model_validate({"sentences": 2, "alike": 1.0, **settings})
        with Endpoint(endpoint_config({"endpoint": server.url, "model": "m", **quick})) as endpoint:
            return synthesise(SEEDS, endpoint.assistant(), CCKS, config, tmp_path / "synth")

    return call


def test_sentences_are_screened_and_every_one_has_its_provenance(
    run: Callable[..., Synthesised], tmp_path: Path
) -> None:
    with FaultServer(script=Author()) as server:
        done = run(server)
    told = done.to_json()
    assert (told["questions"], told["offered"], told["kept"], told["failed"]) == (7, 14, 7, {})
    assert told["refused"] == {
        "marks what the seeds leave unmarked": 6,
        "entities where none were asked for": 1,
    }
    again = read_posts(tmp_path / "synth/synthetic.jsonl", scheme=CCKS).posts
    assert list(again) == done.posts
    assert [one.id for one in again][:3] == ["1.same.0", "1.new.0", "2.same.0"]
    lines = [json.loads(x) for x in (tmp_path / "synth/provenance.jsonl").read_text().splitlines()]
    assert len(lines) == 14
    assert {line["model"] for line in lines} == {"m"}
    assert sum("refused" in line for line in lines) == 7
    assert lines[0]["seed"] == "1"


def test_failed_questions_are_asked_again_and_the_end_is_the_same(
    run: Callable[..., Synthesised], tmp_path: Path
) -> None:
    with FaultServer(script=Author(faulty=3)) as server:
        first = run(server)
        assert [one.stage for one in first.failed] == ["api"] * 3
        lines = (tmp_path / "synth/provenance.jsonl").read_text().splitlines()
        errors = [line for line in map(json.loads, lines) if "error" in line]
        assert [one["error"]["stage"] for one in errors] == ["api"] * 3
        assert (errors[0]["seed"], errors[0]["kind"]) == ("1", "same entities")
        assert len(first.posts) < 7
        second = run(server)
        assert second.failed == []
        posts = len(server.asked)
        assert run(server).posts == second.posts
        assert len(server.asked) == posts, "all is known"
    with FaultServer(script=Author()) as calm:
        (tmp_path / "synth").rename(tmp_path / "before")
        assert run(calm).posts == second.posts


@pytest.mark.parametrize(
    "reply", ["I'm sorry, but I can't help with that request.", "OK.", "<think>The posts", "{}"]
)
def test_field_e1_what_is_no_profile_goes_into_no_prompt(
    run: Callable[..., Synthesised], reply: str
) -> None:
    with FaultServer(said(reply)) as server, pytest.raises(RunError, match="no profile of the"):
        run(server)
    assert all("labelled sentences to train" not in asked.text for asked in server.asked)


def test_without_a_profile_there_is_nothing(run: Callable[..., Synthesised]) -> None:
    with FaultServer(refused(500)) as server, pytest.raises(RunError, match="no profile of the"):
        run(server)
