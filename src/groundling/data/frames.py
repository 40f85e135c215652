"""Boxes drawn on the stored pixels of images that EXIF turns, brought into the upright frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from groundling.data.gmner import Split
from groundling.data.problems import Problem, Report, keep_errors, refuse_errors
from groundling.errors import ImageError
from groundling.images import StoredFrame, stored_frame
from groundling.records import Post


def turn_upright(src: Path, split: Split, *, skip_bad: bool = False) -> Split:
    """A split whose boxes are drawn on stored pixels, with boxes on the upright images.

    Sizes that XML files state are turned too where they are those of the stored pixels. A post
    with boxes whose image is not there or cannot be read raises DataError, or, with `skip_bad`, is
    left out and recorded in `skipped`: nobody can say where its boxes are.
    """
    skipped = list(split.skipped)
    report = keep_errors(skipped) if skip_bad else refuse_errors
    frames = {post.id: _frame(src, post, report) for post in split.posts if _boxed(post)}
    posts = [post for post in split.posts if frames.get(post.id, _AS_IT_IS) is not None]
    turning = {
        post_id: frame for post_id, frame in frames.items() if frame and frame.orientation > 1
    }
    return replace(
        split,
        posts=tuple(_turned(post, turning.get(post.id)) for post in posts),
        xml_sizes={
            post_id: frame.upright_wh_px
            if (frame := turning.get(post_id)) and size == frame.stored_wh_px
            else size
            for post_id, size in split.xml_sizes.items()
        },
        skipped=tuple(skipped),
        turned=len(turning),
    )


def turn_those_with_images(src: Path, split: Split) -> Split:
    """`turn_upright` for flows that never use a post whose image is not there: it stays as it is.

    Raises DataError for an image that cannot be read.
    """
    there = {post.id for post in split.posts if post.image and Path(post.image).is_file()}
    turned = turn_upright(src, _part(split, there))
    posts = {post.id: post for post in turned.posts}
    whole = tuple(posts.get(post.id, post) for post in split.posts)
    return replace(turned, posts=whole)


_AS_IT_IS = StoredFrame((1, 1))


def _part(split: Split, ids: Iterable[str]) -> Split:
    kept = set(ids)
    return replace(split, posts=tuple(post for post in split.posts if post.id in kept))


def _boxed(post: Post) -> bool:
    return any(entity.boxes for entity in post.entities)


def _frame(src: Path, post: Post, report: Report) -> StoredFrame | None:
    """The stored frame of a post's image; None, and a report, where nobody can tell it."""
    if post.image is None:
        fault = "its image was not found; name its folder with --images"
    else:
        try:
            return stored_frame(post.image)
        except ImageError as told:
            fault = str(told)
    message = f"the boxes of post {post.id!r} are on stored pixels and cannot be turned: {fault}"
    report(Problem(str(src), None, "unturned-boxes", message))
    return None


def _turned(post: Post, frame: StoredFrame | None) -> Post:
    if frame is None:
        return post
    entities = tuple(
        replace(entity, boxes=tuple(frame.upright(box) for box in entity.boxes))
        for entity in post.entities
    )
    return replace(post, entities=entities)
