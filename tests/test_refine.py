"""The refinement stage against a local server that fails, and with an oracle in its place."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from pathlib import Path

import pytest
from fault_server import Act, Asked, FaultServer, refused, said
from PIL import Image

from groundling.config_gmner import RefinementConfig
from groundling.models.endpoints import Endpoint, endpoint_config
from groundling.records import TWITTER, Entity, Mention, Post
from groundling.refine import Refinery, refine, summary, validate
from groundling.routing import Routing

TOKENS = ("Anna", "saw", "New", "York", "Times", "of", "May")


NONSENSE = "It is a newspaper, I think."


def corpus(count: int, image: str | None = None) -> tuple[list[Post], dict[str, list[Mention]]]:
    """Posts with a name that is right, one cut too short, and a word that is no name."""
    gold = (Entity("Anna", "PER", 0, 1), Entity("New York Times", "ORG", 2, 5))
    posts = [Post(f"p{n}", (*TOKENS, f"no{n}"), gold, image) for n in range(count)]
    mentions = {
        post.id: [
            Mention(0, 1, "PER", 0.99 - n / 1000),
            Mention(2, 4, "LOC", 0.4 + n / 1000),
            Mention(6, 7, "PER", 0.3 + n / 1000),
        ]
        for n, post in enumerate(posts)
    }
    return posts, mentions


def truth(asked: Asked) -> dict[str, object]:
    """What a good annotator answers."""
    marked = re.search("Marked part: (.*)", asked.text)
    assert marked is not None
    names = {"Anna": ("Anna", "PER"), "New York": ("New York Times", "ORG")}
    name, kind = names.get(marked[1], (None, None))
    return {"reasoning": f"{marked[1]} is known.", "entity": name, "type": kind}


class Annotator:
    """Fails or talks nonsense for every third question when it is first put."""

    def __init__(self, faulty: bool = True) -> None:
        self.seen: Counter[str] = Counter()
        self.faulty = faulty
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Act:
        words = asked.text.partition(NONSENSE)[0]
        with self._lock:
            self.seen[words] += 1
            number, times = list(self.seen).index(words), self.seen[words]
        if self.faulty and times == 1 and number % 3 == 0:
            return refused(500)
        if self.faulty and times == 1 and number % 3 == 1:
            return said(NONSENSE)
        return said(json.dumps(truth(asked)))


def refinery(server: FaultServer, folder: Path, **settings: object) -> tuple[Endpoint, Refinery]:
    quick = {"backoff_s": 0.001, "attempts": 1, "api_key_env": None, "give_up_after": 1000}
    endpoint = Endpoint(endpoint_config({"endpoint": server.url, "model": "m", **quick}))
    config = RefinementConfig.model_validate(settings)
    return endpoint, Refinery(endpoint.assistant(), TWITTER, config, folder / "asked.jsonl")


def test_uncertain_mentions_are_corrected_and_sure_ones_left_alone(tmp_path: Path) -> None:
    posts, mentions = corpus(2)
    with FaultServer(script=Annotator(faulty=False)) as server:
        endpoint, asker = refinery(server, tmp_path)
        with endpoint:
            after, asked = refine(asker, posts, mentions, Routing(0.2))
    for post in posts:
        found = [(one.start, one.end, one.type) for one in after[post.id]]
        assert found == [(0, 1, "PER"), (2, 5, "ORG")]
    assert summary(asked, 6) == {
        "mentions": 6,
        "asked": 4,
        "changes": {"dropped": 2, "edited and retyped": 2},
        "failed": {},
    }
    assert not any("Marked part: Anna" in one.text for one in server.asked)


def test_failures_leave_the_mention_and_are_asked_again(tmp_path: Path) -> None:
    posts, mentions = corpus(6)
    annotator = Annotator()
    with FaultServer(script=annotator) as server:
        for run in range(2):
            endpoint, asker = refinery(server, tmp_path)
            with endpoint:
                after, asked = refine(asker, posts, mentions, Routing(0.2))
            failed = [one for one in asked if one.change == "failed"]
            assert len(failed) == (4 if run == 0 else 0)
            for one in failed:
                assert one.mention in after[one.post_id], "the tagger's mention stands"
                assert one.to_json()["error"] == {
                    "reason": "HTTP 500: no (tried 1 times)",
                    "stage": "api",
                }
    assert {len(row) for row in after.values()} == {2}
    assert set(annotator.seen.values()) == {1, 2}
    assert sum(annotator.seen.values()) == 12 + 4 + 4, "once, nonsense again, failures again"


@pytest.mark.parametrize(("shown", "there"), [(True, 1), (False, 0)])
def test_the_picture_is_shown_or_not(shown: bool, there: int, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    posts, mentions = corpus(1, str(tmp_path / "p.png"))
    with FaultServer(script=Annotator(faulty=False)) as server:
        endpoint, asker = refinery(server, tmp_path, picture=shown)
        with endpoint:
            refine(asker, posts, mentions, Routing(0.65))
    assert [len(one.pictures) for one in server.asked] == [there]


def test_an_unreadable_picture_leaves_the_mention(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"no picture")
    posts, mentions = corpus(1, str(tmp_path / "p.png"))
    with FaultServer(script=Annotator(faulty=False)) as server:
        endpoint, asker = refinery(server, tmp_path)
        with endpoint:
            after, (asked,) = refine(asker, posts, mentions, Routing(0.65))
    assert after == mentions
    assert asked.to_json()["error"]["stage"] == "image"
    assert server.asked == []


@pytest.mark.parametrize(("budget", "share"), [(0.7, 2 / 3), (0.4, 1 / 3), (0.0, 0.0)])
def test_the_threshold_is_chosen_on_validation_within_the_budget(
    budget: float, share: float, tmp_path: Path
) -> None:
    dev, said_of_dev = corpus(10)
    test, said_of_test = corpus(20)
    with FaultServer(script=Annotator(faulty=False)) as server:
        endpoint, asker = refinery(server, tmp_path, budget=budget)
        with endpoint:
            found = validate(asker, dev, said_of_dev)
            routing, curve = found.routing, found.curve
            calls = len(server.asked)
            _, asked = refine(asker, test, said_of_test, routing)
    assert calls == int(budget * 30 + 1e-9)
    assert len(curve.f1) == calls + 1
    assert len(asked) / 60 == pytest.approx(share, abs=0.07)
    assert len(asked) <= budget * 60
    if budget == 0.7:
        assert curve.f1[20] == pytest.approx(1.0)
        assert 0.03 < routing.threshold < 0.6, "between the unsure and the sure"


def test_a_given_threshold_is_used_as_it_is(tmp_path: Path) -> None:
    dev, mentions = corpus(2)
    with FaultServer(script=Annotator(faulty=False)) as server:
        endpoint, asker = refinery(server, tmp_path, threshold=0.5, budget=1.0)
        with endpoint:
            assert validate(asker, dev, mentions).routing == Routing(0.5, 1.0)


def test_the_control_is_counted_from_the_same_answers(tmp_path: Path) -> None:
    """Nobody is asked again for it, not even where a call had failed."""
    dev, mentions = corpus(4)
    annotator = Annotator()
    with FaultServer(script=annotator) as server:
        endpoint, asker = refinery(server, tmp_path, whole_curve=True)
        with endpoint:
            found = validate(asker, dev, mentions)
    assert sum(one.change == "failed" for one in found.asked) == 4
    assert sum(annotator.seen.values()) == 12 + 4, "once each, and nonsense again"
    assert len(found.by_chance) == 5
    for curve in found.by_chance:
        assert len(curve.f1) == 13
        assert (curve.f1[0], curve.f1[-1]) == (found.curve.f1[0], found.curve.f1[-1])
    assert any((curve.f1 != found.curve.f1).any() for curve in found.by_chance)
