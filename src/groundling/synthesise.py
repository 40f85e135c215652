"""The training stage of ReFineG: labelled sentences near the seed posts, screened and on record.

    seeds → profile → questions → sentences → screen → posts

What was answered is in a journal; a stopped run goes on and asks for what is missing. Screening
starts anew each time, in the order of the seeds, so that its outcome depends on the answers alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from groundling.asking import ask_all
from groundling.collect import kind_of
from groundling.config_gmner import SynthesisConfig
from groundling.data.jsonl import write_posts
from groundling.data.mentions import words
from groundling.errors import RunError
from groundling.models.base import Assistant, Question
from groundling.progress import Progress
from groundling.records import Failure, Post, Scheme
from groundling.screening import Screened, limits_of, write_lines
from groundling.synthesis.prompts import (
    Kind,
    Sentence,
    Tokenise,
    kinds_for,
    profile_messages,
    read_profile,
    read_sentences,
    sentence_messages,
    tokenised,
)
from groundling.synthesis.screen import Offer, Screen
from groundling.synthesis.style import style_of

Wanted = tuple[Post, Kind]
"""A question: near which seed post, and what its sentences are to hold."""


@dataclass
class Synthesised(Screened):
    """Sentences that were asked for, and why questions failed."""

    questions: int = 0
    failed: list[Failure] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The summary of a command."""
        failed = Counter(map(kind_of, self.failed))
        asked = {"questions": self.questions, "failed": dict(failed.most_common())}
        return asked | super().to_json()


def synthesise(
    seeds: Sequence[Post],
    assistant: Assistant,
    scheme: Scheme,
    settings: SynthesisConfig,
    folder: Path,
    progress: Progress | None = None,
) -> Synthesised:
    """Write `synthetic.jsonl` (posts) and `provenance.jsonl`: every sentence and its fate.

    A question that failed is a line there too, with the reason, and is asked again by the next
    call. Raises RunError where the domain's profile cannot be had, for all questions need it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    profile = write_profile(seeds, assistant, scheme, settings, folder)
    wanted = [(post, kind) for post in seeds for kind in kinds_for(post)]
    answers = _ask(wanted, profile, assistant, scheme, settings, folder, progress)
    done = Synthesised(questions=len(wanted))
    told: list[dict[str, Any]] = []
    style, tokenise = style_of(seeds), tokenisation_of(seeds)
    screen = Screen(scheme, style, limits_of(settings), seeds, settings.check_style, tokenise)
    for (post, kind), answer in zip(wanted, answers, strict=True):
        if isinstance(answer, Failure):
            done.failed.append(answer)
            error = answer.to_json()
            told.append({"seed": post.id, "kind": kind, "error": error, "model": assistant.name})
            continue
        for number, sentence in enumerate(answer):
            offer = Offer(sentence, post.id, kind, number)
            told.append(_screened(screen, offer, done) | {"model": assistant.name})
    write_posts(folder / "synthetic.jsonl", done.posts, scheme)
    write_lines(folder / "provenance.jsonl", told)
    return done


def tokenisation_of(seeds: Sequence[Post]) -> Tokenise:
    """How the seeds' texts were made into tokens: every mark alone, or handles and words whole.

    The CCKS task's texts are of the first kind, posts of Twitter-GMNER of the second.
    """
    tokens = {token for post in seeds for token in post.tokens}
    return words if all(words(token) == (token,) for token in tokens) else tokenised


def write_profile(
    seeds: Sequence[Post],
    assistant: Assistant,
    scheme: Scheme,
    settings: SynthesisConfig,
    folder: Path,
) -> str:
    """The domain in words, asked for once. Raises RunError where the call fails."""
    drawn = np.random.default_rng([settings.seed, 67]).permutation(len(seeds)).tolist()
    shown = [seeds[index] for index in sorted(drawn[: settings.profile_posts])]
    messages = profile_messages(shown, scheme)
    question = Question(lambda _: messages, lambda text, _: read_profile(text))
    (answer,) = ask_all(
        assistant,
        [messages],
        lambda _: question,
        journal=folder / "profile.journal",
        key=list,
        encode=str,
        decode=str,
        tries=settings.tries,
    )
    if isinstance(answer, Failure):
        raise RunError(f"no profile of the domain: {answer.reason}; run again")
    return answer


def _ask(
    wanted: Sequence[Wanted],
    profile: str,
    assistant: Assistant,
    scheme: Scheme,
    settings: SynthesisConfig,
    folder: Path,
    progress: Progress | None,
) -> list[tuple[Sentence, ...] | Failure]:
    def messages(item: Wanted) -> list[dict[str, Any]]:
        post, kind = item
        sizes = settings.sentences, settings.low, settings.high
        return sentence_messages(post, kind, profile, scheme, *sizes)

    def question(item: Wanted) -> Question[tuple[Sentence, ...]]:
        asked = messages(item)
        return Question(
            lambda _: asked, lambda text, _: read_sentences(text), (), settings.max_tokens
        )

    if progress is not None:
        progress.expect(len(wanted))
    return ask_all(
        assistant,
        wanted,
        question,
        journal=folder / "sentences.journal",
        key=lambda item: [item[0].id, *messages(item)],
        encode=lambda found: [[one.text, one.entities] for one in found],
        decode=lambda rows: tuple(Sentence(text, tuple(map(tuple, e))) for text, e in rows),
        tries=settings.tries,
        progress=progress,
    )


def _screened(screen: Screen, offer: Offer, done: Synthesised) -> dict[str, Any]:
    """Take a sentence or not; its line of provenance."""
    told = {
        "id": offer.id,
        "seed": offer.seed,
        "kind": offer.kind,
        "text": offer.sentence.text,
        "entities": [{"name": name, "type": kind} for name, kind in offer.sentence.entities],
    }
    return told | done.note(screen.take(offer))
