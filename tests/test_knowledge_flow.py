"""Knowledge about posts, from the choice of examples to files that a tagger reads."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import Act, Asked, FaultServer, refused, said
from PIL import Image

from groundling.config_knowledge import KnowledgeConfig
from groundling.data.jsonl import read_posts
from groundling.data.knowledge import read_knowledge
from groundling.errors import ConfigError, RunError
from groundling.examples import Search
from groundling.knowledge import Pool, Tally, Teller, tell_split
from groundling.models.base import Embedder, Question
from groundling.models.embeddings import CharacterNgrams, Thumbnails
from groundling.models.endpoints import Endpoint, endpoint_config
from groundling.records import Entity, Failure, Post
from groundling.selection import Vectors, nearest
from groundling.settings import load_config

NAMES = ("Ann", "Ben", "Cid", "Dora", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo")
EMBEDDERS = (CharacterNgrams(), Thumbnails())


def embedders() -> tuple[Embedder, Embedder]:
    return EMBEDDERS


@pytest.fixture
def posts(tmp_path: Path) -> list[Post]:
    """Forty posts, each with a text of its own; every seventh without a picture."""
    rng = np.random.default_rng(5)
    words = ["the", "band", "club", "sings", "near", "road", "home", "again", "today", "old"]
    found = []
    for number in range(40):
        tokens = (NAMES[number % 10], str(number), *rng.choice(words, size=6).tolist())
        path = None
        if number % 7:
            path = str(tmp_path / f"{number}.png")
            colours = rng.integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(colours).save(path)
        found.append(Post(f"p{number}", tokens, (Entity(tokens[0], "PER", 0, 1),), path))
    return found


def settings(**changes: Any) -> KnowledgeConfig:
    here = {"endpoint": {"endpoint": "http://unused", "model": "m"}}
    return KnowledgeConfig.model_validate({**here, **changes})


# -------------------------------------------------------------------------------------- the choice


def cosines(one: Vectors, two: Vectors) -> np.ndarray:
    """All pairs, scaled to [0, 1] as a whole; 0 where something is missing. One pair at a time."""
    found = np.zeros((len(one), len(two)))
    there = np.zeros((len(one), len(two)), bool)
    for i, a in enumerate(one.astype(float)):
        for j, b in enumerate(two.astype(float)):
            if a.any() and b.any():
                there[i, j] = True
                found[i, j] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    low, high = found[there].min(), found[there].max()
    return np.where(there, (found - low) / (high - low), 0.0)


@pytest.mark.parametrize("weights", [(0.4, 0.2), (1.0, 0.0), (0.0, 1.0), (0.1, 0.9)])
def test_the_examples_are_those_of_brute_force(
    posts: list[Post], weights: tuple[float, float]
) -> None:
    asked, pool = posts[:12], posts[6:]
    config = settings(examples=4, text_weight=weights[0], image_weight=weights[1])
    found = Pool(pool, embedders, config).choose(asked)
    total = np.zeros((12, 34))
    parts = (lambda post: post.text), (lambda post: post.image or "")
    for weight, embedder, part in zip(weights, EMBEDDERS, parts, strict=True):
        rows = (embedder.embed([part(post) for post in side]) for side in (asked, pool))
        total += weight * cosines(*rows)
    for row, post in enumerate(asked):
        allowed = [i for i, other in enumerate(pool) if other.id != post.id]
        best = sorted((total[row, i] for i in allowed), reverse=True)[:4]
        chosen = [total[row, pool.index(one)] for one in found[row]]
        np.testing.assert_allclose(chosen, best[::-1], atol=1e-5)  # the nearest last
        assert len({one.id for one in found[row]}) == 4


def approximate() -> Search:
    pytest.importorskip("faiss", reason="needs the extra ann")
    from groundling.models.faiss_index import approximately_nearest

    return approximately_nearest


@pytest.mark.parametrize("search", ["exact", "faiss", "random"])
def test_no_post_is_shown_itself_by_id_or_by_text(posts: list[Post], search: str) -> None:
    repeat = Post("q", tuple(word.upper() for word in posts[0].tokens), posts[0].entities)
    pool = [*posts, repeat]
    config = settings(examples=len(pool), choose="random" if search == "random" else "similarity")
    choice = Pool(pool, embedders, config, approximate() if search == "faiss" else nearest)
    for post, shown in zip(pool, choice.choose(pool), strict=True):
        ids = {one.id for one in shown}
        own = {"p0", "q"} if post.id in ("p0", "q") else {post.id}
        assert not ids & own
        if search != "faiss":
            assert ids == {one.id for one in pool} - own, "and every other one may be"


def test_an_equal_text_of_another_split_is_not_shown_either(posts: list[Post]) -> None:
    stranger = Post("elsewhere", posts[3].tokens)
    (shown,) = Pool(posts, embedders, settings(examples=99)).choose([stranger])
    assert len(shown) == 39
    assert posts[3] not in shown


def test_what_does_not_count_is_not_opened(posts: list[Post]) -> None:
    class Refusing:
        def embed(self, _: Sequence[str]) -> Vectors:
            raise AssertionError("nobody needs these")

    def closed() -> tuple[Embedder, Embedder]:
        raise AssertionError("nobody needs these")

    texts, pictures = EMBEDDERS
    assert Pool(posts, closed, settings(examples=0)).choose(posts) == [()] * 40
    assert Pool([], closed, settings()).choose(posts[:1]) == [()]
    assert len(Pool(posts, closed, settings(choose="random")).choose(posts[:1])[0]) == 5
    by_text = Pool(posts, lambda: (texts, Refusing()), settings(image_weight=0))
    assert len(by_text.choose(posts[:1])[0]) == 5
    by_picture = Pool(posts, lambda: (Refusing(), pictures), settings(text_weight=0))
    assert len(by_picture.choose(posts[:1])[0]) == 5


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"endpoint": {}}, "wanted either endpoint or simulator"),
        ({"simulator.skill": 1.0}, "wanted either endpoint or simulator"),
        ({"text_weight": 0.0, "image_weight": 0.0}, "both 0; one must count"),
        ({"exampels": 3}, "did you mean examples"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, object], why: str) -> None:
    sound: dict[str, object] = {"endpoint": {"endpoint": "http://unused", "model": "m"}}
    with pytest.raises(ConfigError, match=why):
        load_config(KnowledgeConfig, None, sound | changes)


def test_the_recipe_can_be_read() -> None:
    recipe = Path(__file__).parents[1] / "recipes/gmner/knowledge.yaml"
    config = load_config(KnowledgeConfig, recipe, {"endpoint.model": "m"})
    assert (config.examples, endpoint_config(config.endpoint).model) == (5, "m")


# --------------------------------------------------------------------------------------- the flow


class Explainer:
    """Names the post's first word; refuses the first try of the posts that are `stubborn`."""

    def __init__(self, stubborn: Sequence[str] = ()) -> None:
        self.asked: Counter[str] = Counter()
        self.stubborn = stubborn

    def __call__(self, asked: Asked) -> Act:
        text = re.findall(r"^Post: (.*)$", asked.text, re.M)[-1]
        self.asked[text] += 1
        name, number, *_ = text.split()
        if number in self.stubborn and self.asked[text] == 1:
            return refused(500)
        entities = [{"name": name, "type": "PER"}]
        return said(json.dumps({"reasoning": f"I know {name}.", "entities": entities}))


MakeTeller = Callable[..., Teller]


@pytest.fixture
def teller(tmp_path: Path, posts: list[Post]) -> Iterator[MakeTeller]:
    endpoints = []

    def make(server: FaultServer, **changes: Any) -> Teller:
        quick = {"backoff_s": 0.001, "attempts": 1, "api_key_env": None, "picture_format": "png"}
        endpoint = Endpoint(endpoint_config({"endpoint": server.url, "model": "m", **quick}))
        endpoints.append(endpoint)
        config = settings(**{"examples": 2, **changes})
        pool = Pool(posts, embedders, config)
        return Teller(endpoint.assistant(), pool, config, tmp_path / "answers/asked.jsonl")

    yield make
    for endpoint in endpoints:
        endpoint.close()


def test_each_post_gets_words_their_source_and_the_examples_shown(
    teller: MakeTeller, posts: list[Post], tmp_path: Path
) -> None:
    with FaultServer(script=Explainer()) as server:
        asking = teller(server)
        tally = tell_split("train", asking, posts, tmp_path, quiet=True)
        shown = {tuple(one.id for one in row) for row in asking.pool.choose(posts)}
        for asked in server.asked:
            texts = re.findall(r"^Post: (.*)$", asked.text, re.M)
            assert len(texts) == 3
            assert texts.count(texts[-1]) == 1, "no post sees its own annotation"
            assert asked.text.count('Marked: [{"name": ') == 2
    assert tally == Tally(40, 40, unseen=6)
    told = read_knowledge(tmp_path / "train.jsonl")
    assert [one.about for one in told] == [post.id for post in posts]
    assert told[0].knowledge == "Named entities: Ann (PER). I know Ann."
    assert {one.source for one in told} == {"llm:m"}
    assert {one.examples for one in told} == shown
    assert not (tmp_path / "train.failures.jsonl").exists()


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("of_examples", [True, False])
def test_pictures_are_shown_as_configured(
    teller: MakeTeller, posts: list[Post], own: bool, of_examples: bool
) -> None:
    asked_about = posts[:8]
    changes = {"picture": own, "example_pictures": of_examples}
    with FaultServer(script=Explainer()) as server:
        asking = teller(server, **changes)
        asking.tell(asking.with_examples(asked_about))
        sent = {re.findall(r"^Post: (.*)$", one.text, re.M)[-1]: one for one in server.asked}
    for post, shown in zip(asked_about, asking.pool.choose(asked_about), strict=True):
        paths = [one.image for one in shown] if of_examples else []
        paths = [path for path in [*paths, post.image if own else None] if path is not None]
        pictures = sent[post.text].pictures
        assert len(pictures) == len(paths)
        for picture, path in zip(pictures, paths, strict=True):
            with Image.open(path) as original:
                far = np.asarray(picture, int) - np.asarray(original, int)
            assert np.abs(far).mean() < 1, "sent without loss, in the order of the posts"


def test_an_endpoint_that_fails_loses_nothing(
    teller: MakeTeller, posts: list[Post], tmp_path: Path
) -> None:
    stubborn = [str(number) for number in range(40) if number % 10 in (0, 3, 4)]  # 30 %
    with FaultServer(script=(author := Explainer(stubborn))) as server:
        asking = teller(server)
        with pytest.raises(RunError, match=r"train: 12 of 40 .* at the endpoint, first: HTTP 500"):
            tell_split("train", asking, posts, tmp_path, quiet=True)
        assert not (tmp_path / "train.jsonl").exists()
        lines = (tmp_path / "train.failures.jsonl").read_text().splitlines()
        failed = [json.loads(line) for line in lines]
        assert [one["id"] for one in failed] == [p.id for p in posts if p.tokens[1] in stubborn]
        assert all(one["stage"] == "api" and "500" in one["reason"] for one in failed)
        assert tell_split("train", asking, posts, tmp_path, quiet=True) == Tally(40, 40, unseen=6)
        assert not (tmp_path / "train.failures.jsonl").exists()
        again = {text.split()[1] for text, times in author.asked.items() if times == 2}
        assert again == set(stubborn)
        assert max(author.asked.values()) == 2
    calm = tmp_path / "calm"
    with FaultServer(script=Explainer()) as server:
        tell_split("train", teller(server), posts, calm, quiet=True)
    assert (calm / "train.jsonl").read_bytes() == (tmp_path / "train.jsonl").read_bytes()


def test_what_is_tolerated_has_no_line(
    teller: MakeTeller, posts: list[Post], tmp_path: Path
) -> None:
    with FaultServer(script=Explainer(["3", "4"])) as server:
        asking = teller(server, tolerate=0.05)
        tally = tell_split("train", asking, posts, tmp_path, quiet=True)
    assert (tally.posts, tally.told, sum(tally.failed.values())) == (40, 38, 2)
    told = {one.about for one in read_knowledge(tmp_path / "train.jsonl")}
    assert told == {post.id for post in posts} - {"p3", "p4"}


def test_nonsense_is_asked_for_again_and_is_never_knowledge(
    teller: MakeTeller, posts: list[Post], tmp_path: Path
) -> None:
    sound = Explainer()

    def nonsense(asked: Asked) -> Act:
        own = re.findall(r"^Post: (\w+)", asked.text, re.M)[-1]
        return said("no idea") if own == "Ann" else sound(asked)

    with FaultServer(script=nonsense) as server:
        tally = tell_split("train", teller(server), posts[:10], tmp_path, quiet=True)
        about_ann = [asked for asked in server.asked if "Post: Ann 0" in asked.text[-3000:]]
        complaints = [one for one in about_ann if "That answer cannot be used" in one.text]
    assert complaints
    assert (tally.told, dict(tally.failed)) == (9, {"not-json": 1})
    (line,) = map(json.loads, (tmp_path / "train.failures.jsonl").read_text().splitlines())
    assert line == {
        "id": "p0",
        "reason": "not one JSON object",
        "stage": "answer",
        "kind": "not-json",
    }
    assert "p0" not in {one.about for one in read_knowledge(tmp_path / "train.jsonl")}


def test_a_picture_that_cannot_be_read_fails_its_post_alone(
    teller: MakeTeller, posts: list[Post]
) -> None:
    Path(str(posts[1].image)).write_bytes(b"no picture")
    with FaultServer(script=Explainer()) as server:
        asking = teller(server)
        outcomes = asking.tell(asking.with_examples(posts[:5]))
    assert [isinstance(one, Failure) for one in outcomes] == [False, True, False, False, False]
    assert isinstance(outcomes[1], Failure)
    assert outcomes[1].stage == "image"


def test_an_example_whose_picture_cannot_be_read_is_shown_without_it(
    teller: MakeTeller, posts: list[Post], tmp_path: Path
) -> None:
    changes = {"example_pictures": True, "image_weight": 0}
    with FaultServer(script=Explainer()) as server:
        asking = teller(server, **changes)
        pictured = [one for one in asking.pool.choose(posts[1:2])[0] if one.image is not None]
        damaged = pictured[0]
        Path(str(damaged.image)).write_bytes(b"no picture")
        tally = tell_split("few", asking, posts[1:2], tmp_path, quiet=True)
        (asked,) = server.asked
        assert tally == Tally(1, 1, unreadable=1)
        assert f"Post: {damaged.text}\n" in asked.text
        assert len(asked.pictures) == len(pictured), "the post's own, and of all but one example"
        unshown = teller(server, **{**changes, "example_pictures": False})
        assert tell_split("few", unshown, posts[1:2], tmp_path, quiet=True) == Tally(1, 1)


class Stopping:
    """An assistant that answers in order and is interrupted after some answers."""

    name = manner = "m"

    def __init__(self, after: int) -> None:
        self.after, self.asked = after, list[str]()

    def ask(self, questions: Sequence[Question[Any]], _: int = 2) -> Iterator[tuple[int, Any]]:
        for place, question in enumerate(questions):
            if len(self.asked) == self.after:
                raise KeyboardInterrupt
            text = question.messages(())[0]["content"]
            own = re.findall(r"^Post: (.*)$", "".join(p.get("text", "") for p in text), re.M)[-1]
            self.asked.append(own)
            reply = json.dumps({"reasoning": "r", "entities": []})
            yield place, question.read(reply, ())


def test_a_stopped_run_goes_on_with_what_is_missing(posts: list[Post], tmp_path: Path) -> None:
    pool = Pool(posts, embedders, settings())

    def ask(assistant: Stopping, **changes: Any) -> list[str]:
        asking = Teller(assistant, pool, settings(**changes), tmp_path / "asked.jsonl")
        asking.tell(asking.with_examples(posts))
        return assistant.asked

    first = Stopping(17)
    with pytest.raises(KeyboardInterrupt):
        ask(first)
    assert first.asked + ask(Stopping(99)) == [post.text for post in posts]
    assert ask(Stopping(99), tolerate=0.5) == []
    assert len(ask(Stopping(99), words=30)) == 40, "another question is asked anew"


def test_examples_are_told_with_their_reasons(
    teller: MakeTeller, posts: list[Post], tmp_path: Path
) -> None:
    known = [Post(p.id, p.tokens, p.entities, knowledge=f"Reason {p.id}.") for p in posts]
    with FaultServer(script=Explainer()) as server:
        asking = teller(server)
        pool = Pool(known, embedders, asking.settings)
        knowing = Teller(asking.assistant, pool, asking.settings, tmp_path / "j")
        knowing.tell(knowing.with_examples(posts[:1]))
        (asked,) = server.asked
    shown = [one.id for one in pool.choose(posts[:1])[0]]
    assert re.findall(r"^Why: Reason (\w+)\.$", asked.text, re.M) == shown


def test_posts_read_from_a_file_are_told_of_by_its_ids(tmp_path: Path, teller: MakeTeller) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text('{"id": "x/1", "text": "Ann 1 sings"}\n{"id": "é", "text": "Ben 2 sings"}\n')
    with FaultServer(script=Explainer()) as server:
        tell_split("few", teller(server), read_posts(path).posts, tmp_path / "out", quiet=True)
    assert [one.about for one in read_knowledge(tmp_path / "out/few.jsonl")] == ["x/1", "é"]
