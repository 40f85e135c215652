"""`groundling score`: predictions against gold, under one named rule."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from groundling.cli.json_output import json_text
from groundling.cli.score_warnings import (
    warn,
    warn_of_convention,
    warn_of_gold,
    warn_of_predictions,
    warn_unsound,
)
from groundling.cli.sources import (
    SOURCE,
    add_boxes,
    add_format,
    add_scheme,
    chosen_format,
    chosen_scheme,
)
from groundling.errors import DataError, ImageError, InputError

if TYPE_CHECKING:
    from groundling.data.gmner import Split
    from groundling.records import Box, Post, PostPrediction, Scheme
    from groundling.scoring.rule import TripleRule

RULE_NAMES = ("isr", "riveg", "refineg", "span")
"""The same as `scoring.RULES`, spelt out so that `--help` need not import numpy."""

_RULES = """\
rules (figures under different rules are not comparable):
  isr      gold entities given: accuracy; IoU > 0.5 with any gold box (largest beside it)
  riveg    triples by image and name(TYPE): IoU >= 0.5, any gold box, each gold used once
  refineg  sets of (name, type, link) for each post: IoU >= 0.5, largest gold box;
           predictions of unknown types are ignored (the other rules refuse such a file)
  span     triples by token span: IoU > 0.5, any gold box, best one-to-one pairing

No answer, a missing post and an error record are wrong under every rule.

examples:
  groundling score pred.jsonl --gold twitter-gmner --split test --rule isr
  groundling score pred.jsonl --gold twitter-gmner --split test --rule riveg --json
  groundling score pred.jsonl --gold posts.jsonl --rule span --against baseline.jsonl
  groundling score second.jsonl --gold first.jsonl --pred-boxes largest
  groundling score --floors --gold twitter-gmner --split test
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `score`; its `func` takes the parsed arguments and returns an exit code."""
    parser = subparsers.add_parser(
        "score",
        help="score predictions under one of four rules",
        description="Score predictions against gold posts, with 95 % intervals over posts.",
        epilog=_RULES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "pred",
        nargs="?",
        metavar="PRED.jsonl",
        help="predictions, a post a line; with --pred-boxes posts, in any format",
    )
    parser.add_argument(
        "--pred-boxes",
        choices=("largest", "all"),
        help="PRED and --against are gold posts of other annotators: an entity answers with "
        "its largest box, or all boxes are answers (not under rule isr)",
    )
    parser.add_argument(
        "--gold",
        required=True,
        metavar="SRC",
        help=SOURCE,
    )
    add_format(parser, "--gold")
    add_scheme(parser)
    parser.add_argument(
        "--split", metavar="NAME", help="split of a gold folder (default: test); a label for a file"
    )
    parser.add_argument(
        "--rule", choices=RULE_NAMES, default="isr", help="how to count (default: isr)"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="image folder: for floors of .jsonl gold, and for --boxes stored",
    )
    add_boxes(parser)
    parser.add_argument(
        "--against",
        metavar="OTHER.jsonl",
        help="also test the difference to these predictions (paired, over posts)",
    )
    parser.add_argument(
        "--floors", action="store_true", help="score answers that need no model; takes no PRED"
    )
    parser.add_argument(
        "--train",
        metavar="SRC",
        help="with --floors: where mean-person learns its box (default: split train of --gold)",
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=2000,
        metavar="N",
        help="resamples for intervals and tests; 0 for none (default: 2000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON, percent with two decimals")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Score, print, return 0. Raises InputError or DataError for a wrong call or file."""
    _check_call(args)
    args.warnings = []
    values, text = _floors(args) if args.floors else _score(args)
    values["warnings"] = args.warnings
    print(json_text(values) if args.json else text)
    return 0


def _check_call(args: argparse.Namespace) -> None:
    if args.floors and (args.pred or args.against):
        raise InputError("--floors scores no predictions; leave out PRED.jsonl and --against")
    if args.floors and args.rule != "isr":
        raise InputError(f"--floors are scored under rule isr, not {args.rule}; leave out --rule")
    if args.train and not args.floors:
        raise InputError("--train is for --floors only; leave it out")
    if not args.floors and not args.pred:
        raise InputError("no predictions given; name PRED.jsonl, or pass --floors")
    if args.pred_boxes == "all" and args.rule == "isr":
        raise InputError("--pred-boxes all: rule isr takes one answer an entity; wanted largest")
    if args.resamples < 0 or args.seed < 0:
        raise InputError("--resamples and --seed must be 0 or more")


def _score(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from groundling.scoring import TRIPLE_RULES
    from groundling.scoring.align import align

    gold, scheme = _read_gold(args)
    split, posts = args.split or gold.name, gold.posts
    rule = TRIPLE_RULES.get(args.rule)
    lenient = rule is not None and rule.ignores_unknown
    if not posts:
        raise DataError(Path(args.gold), f"split {split} holds no posts; is it the right file?")
    _check_gold(Path(args.gold), posts, rule)
    systems = [
        _read_system(args, path, gold, scheme, lenient)
        for path in (args.pred, args.against)
        if path
    ]
    for path, system in zip((args.pred, args.against), systems, strict=False):
        warn_unsound(args, path, align(posts, system), split)
        warn_of_predictions(args, path, system, scheme)
        warn_of_convention(args, path, gold, system)
    warn_of_gold(args, gold, split)
    report = _score_isr if rule is None else _score_rule
    values, text = report(posts, systems, args, scheme)
    aligned = align(posts, systems[0])
    values = {
        "rule": args.rule,
        "split": split,
        **values,
        "posts": {
            "gold": len(aligned.posts),
            "absent": aligned.absent,
            "failed": aligned.failed,
            "foreign": len(aligned.foreign),
        },
    }
    if args.against:
        values["against"] = {"file": args.against, **values["against"]}
    entities = sum(len(post.entities) for post in posts)
    return values, f"{args.pred}: split {split}, {len(posts)} posts, {entities} entities\n{text}"


def _check_gold(path: Path, posts: Sequence[Post], rule: TripleRule | None) -> None:
    """Raise DataError for gold that lacks what a rule compares (rule isr: None)."""
    for post in posts:
        for entity in post.entities:
            try:
                if rule is None:
                    _ = entity.gold_boxes
                elif rule.unit == "span":
                    _ = entity.span
            except InputError as fault:
                raise DataError(path, f"post {post.id!r}: {fault}") from fault


def _read_system(
    args: argparse.Namespace, path: str, gold: Split, scheme: Scheme, lenient: bool
) -> Sequence[PostPrediction]:
    """Predictions, or with --pred-boxes the posts of another annotator as predictions."""
    from groundling.scoring.names import spelt_as_gold

    said, from_text = _read_said(args, path, scheme, lenient)
    return spelt_as_gold(said, gold.posts, {*gold.source_texts, *from_text})


def _read_said(
    args: argparse.Namespace, path: str, scheme: Scheme, lenient: bool
) -> tuple[Sequence[PostPrediction], Collection[str]]:
    """What a file says, and the posts whose tokens were made from the texts in it."""
    from groundling.data.annotators import as_predictions
    from groundling.data.formats import guess_format, read_splits
    from groundling.data.jsonl import read_predictions

    source = Path(path)
    if args.pred_boxes is None:
        if source.is_dir():
            raise InputError(
                f"{path}: a folder, not predictions; --pred-boxes scores posts of an annotator"
            )
        return read_predictions(path, scheme, keep_unknown=lenient), ()
    only = [] if source.is_file() else [args.split or "test"]
    form = guess_format(source)
    said = read_splits(source, form, args.images, only=only, scheme=scheme, boxes=args.boxes)[0]
    return as_predictions(said.posts, args.pred_boxes), said.source_texts


class _Options(TypedDict):
    """What all scoring functions take alike."""

    resamples: int
    seed: int
    scheme: Scheme


def _score_isr(
    posts: Sequence[Post],
    systems: Sequence[Sequence[PostPrediction]],
    args: argparse.Namespace,
    scheme: Scheme,
) -> tuple[dict[str, Any], str]:
    from groundling.scoring import compare_isr, score_isr
    from groundling.scoring.report import comparison_report, isr_report

    options = _Options(resamples=args.resamples, seed=args.seed, scheme=scheme)
    score = score_isr(posts, systems[0], **options)
    values, text = score.to_json(), isr_report(score)
    if len(systems) > 1:
        comparison = compare_isr(posts, systems[0], systems[1], **options)
        values["against"] = comparison.to_json()
        text += "\n\n" + comparison_report(comparison, args.against)
    return values, text


def _score_rule(
    posts: Sequence[Post],
    systems: Sequence[Sequence[PostPrediction]],
    args: argparse.Namespace,
    scheme: Scheme,
) -> tuple[dict[str, Any], str]:
    from groundling.scoring import TRIPLE_RULES, compare_triples, score_triples
    from groundling.scoring.report import comparison_report, triple_report

    rule = TRIPLE_RULES[args.rule]
    options = _Options(resamples=args.resamples, seed=args.seed, scheme=scheme)
    score = score_triples(posts, systems[0], rule, **options)
    values, text = score.to_json(), triple_report(score)
    if len(systems) > 1:
        comparison = compare_triples(posts, systems[0], systems[1], rule, **options)
        values["against"] = comparison.to_json()
        text += "\n\n" + comparison_report(comparison, args.against)
    return values, text


def _floors(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from groundling.scoring import FLOORS, score_floors
    from groundling.scoring.report import floor_report

    gold, scheme = _read_gold(args)
    split = args.split or gold.name
    floors = score_floors(gold.posts, _sizes(args, gold), _mean_person(args), scheme)
    if "mean-person" not in floors:
        warn(args, "no train split with people in it, so no mean-person; name one with --train SRC")
    values: dict[str, Any] = {"rule": "isr", "split": split}
    for name in FLOORS:
        values[name] = floors[name].to_json()["accuracy"] if name in floors else None
    return values, f"{args.gold}: split {split}\n{floor_report(floors)}"


def _mean_person(args: argparse.Namespace) -> Box | None:
    """The mean PER box of the train split, or None where there is no train split."""
    from groundling.scoring import mean_person_norm

    if args.train is None and not _has_train(Path(args.gold)):
        return None
    train, _ = _read_gold(args, args.train or args.gold, "train")
    return mean_person_norm(train.posts, _sizes(args, train))


def _has_train(src: Path) -> bool:
    names = ("txt/train.txt", "train.jsonl", "train_text.json")
    return any((src / name).is_file() for name in names)


def _read_gold(
    args: argparse.Namespace, src: str | None = None, split: str | None = None
) -> tuple[Split, Scheme]:
    """A split of a folder (`test` unless named), or a file whatever its name, and its types.

    Rule refineg counts the entries of the CCKS task's files, as the scorer of that task does.
    """
    from groundling.data.formats import read_splits

    path = Path(src or args.gold)
    if not path.exists():
        raise DataError(path, "no such file or folder; check --gold and --train")
    form = chosen_format(args.format, path)
    scheme = chosen_scheme(args.scheme, form)
    only = [] if path.is_file() else [split or args.split or "test"]
    apart = args.rule == "refineg"
    splits = read_splits(
        path, form, args.images, only=only, scheme=scheme, apart=apart, boxes=args.boxes
    )
    return splits[0], scheme


def _sizes(args: argparse.Namespace, split: Split) -> Mapping[str, tuple[int, int]]:
    """Picture sizes in pixels: as the XML states, else from the pictures themselves."""
    if split.without_xml is not None:
        return split.xml_sizes
    from groundling.images import load_image

    sizes: dict[str, tuple[int, int]] = {}
    for post in split.posts:
        if post.image is None:
            continue
        try:
            sizes[post.id] = load_image(post.image).size
        except ImageError:
            continue
    if len(sizes) < len(split.posts):
        missing = len(split.posts) - len(sizes)
        warn(
            args,
            f"{missing} of {len(split.posts)} posts have no readable picture; pass --images DIR",
        )
    return sizes
