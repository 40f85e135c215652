"""A simulated annotator of the embedded world, behind a server that speaks OpenAI's protocol.

    python -m groundling.toyworld.simulator --skill 0.9 --port 8123

For tests and tutorials only: it stands where a frozen multimodal LLM would, knows the names of the
embedded world, and errs at a stated rate. Whether it errs is decided by a digest of what it is
asked about and never by a tagger's confidence, which it is not told. Where a named entity is in a
picture it does not know by itself: it looks for what the solved examples show (`likeness`).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import random
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from groundling.records import TWITTER, Box
from groundling.strict_json import parse_json
from groundling.toyworld import identities as who
from groundling.toyworld.likeness import find_alike
from groundling.toyworld.posts import CLAUSES, VAGUE

TEMPLATES = {
    "PER": ("nobody laughs like {}", "we waited an hour for {}", "{} waved at the crowd"),
    "LOC": ("the train to {} was late", "nothing is as quiet as {}", "we drove through {} at dawn"),
    "ORG": (
        "{} opened a new office",
        "our friends of {} came along",
        "people of {} sang all night",
    ),
    "MISC": ("he dropped the {} twice", "somebody sold me the {}", "they polished the {} again"),
}
"""Clauses of its own, beside those of the world: an LLM writes otherwise than the seeds."""

_POST = re.compile(r"^Post: (.*)$", re.M)


class Annotator:
    """Answers questions about the embedded world; right with probability `skill`, seeded."""

    def __init__(self, skill: float, seed: int = 0) -> None:
        self._skill, self._seed = skill, seed

    def answer(self, text: str, pictures: list[Image.Image]) -> str:
        """The answer to a question of ReFineG's or PGIM's flow. Raises ValueError for others."""
        if "Describe in at most 150 words" in text:
            return (
                "Short cheerful posts about people, places, brands and things. Names are written "
                "with capital letters; only names are marked, never general words."
            )
        if "Answer with one JSON object" not in text and "answer with one JSON object" not in text:
            raise ValueError("a question that the simulated annotator does not know")
        if "new sentences" in text:
            return self._sentences(text)
        if "Marked part:" in text:
            return self._refinement(text)
        if "The post to explain" in text:
            return self._explanation(text)
        return self._box(text, pictures)

    def _draws(self, *about: object) -> np.random.Generator:
        """A generator that depends on the seed and on what is asked about alone."""
        told = json.dumps([self._seed, *about])
        digest = hashlib.blake2b(told.encode(), digest_size=16).digest()
        return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))

    # ------------------------------------------------------------------------------ synthesis

    def _sentences(self, text: str) -> str:
        seed_post = _between(text, "as name [type]:\n", "\n\nWrite ")
        rng = self._draws("sentences", seed_post, "other entities" in text)
        names = re.findall(r"([^;—]+) \[(\w+)\]", seed_post.rpartition(" — ")[2])
        count = int(_between(text, "Write ", " new sentences"))
        rows = []
        for _ in range(count):
            held = [(name.strip(), kind) for name, kind in names]
            if "other entities" in text:
                held = [(str(rng.choice(who.names_of(kind))), kind) for _, kind in held]
            rows.append(self._sentence(list(dict.fromkeys(held)), rng))
        return json.dumps({"sentences": rows})

    def _sentence(self, held: list[tuple[str, str]], rng: np.random.Generator) -> dict[str, Any]:
        """Clauses about the names; with probability 1 − skill a name is labelled wrongly."""
        clauses = [
            str(rng.choice(TEMPLATES[kind] + CLAUSES[kind] + VAGUE)).format(n) for n, kind in held
        ]
        words = " and ".join(clauses) or "nothing happened here today at all"
        close = str(rng.choice(["again and again", "as ever", "this week", "once more"]))
        marked = [
            {"name": n, "type": kind if rng.random() < self._skill else _another(kind, rng)}
            for n, kind in held
        ]
        if rng.random() > self._skill:  # an LLM's idea of an entity: domain knowledge conflict
            marked.append({"name": close, "type": "MISC"})
        return {"text": f"{words} {close} .", "entities": marked}

    # ----------------------------------------------------------------------------- refinement

    def _refinement(self, text: str) -> str:
        """What the marked part is by the world's own list of names, or an error."""
        post, name, kind = (_last(pattern, text) for pattern in _MARKED)
        rng = self._draws("refinement", post, name, kind)
        truth = _true_name(name, post)
        if rng.random() >= self._skill:
            truth = _mistake(truth, name, kind, rng)
        told = {"reasoning": "As I know these names.", "entity": None, "type": None}
        return json.dumps(told | ({} if truth is None else {"entity": truth[0], "type": truth[1]}))

    # ------------------------------------------------------------------------------ knowledge

    def _explanation(self, text: str) -> str:
        """The post's names by the world's own list; an error misses one, or gives another type."""
        post = _last(_POST, text)
        rng = self._draws("knowledge", post)
        told = []
        for name, kind in _known_names(post):
            if rng.random() < self._skill:
                told.append({"name": name, "type": kind})
            elif rng.random() < 0.5:
                told.append({"name": name, "type": _another(kind, rng)})
        return json.dumps({"reasoning": "As I know these names.", "entities": told})

    # ------------------------------------------------------------------------------ grounding

    def _box(self, text: str, pictures: list[Image.Image]) -> str:
        """Where the case's picture shows what the examples of the same entity show."""
        *before, case = re.split(r"\nExample \d+\n|\nThe case\n", text)[1:]
        entity = _last(_ENTITY, case)
        rng = self._draws("box", _last(_POST, case), entity)
        shown = []
        for part, picture in zip(before, pictures, strict=False):
            box = json.loads(_last(_SOLVED, part))["box"]
            if _last(_ENTITY, part) == entity and box is not None:
                shown.append((picture, _pixels(box, picture)))
        found = find_alike(pictures[-1], shown, head_only=entity.endswith("(PER)"))
        if rng.random() >= self._skill:
            found = None if found is not None else Box(0, 0, *pictures[-1].size)
        numbers = None if found is None else _shares(found, pictures[-1])
        reasons = f"{len(shown)} of {len(before)} examples show it."
        return json.dumps({"reasoning": reasons, "box": numbers})


_MARKED = (_POST, re.compile(r"^Marked part: (.*)$", re.M), re.compile(r"^Marked as: (.*)$", re.M))
_ENTITY = re.compile(r"^Entity: (.*)$", re.M)
_SOLVED = re.compile(r"^Answer: (.*)$", re.M)


def _known_names(post: str) -> list[tuple[str, str]]:
    """The world's names that a post holds, with their types; the longest first."""
    return [
        (name, kind)
        for name, (kind, _) in sorted(who.NAMES.items(), key=lambda row: -len(row[0]))
        if re.search(rf"(?<!\S){re.escape(name)}(?!\S)", post)
    ]


def _true_name(marked: str, post: str) -> tuple[str, str] | None:
    """The known name of the post that shares most words with what is marked; None for none."""
    words = set(marked.split())
    shared = [(len(words & set(row[0].split())), row) for row in _known_names(post)]
    most, name = max(shared, key=lambda pair: pair[0], default=(0, None))
    return name if most else None


def _mistake(
    truth: tuple[str, str] | None, marked: str, kind: str, rng: np.random.Generator
) -> tuple[str, str] | None:
    """A wrong answer: an entity loses its type or is dropped; what is none is confirmed."""
    if truth is None:
        return marked, kind
    return (truth[0], _another(truth[1], rng)) if rng.random() < 0.5 else None


def _another(kind: str, rng: np.random.Generator) -> str:
    return str(rng.choice([other for other in TWITTER.types if other != kind]))


def _pixels(box: list[float], picture: Image.Image) -> Box:
    wide, high = picture.size
    return Box(*(v * side / 1000 for v, side in zip(box, (wide, high) * 2, strict=True)))


def _shares(box: Box, picture: Image.Image) -> list[int]:
    wide, high = picture.size
    return [round(v * 1000 / side) for v, side in zip(box.xyxy, (wide, high) * 2, strict=True)]


def _last(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.findall(text)
    if not found:
        raise ValueError(f"a question without {pattern.pattern}")
    return str(found[-1]).strip()


def _between(text: str, before: str, after: str) -> str:
    return text.partition(before)[2].partition(after)[0].strip()


# ------------------------------------------------------------------------------------- server


class Simulator(ThreadingHTTPServer):
    """The annotator at `http://127.0.0.1:PORT/v1`; fails a share of first tries with status 500."""

    daemon_threads = True

    def __init__(self, annotator: Annotator, port: int = 0, fail: float = 0.0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.annotator = annotator
        self._fail = fail
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def fails(self, body: bytes) -> bool:
        """Whether this request is to fail: by chance, if it is seen for the first time."""
        digest = hashlib.sha256(body).hexdigest()
        with self._lock:
            first = digest not in self._seen
            self._seen.add(digest)
            return first and random.random() < self._fail

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, but nothing where who asked is gone: it may have been killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Simulator

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.fails(body):
            return self._reply(500, {"error": {"message": "simulated failure"}})
        try:
            asked: Any = parse_json(body)
            said = self.server.annotator.answer(*_read(asked))
        except (ValueError, LookupError, TypeError) as fault:
            return self._reply(400, {"error": {"message": str(fault)}})
        message = {"role": "assistant", "content": said}
        usage = {"prompt_tokens": len(body) // 4, "completion_tokens": len(said) // 4}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self._reply(200, {"object": "chat.completion", "choices": [choice], "usage": usage})

    def _reply(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def _read(asked: dict[str, Any]) -> tuple[str, list[Image.Image]]:
    """The words of the first turn, and its pictures; complaints after it change nothing."""
    texts, pictures = [], []
    for part in asked["messages"][0]["content"]:
        if part["type"] == "text":
            texts.append(part["text"])
        else:
            data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            pictures.append(Image.open(io.BytesIO(data)).convert("RGB"))
    return "".join(texts), pictures


def _wait_for_the_end(server: Simulator) -> None:
    """Stop serving when whoever holds the other end of stdin is gone, killed or not."""
    sys.stdin.read()
    server.shutdown()


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted; the first line on stdout is the base URL."""
    parser = argparse.ArgumentParser(prog="groundling.toyworld.simulator", description=__doc__)
    parser.add_argument("--skill", type=float, default=0.9, help="share of right answers")
    parser.add_argument("--seed", type=int, default=0, help="changes which answers are wrong")
    parser.add_argument("--fail", type=float, default=0.0, help="share of first tries that fail")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--attached", action="store_true", help="end when stdin is closed")
    args = parser.parse_args(argv)
    with Simulator(Annotator(args.skill, args.seed), args.port, args.fail) as server:
        try:
            print(server.url, flush=True)
        except BrokenPipeError:  # who started it is gone already
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if args.attached:
            threading.Thread(target=_wait_for_the_end, args=(server,), daemon=True).start()
        try:
            server.serve_forever(0.05)
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
