"""From posts to (entity, type, box) triples: GMNER (ISR §4.3, ReFineG).

    posts → mentions → mentions refined where uncertain → boxes → predictions

What is found out on the way is kept in a folder beside the predictions, `NAME.work/`: the same call
goes on where a stopped one was, and asks again for what failed. A mention that
could not be grounded, and a post that could not be tagged, is an error record: never an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundling.atomic import contents, write_bytes
from groundling.collect import kind_of
from groundling.data.jsonl import write_predictions
from groundling.groundings import Grounding, Located, predictions_of
from groundling.infer import map_batches
from groundling.models.base import Tagger
from groundling.progress import Progress
from groundling.records import TWITTER, Failure, Mention, Post, PostPrediction, Scheme
from groundling.refine import Asked, Refinery, record, refine, summary
from groundling.routing import Routing

CHUNK = 256
"""Posts a chunk of tagging: what a kill can cost."""


@dataclass(frozen=True, slots=True)
class Refining:
    """Whom to ask about uncertain mentions, and which ones."""

    refinery: Refinery
    routing: Routing


@dataclass
class Told:
    """What a call of `find_triples` found, over all posts."""

    posts: int = 0
    """Posts in which nothing failed, those without mentions too."""
    boxes: int = 0
    """Mentions with a box."""
    absent: int = 0
    """Mentions that are not in their picture."""
    failed_posts: int = 0
    """Posts that are error records or hold one."""
    failed: Counter[str] = field(default_factory=Counter)
    """Failed mentions, and posts that were not tagged, by kind."""
    lost: list[Failure] = field(default_factory=list)
    """Why one of two ways gave no answer, for each mention that the other one grounded alone."""
    outcomes: list[Located | Failure] = field(default_factory=list)
    """What came of each question: two a mention where two ways were asked."""
    left_out: int = 0
    """Pictures of examples that cannot be read: these examples were not shown."""
    refinement: dict[str, Any] | None = None
    """What asking about uncertain mentions came to; None where nobody was asked."""

    @property
    def complete(self) -> bool:
        """Whether nothing failed that the same call would try again."""
        unasked = (self.refinement or {}).get("changes", {}).get("failed", 0)
        return not (self.failed_posts or self.lost or unasked)

    def to_json(self) -> dict[str, Any]:
        """The summary of a command."""
        told = {"posts": self.posts, "boxes": self.boxes, "absent": self.absent}
        failures = {"failed_posts": self.failed_posts, "failed": dict(self.failed.most_common())}
        lost = Counter(map(kind_of, self.lost))
        failures["one_way_alone"] = dict(lost.most_common())
        failures["unreadable_example_pictures"] = self.left_out
        return {**told, **failures, "refinement": self.refinement}


def work_folder(out: Path) -> Path:
    """Where a predictions file's unfinished business lies."""
    return out.with_name(f"{out.stem}.work")


def find_triples(
    posts: Sequence[Post],
    tagger: Tagger,
    grounding: Grounding,
    out: Path,
    who: str,
    *,
    refining: Refining | None = None,
    scheme: Scheme = TWITTER,
    quiet: bool = False,
) -> Told:
    """Write the predictions file `out`, one line a post, in order.

    `who` names the tagger and its version: what was tagged by another is not taken over. What was
    asked about uncertain mentions is told in `refinement.jsonl` in the work folder. Raises what the
    models raise for what every post would meet; what was found until then stays.
    """
    work = work_folder(out)
    with Progress("tagging", len(posts), "posts", quiet=quiet) as progress:
        tagged = tag_posts(tagger, posts, work / "tags", who, progress)
    answered = [post for post in posts if not isinstance(tagged[post.id], Failure)]
    mentions = {post.id: row for post in answered if isinstance(row := tagged[post.id], list)}
    told = Told()
    if refining is not None:
        total = sum(map(len, mentions.values()))
        mentions, asked = _refined(answered, mentions, refining, quiet)
        told.refinement = summary(asked, total)
        write_bytes(work / "refinement.jsonl", record(asked))
    failures = {key: row for key, row in tagged.items() if isinstance(row, Failure)}
    said = ground_posts(posts, mentions, failures, grounding, work / "grounding", told, quiet)
    write_predictions(out, said, scheme)
    return told


def ground_posts(
    posts: Sequence[Post],
    mentions: Mapping[str, Sequence[Mention]],
    failures: Mapping[str, Failure],
    grounding: Grounding,
    work: Path,
    told: Told,
    quiet: bool = False,
) -> list[PostPrediction]:
    """Each post's triples, in order; `failures` are posts without mentions, and why."""
    answered = [post for post in posts if post.id not in failures]
    items = [(post, mention) for post in answered for mention in mentions[post.id]]
    keys = [(post.id, place) for post in answered for place in range(len(mentions[post.id]))]
    with Progress("grounding", len(items), "mentions", quiet=quiet) as progress:
        found = grounding.locate(items, work, progress)
    told.outcomes, told.left_out = found.outcomes, len(found.left_out)
    grounded = [one for one in found.located if isinstance(one, Located)]
    told.lost = [one.lost for one in grounded if one.lost is not None]
    lost = [*failures.values(), *(one for one in found.located if isinstance(one, Failure))]
    told.failed.update(map(kind_of, lost))
    said = predictions_of(answered, mentions, dict(zip(keys, found.located, strict=True)))
    said |= {key: PostPrediction(key, failure=why) for key, why in failures.items()}
    told.posts = sum(one.whole for one in said.values())
    told.failed_posts = len(said) - told.posts
    told.boxes = sum(one.box is not None for one in grounded)
    told.absent = len(grounded) - told.boxes
    return [said[post.id] for post in posts]


def tag_posts(
    tagger: Tagger, posts: Sequence[Post], folder: Path, who: str, progress: Progress | None = None
) -> dict[str, list[Mention] | Failure]:
    """The mentions of each post by its id, in chunks that survive a kill."""
    rows = map_batches(
        posts,
        lambda _, chunk: tagger.tag(chunk),
        chunk_size=CHUNK,
        folder=folder,
        encode=lambda row: [[one.start, one.end, one.type, one.confidence] for one in row],
        decode=lambda row: [Mention(*one) for one in row],
        context=who,
        about=lambda post: None if post.image is None else contents(post.image),
        progress=progress,
    )
    return dict(zip((post.id for post in posts), rows, strict=True))


def _refined(
    posts: Sequence[Post], mentions: dict[str, list[Mention]], how: Refining, quiet: bool
) -> tuple[dict[str, list[Mention]], list[Asked]]:
    with Progress("refining", unit="mentions", quiet=quiet) as progress:
        return refine(how.refinery, posts, mentions, how.routing, progress)
