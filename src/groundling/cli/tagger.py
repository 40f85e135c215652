"""`groundling tagger`: train what finds entities in texts, and use it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundling.cli import tagger_knowledge
from groundling.cli.json_output import json_text
from groundling.cli.recipe import (
    STOPPED,
    add_run_options,
    check_there,
    configured,
    hush_libraries,
    tell_failures,
    unless_stopped,
)

_FIT_EXAMPLES = """\
examples:
  groundling tagger fit --config recipes/gmner/minilm-crf.yaml --set data.source=twitter-gmner
  groundling tagger fit --config recipes/gmner/minilm-crf.yaml --seed 1 --out runs/crf-1
  groundling score runs/crf-1/predictions/test.jsonl --gold twitter-gmner --split test --rule span

The same command continues a stopped run. Posts that could not be tagged, and pictures that could
not be learnt from, are on record, and --retry tries them again.

configuration (YAML keys, and what --set takes):
"""

_TAG_EXAMPLES = """\
examples:
  groundling tagger tag runs/crf-1 twitter-gmner --split dev --out dev.jsonl
  groundling tagger tag runs/crf-1 posts.jsonl --out mentions.jsonl
  groundling tagger tag runs/knowing posts.jsonl --knowledge words/posts.jsonl --out mentions.jsonl

A mention's `score` is the calibrated probability that exactly these words with this type are right;
its `box` is null, which says "not in the picture". What is done is kept in NAME.work beside the
file, so the same command continues a stopped one. Exit code 1 where a post is an error record.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `tagger` and its commands; each sets `func`, a callable (args) -> exit code."""
    from groundling.config_gmner import TaggingConfig
    from groundling.settings import describe

    parser = subparsers.add_parser("tagger", help="train what finds entities in texts, and use it")
    commands = parser.add_subparsers(dest="tagger_command", required=True, metavar="COMMAND")
    fit = commands.add_parser(
        "fit",
        help="train, calibrate and score a tagger by a recipe",
        description="Train a tagger into a run directory, calibrate it on dev, tag and score.",
        epilog=_FIT_EXAMPLES + describe(TaggingConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_options(fit)
    fit.set_defaults(func=run_fit)

    tag = commands.add_parser(
        "tag",
        help="find the entities of posts with a trained tagger",
        description="Write the mentions of posts as predictions without boxes.",
        epilog=_TAG_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tag.add_argument("run", type=Path, metavar="RUN", help="what `groundling tagger fit` made")
    tag.add_argument(
        "src",
        type=Path,
        metavar="SRC",
        help="a twitter-gmner folder (txt/, xml/), a posts .jsonl or a folder of SPLIT.jsonl",
    )
    tag.add_argument("--split", default="test", help="the split of a folder (default: test)")
    tag.add_argument(
        "--knowledge",
        type=Path,
        metavar="FILE",
        help="words about the posts: what `groundling tagger knowledge` wrote, or a file of PGIM's",
    )
    tag.add_argument(
        "--images", type=Path, metavar="DIR", help="a release's pictures, for what looks at them"
    )
    tag.add_argument(
        "--out", required=True, type=Path, metavar="PRED.jsonl", help="predictions, a post a line"
    )
    tag.add_argument("--device", help="override the recipe's device: cpu, cuda, cuda:1 …")
    tag.add_argument("--quiet", action="store_true", help="show no progress")
    tag.set_defaults(func=run_tag)

    tagger_knowledge.add_parser(commands)


def run_fit(args: argparse.Namespace) -> int:
    """Run or continue, print, return 0; 130 where the user stopped it."""
    from groundling.config_gmner import TaggingConfig
    from groundling.team import leads

    config, out = configured(args, TaggingConfig)
    hush_libraries()
    from groundling.tagging import run_tagging

    metrics = unless_stopped(
        out, lambda: run_tagging(config, out, quiet=args.quiet, retry=args.retry)
    )
    if metrics is None:
        return STOPPED
    if leads():
        told = json_text({**metrics, "run": str(out)}) if args.json else None
        print(told or f"{metrics_table(metrics)}\n\nrun: {out}")
        tell_failures(out)
    return 0


def run_tag(args: argparse.Namespace) -> int:
    """Tag, write, print; 1 where a post is an error record."""
    from groundling.cli.endpoint import check_out
    from groundling.data.jsonl import write_predictions

    check_out(args)
    check_there(args.run, args.src)
    hush_libraries()
    from groundling.fitted import fitted_config, fitted_scheme, open_fitted
    from groundling.gmner import work_folder
    from groundling.tagging import read_split, tag_split, ungrounded

    scheme = fitted_scheme(args.run)
    posts = read_split(args.src, args.split, args.knowledge, args.images, scheme)
    tagger, name = open_fitted(args.run, args.device)
    found = tag_split(tagger, posts, work_folder(args.out), args.src.name, args.quiet, name)
    predictions = ungrounded(posts, found)
    write_predictions(args.out, predictions, keep_unknown=True)  # the tagger's own types
    failed = sum(post.failure is not None for post in predictions)
    mentions = sum(len(post.predictions) for post in predictions)
    print(f"{args.out}: {len(posts)} posts, {mentions} mentions, {failed} error records")
    blind = sum(post.image is None for post in posts)
    if blind and fitted_config(args.run).tagger.vision is not None:
        print(f"{blind} of {len(posts)} posts have no picture")
    if args.knowledge is not None and (without := sum(not post.knowledge for post in posts)):
        print(f"{without} of {len(posts)} posts have no knowledge")
    return int(bool(failed))


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """F1 in percent by split and rule, how good the confidences are, and missing knowledge."""
    fit = metrics["fit"]
    lines = [
        f"{_chosen(fit)}; temperature {fit['temperature']:.2f}",
        "",
        f"{'':6}{'rule':8}{'MNER F1':>10}{'GMNER F1':>10}   with every entity said to be absent",
    ]
    for split, scores in metrics["scores"].items():
        for rule, score in scores["rules"].items():
            figures = f"{score['mner']['f1']:>10.2f}{score['gmner']['f1']:>10.2f}"
            lines.append(f"{split:6}{rule:8}{figures}")
    lines.append("")
    for split, scores in metrics["scores"].items():
        before, after = (scores["confidence"][name] for name in ("as_fitted", "calibrated"))
        if after["ece"] is not None:
            lines.append(
                f"{split:6}calibration error {before['ece']:.4f}, after calibration "
                f"{after['ece']:.4f}; area under risk and coverage {after['aurc']:.4f}"
            )
    for split, counts in metrics.get("knowledge", {}).items():
        if counts["without"]:
            lines.append(
                f"{split:6}{counts['without']} of {counts['posts']} posts have no knowledge"
            )
    return "\n".join(lines)


def _chosen(fit: Mapping[str, Any]) -> str:
    """The epochs that were kept, of an ensemble those of each member."""
    members = fit.get("members", [fit])
    if not members[0]["best_epoch"]:
        return "not trained"
    told = [f"{one['best_epoch']} of {len(one['dev_mner_f1'])}" for one in members]
    if len(told) == 1:
        return f"epoch {told[0]}, the best on dev"
    return f"{len(told)} members, epochs {', '.join(told)}, the best on dev"
