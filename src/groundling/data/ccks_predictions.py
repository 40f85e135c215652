"""Predictions in the form of the CCKS task's entity files (see `ccks`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from groundling.data.ccks import name_in_memory
from groundling.data.ccks_json import PREDICTED, PredictedEntry, entry, read_values, write_values
from groundling.data.json_lines import answer_box, keep_unknown_types, refuse
from groundling.data.mentions import Place, nameless, place_runs, surface
from groundling.data.problems import Report
from groundling.errors import InputError
from groundling.records import CCKS, Post, PostPrediction, Prediction, Scheme


def read_ccks_predictions(
    path: Path,
    posts: Sequence[Post],
    report: Report,
    scheme: Scheme = CCKS,
    *,
    keep_unknown: bool = False,
) -> list[PostPrediction]:
    """Read predictions, in file order; names are looked up in the tokens of `posts`.

    A name that is no run of its post's tokens is reported and kept without them. Raises DataError
    for a file or an entry that is not of the format.
    """
    tokens = {post.id: post.tokens for post in posts}
    parse_type = keep_unknown_types(scheme) if keep_unknown else scheme.parse
    found = []
    for post_id, listed in read_values(path, PREDICTED, refuse, parse_type).items():
        own = tokens.get(post_id, ())
        entries = listed or []
        places = place_runs([item.name for item in entries], own)
        placed = list(zip(entries, places, strict=True))
        for item, place in placed:
            if place is None and post_id in tokens:
                report(nameless(path, None, item.name, post_id))
        answers = tuple(_prediction(item, own, place) for item, place in placed)
        found.append(PostPrediction(post_id, answers))
    return found


def write_ccks_predictions(
    path: Path,
    predictions: Iterable[PostPrediction],
    posts: Sequence[Post],
    source_texts: Mapping[str, str],
    scheme: Scheme = CCKS,
) -> int:
    """Write predictions, names spelt as in the texts; returns how many error records were left out.

    A post's text is its entry in `source_texts`, else its tokens joined by spaces. Left out are
    failures: the format has no word for them, and [] would say "no entities". Raises InputError
    for a post that is not in `posts` or comes twice.
    """
    known = {post.id: post for post in posts}
    written: dict[str, list[dict[str, object]]] = {}
    failed = 0
    for said in predictions:
        post = known.get(said.id)
        if post is None or said.id in written:
            fault = "is none of the posts" if post is None else "is predicted twice"
            raise InputError(f"post {said.id!r} {fault}; nothing was written to {path}")
        failed += len(said.failed) if said.failure is None else 1
        if said.silent:
            continue
        text = source_texts.get(post.id, post.text)
        written[post.id] = [
            entry(
                _spelling(item, text, post.tokens),
                scheme.on_disk(item.type),
                None if item.box is None else answer_box(item.box),
            )
            for item in said.predictions
        ]
    write_values(path, written)
    return failed


def _prediction(item: PredictedEntry, tokens: Sequence[str], place: Place | None) -> Prediction:
    name = name_in_memory(item.name, tokens, place)
    if place is None:
        return Prediction(name, item.label, item.box)
    return Prediction(name, item.label, item.box, place.start, place.end)


def _spelling(item: Prediction, text: str, tokens: Sequence[str]) -> str:
    """A predicted name as the text spells it; as it is where it is not in the text."""
    if item.start is not None and item.end is not None:
        return surface(text, tokens, item.start, item.end)
    (place,) = place_runs([item.name], tokens)
    return item.name if place is None else surface(text, tokens, place.start, place.end)
