"""kill -9 while an LLM is asked for knowledge, the same command again: nothing is asked twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from fault_server import Act, Asked, FaultServer, said

from groundling.cli import main
from groundling.data.jsonl import write_posts
from groundling.data.knowledge import read_knowledge
from groundling.records import Entity, Post

POSTS = [
    Post(f"p{number}", ("Ann", f"sings{number}"), (Entity("Ann", "PER", 0, 1),))
    for number in range(30)
]


class Killing:
    """Answers; when it is asked for the `last` time, the process that asks is killed first."""

    def __init__(self, last: int) -> None:
        self.last, self.asked = last, list[str]()
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, asked: Asked) -> Act:
        self.asked.append(re.findall(r"^Post: (.*)$", asked.text, re.M)[-1])
        if len(self.asked) == self.last and self.process is not None:
            self.process.kill()
            self.process.wait()
        return said(json.dumps({"reasoning": "r", "entities": []}))


def test_a_kill_costs_the_calls_under_way_alone(tmp_path: Path) -> None:
    write_posts(tmp_path / "posts.jsonl", POSTS)
    script = Killing(last=18)
    with FaultServer(script=script) as server:
        words = ["tagger", "knowledge", str(tmp_path / "posts.jsonl"), "--quiet"]
        words += ["--examples", str(tmp_path / "posts.jsonl"), "--out", str(tmp_path / "words")]
        keys = {"endpoint": server.url, "model": "m", "api_key_env": "null", "concurrency": "1"}
        words += [f"--set=endpoint.{key}={value}" for key, value in keys.items()]
        words += ["--set=choose=random"]  # so that no model is opened
        script.process = subprocess.Popen([sys.executable, "-m", "groundling", *words])
        script.process.wait()
        journal = tmp_path / "words/answers/asked.jsonl"
        kept = journal.read_bytes().count(b"\n")
        assert not (tmp_path / "words/posts.jsonl").exists()
        assert 0 < kept < 18, "what was under way is lost"
        first, script.process = len(script.asked), None
        assert main(words) == 0
    assert len(script.asked) - first == 30 - kept
    assert set(script.asked) == {post.text for post in POSTS}
    told = read_knowledge(tmp_path / "words/posts.jsonl")
    assert [one.about for one in told] == [post.id for post in POSTS]
    assert all(one.about not in one.examples and len(one.examples) == 5 for one in told)
