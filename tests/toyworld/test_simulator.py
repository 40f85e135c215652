from __future__ import annotations

import os
import subprocess
import sys

import pytest

from groundling.knowledge_prompt import Explanation, knowledge_messages, read_explanation
from groundling.prompts import as_text
from groundling.records import TWITTER, Post
from groundling.toyworld import identities as who
from groundling.toyworld.posts import draw_posts
from groundling.toyworld.simulator import Annotator, Simulator


def explained(annotator: Annotator, posts: list[Post]) -> list[Explanation]:
    """What the annotator says of each post, after the one before it as an example."""
    found = []
    for example, post in zip([posts[-1], *posts], posts, strict=False):
        question = as_text(knowledge_messages(post, [example], TWITTER, 80))
        found.append(read_explanation(annotator.answer(question, []), post, TWITTER))
    return found


def test_knowledge_is_right_as_often_as_the_skill_says() -> None:
    posts = [drawn.post for drawn in draw_posts("train", 400, seed=1)]
    names = [
        {name: kind for name, (kind, _) in who.NAMES.items() if f" {name} " in f" {post.text} "}
        for post in posts
    ]
    total = sum(map(len, names))
    for skill in (1.0, 0.7, 0.0):
        said = [dict(one.entities) for one in explained(Annotator(skill), posts)]
        assert all(row.keys() <= known.keys() for row, known in zip(said, names, strict=True))
        right = sum(len(a.items() & b.items()) for a, b in zip(said, names, strict=True))
        assert abs(right / total - skill) < 0.06
        missed = sum(len(b.keys() - a.keys()) for a, b in zip(said, names, strict=True))
        assert abs(missed / total - (1 - skill) / 2) < 0.06
    assert total > 300


def test_its_errors_depend_on_the_post_and_the_seed_alone() -> None:
    posts = [drawn.post for drawn in draw_posts("train", 60, seed=1)]
    first = explained(Annotator(0.5), posts)
    assert first == explained(Annotator(0.5), posts)
    backwards = explained(Annotator(0.5), posts[::-1])[::-1]
    assert first == backwards, "examples change nothing"
    assert first != explained(Annotator(0.5, seed=1), posts)


def test_a_caller_that_is_gone_is_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with Simulator(Annotator(1.0)) as server:
        for fault in (BrokenPipeError(), ConnectionResetError()):
            try:
                raise fault
            except ConnectionError:
                server.handle_error(None, ("127.0.0.1", 1))
        assert capfd.readouterr().err == ""
        try:
            raise KeyError("a fault of its own")
        except KeyError:
            server.handle_error(None, ("127.0.0.1", 1))
        assert "a fault of its own" in capfd.readouterr().err


def test_a_simulator_whose_starter_is_gone_ends_silently() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "groundling.toyworld.simulator", "--attached"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
