"""Posts and predictions as JSON lines.

    posts        {"id", "image", "tokens" | "text", "offsets"?, "entities": [{"name", "type",
                  "start"?, "end"?, "boxes"?: [[x1, y1, x2, y2], …]}]}
                 or, an entity a line, {"image", "entity", "type", "id"?, "text"?, …}
    predictions  {"id", "entities": [{"name", "type", "start"?, "end"?, "expression"?,
                  "box": [x1, y1, x2, y2] | null, "score"?}
                  | {"name", "type", "start"?, "end"?, "error": {"reason", "stage", "kind"?}}]}
                 or {"id", "error": {"reason", "stage", "kind"?}}

Boxes are pixels of the original image. `text` instead of `tokens` becomes words and marks, by the
rule of `tokens`. `start` and `end`, end exclusive, count tokens; with `"offsets": "characters"` the
characters (code points) of `text`, with "utf-16" its UTF-16 units, as JavaScript counts. A token
that such a position cuts is split there. An entity without positions takes the first free tokens
of its name, and has none where its name is not there. An entity without `boxes` is not "absent":
nobody said where it is. Rows of one `id` (else of one `image`) are one post.

A predicted `box` of null says "not in the picture"; leaving the key out is an error. An entity with
an `error` instead was asked about and not answered; the other entities of its post were. Types are
those of a scheme, as in memory or as the data set writes them (MISC may be OTHER).

Unknown keys: an error in posts, where a misspelt `boxes` would turn into "not in the picture"
(`meta` may hold anything and is ignored); ignored in predictions. `json_lines` says what is
refused everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import model_validator

from groundling.data.gmner import Split
from groundling.data.json_lines import (
    AnyBox,
    Open,
    Text,
    TypeName,
    answer_box,
    box_numbers,
    keep_unknown_types,
    read_json_lines,
    refuse,
    write_json_lines,
)
from groundling.data.picture_index import PictureIndex
from groundling.data.post_lines import PostLine, gold_entities, read_words
from groundling.data.problems import Problem, Report, refuse_errors
from groundling.records import (
    TWITTER,
    Box,
    Entity,
    FailedEntity,
    Failure,
    Post,
    PostPrediction,
    Prediction,
    Scheme,
)

# --- posts -------------------------------------------------------------------------------------


def read_posts(
    path: Path | str,
    images: Path | str | None = None,
    *,
    skip_bad: bool = False,
    scheme: Scheme = TWITTER,
) -> Split:
    """Read posts; the split is called like the file, without its ending.

    A relative `image` starts at the file's own folder. With `images`, pictures are taken from that
    folder only: at the recorded path below it, else by the recorded file name, else by the post's
    id, as `PictureIndex` finds them; `image` is None where there is none. `missing_images` lists
    the posts whose picture is not there. A bad line or an id used twice raises DataError with its
    line, or, with `skip_bad`, is left out and recorded in `skipped`.
    """
    skipped: list[Problem] = []
    source = Path(path)
    index = None if images is None else PictureIndex(Path(images))
    report = skipped.append if skip_bad else refuse_errors
    found = list(_read_lines(source, index, report, scheme))
    posts = [post for _, _, post in found]
    missing = tuple(
        post.id
        for post in posts
        if (index and post.image is None) or (post.image and not Path(post.image).is_file())
    )
    texts = {post.id: line.text for _, line, post in found if line.text is not None}
    return Split(
        source.stem,
        tuple(posts),
        missing_images=missing,
        skipped=tuple(skipped),
        source_texts=texts,
    )


def read_numbered_posts(
    path: Path, index: PictureIndex | None, report: Report, scheme: Scheme = TWITTER
) -> Iterable[tuple[int, Post]]:
    """The sound posts of a file with their lines (from 1); the others go to `report`."""
    return ((number, post) for number, _, post in _read_lines(path, index, report, scheme))


def _read_lines(
    path: Path, index: PictureIndex | None, report: Report, scheme: Scheme
) -> Iterable[tuple[int, PostLine, Post]]:
    for number, line in _gathered(path, report, scheme):
        words = read_words(line)
        entities = gold_entities(line.entities, words)
        yield number, line, Post(line.id, words.tokens, entities, _located(path, line, index))


def _gathered(path: Path, report: Report, scheme: Scheme) -> Iterable[tuple[int, PostLine]]:
    """The posts of a file by line; rows of one id are one post, in the place of the first."""
    first_line: dict[str, int] = {}
    found: dict[str, tuple[int, PostLine]] = {}
    for number, line in read_json_lines(path, PostLine, report, scheme.parse):
        _, first = found.get(line.id, (0, None))
        if first is not None and first.is_row and line.is_row:
            if (first.image, first.text, first.tokens, first.offsets) == (
                (line.image, line.text, line.tokens, line.offsets)
            ):
                first.entities.extend(line.entities)
                continue
            message = f"the row has another image or text than row {first_line[line.id]} of post "
            message += f"{line.id!r}; give rows of different posts an 'id'"
            report(Problem(str(path), number, "bad-record", message))
        elif not _seen_before(path, line.id, number, first_line, report):
            found[line.id] = (number, line)
    return found.values()


def write_posts(path: Path | str, posts: Iterable[Post], scheme: Scheme = TWITTER) -> None:
    """Write posts, pictures as paths relative to the file's folder, the file whole or not at all.

    Raises InputError for a post that `read_posts` would refuse.
    """
    target = Path(path)
    lines = (_post_line(post, target.parent) for post in posts)
    write_json_lines(target, lines, PostLine, unique_ids=True, parse_type=scheme.parse)


def _post_line(post: Post, folder: Path) -> dict[str, object]:
    image = None if post.image is None else Path(os.path.relpath(post.image, folder)).as_posix()
    entities = [_gold_entity(entity) for entity in post.entities]
    if not post.tokens and all(entity.start is None for entity in post.entities):
        return {"id": post.id, "image": image, "entities": entities}
    return {"id": post.id, "image": image, "tokens": list(post.tokens), "entities": entities}


def _gold_entity(entity: Entity) -> dict[str, object]:
    """An entity as written: what nobody knows is left out."""
    written: dict[str, object] = {"name": entity.name, "type": entity.type}
    if entity.start is not None:
        written |= {"start": entity.start, "end": entity.end}
    if entity.boxes_known:
        written["boxes"] = [box_numbers(box) for box in entity.boxes]
    return written


def _located(path: Path, line: PostLine, index: PictureIndex | None) -> str | None:
    """The path of a post's picture, by the rule of `read_posts`."""
    if index is None:
        return None if line.image is None else os.path.normpath(path.parent / line.image)
    if line.image is not None:
        recorded = Path(line.image)
        inside = not recorded.is_absolute() and ".." not in recorded.parts
        if inside and (index.folder / recorded).is_file():
            return str(index.folder / recorded)
        if found := index.find(recorded.stem):
            return str(found)
    found = index.find(line.id)
    return None if found is None else str(found)


# --- predictions -------------------------------------------------------------------------------


class _Error(Open):
    reason: str
    stage: str
    kind: str = ""

    def failure(self) -> Failure:
        return Failure(self.reason, self.stage, self.kind)


class _PredictedEntity(Open):
    name: str
    type: TypeName
    box: AnyBox | None
    error: _Error | None = None
    start: int | None = None
    end: int | None = None
    expression: str | None = None
    score: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_no_gold(cls, given: Any) -> Any:
        if isinstance(given, dict) and "boxes" in given and "box" not in given:
            raise ValueError(
                "has 'boxes' and no 'box': gold, not a prediction; `groundling score --pred-boxes "
                "largest` scores one annotator's posts against another's"
            )
        return given

    @model_validator(mode="before")
    @classmethod
    def _answers_or_fails(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("error") is None:
            return given
        if "box" in given:
            raise ValueError("wanted either 'box' or 'error'")
        return {**given, "box": None}

    @model_validator(mode="after")
    def _span_is_one(self) -> _PredictedEntity:
        if (self.start is None) != (self.end is None):
            raise ValueError("wanted both 'start' and 'end', or neither")
        if self.start is not None and self.end is not None and not 0 <= self.start < self.end:
            raise ValueError(f"tokens {self.start} to {self.end}; wanted 0 ≤ start < end")
        return self


class _PredictionLine(Open):
    id: Text
    entities: list[_PredictedEntity] | None = None
    error: _Error | None = None

    @model_validator(mode="after")
    def _answers_or_fails(self) -> _PredictionLine:
        if (self.entities is None) == (self.error is None):
            raise ValueError("wanted either 'entities' or 'error'")
        return self


def read_predictions(
    path: Path | str, scheme: Scheme = TWITTER, *, keep_unknown: bool = False
) -> tuple[PostPrediction, ...]:
    """Read predictions in file order. A bad line or an id used twice raises DataError.

    A type that is none of the scheme's makes a line bad, or, with `keep_unknown`, stays as it is.
    """
    source = Path(path)
    parse_type = keep_unknown_types(scheme) if keep_unknown else scheme.parse
    first_line: dict[str, int] = {}
    posts = []
    for number, line in read_json_lines(source, _PredictionLine, refuse, parse_type):
        _seen_before(source, line.id, number, first_line, refuse)
        posts.append(_post_prediction(line))
    return tuple(posts)


def write_predictions(
    path: Path | str,
    predictions: Iterable[PostPrediction],
    scheme: Scheme = TWITTER,
    *,
    keep_unknown: bool = False,
) -> None:
    """Write one line a post, the file whole or not at all.

    Raises InputError for a post that `read_predictions`, called alike, would refuse.
    """
    lines = map(prediction_line, predictions)
    parse_type = keep_unknown_types(scheme) if keep_unknown else scheme.parse
    write_json_lines(Path(path), lines, _PredictionLine, unique_ids=True, parse_type=parse_type)


def as_written(predictions: Iterable[PostPrediction]) -> list[PostPrediction]:
    """The predictions with their boxes as `write_predictions` writes them, to be scored alike."""
    return [
        replace(post, predictions=tuple(map(_rounded, post.predictions))) for post in predictions
    ]


def _rounded(item: Prediction) -> Prediction:
    return item if item.box is None else replace(item, box=answer_box(item.box))


def _post_prediction(line: _PredictionLine) -> PostPrediction:
    failed, answers = [], []
    for item in line.entities or ():
        if item.error is None:
            answers.append(_prediction(item))
        else:
            why = item.error.failure()
            failed.append(FailedEntity(item.name, item.type, why, item.start, item.end))
    failure = None if line.error is None else line.error.failure()
    return PostPrediction(line.id, tuple(answers), failure, tuple(failed))


def _prediction(item: _PredictedEntity) -> Prediction:
    box = None if item.box is None else _box(item.box)
    return Prediction(item.name, item.type, box, item.start, item.end, item.expression, item.score)


def prediction_line(post: PostPrediction) -> dict[str, object]:
    """The object of one line, as `write_predictions` writes it."""
    if post.failure is not None:
        error = post.failure.to_json()
        return {"id": post.id, "error": error}
    entities = [_predicted_entity(item) for item in post.predictions]
    return {"id": post.id, "entities": entities + [_failed_entity(item) for item in post.failed]}


def _predicted_entity(item: Prediction) -> dict[str, object]:
    given = {
        "start": item.start,
        "end": item.end,
        "expression": item.expression,
        "score": None if item.score is None else float(item.score),
    }
    box = None if item.box is None else box_numbers(answer_box(item.box))
    known = {key: value for key, value in given.items() if value is not None}
    return {"name": item.name, "type": item.type, "box": box, **known}


def _failed_entity(item: FailedEntity) -> dict[str, object]:
    span = {} if item.start is None else {"start": item.start, "end": item.end}
    return {"name": item.name, "type": item.type, **span, "error": item.failure.to_json()}


# --- both -------------------------------------------------------------------------------------


def _box(xyxy_px: Sequence[float]) -> Box:
    return Box(*map(float, xyxy_px))


def _seen_before(
    path: Path, post_id: str, number: int, first_line: dict[str, int], report: Report
) -> bool:
    """Whether an id came before, reported if so; else remember its line."""
    if post_id not in first_line:
        first_line[post_id] = number
        return False
    message = f"post id {post_id!r} was used before, in line {first_line[post_id]}"
    report(Problem(str(path), number, "duplicate-post", message))
    return True
