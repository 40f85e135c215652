"""A tagger from labelled posts to calibrated mentions: fit, choose the epoch, calibrate, score.

    tagger/                     the tagger of the best epoch on dev, with its temperature; of an
                                ensemble, each member in a folder
    predictions/SPLIT.jsonl     its mentions, all said to be absent from the picture
    scores/SPLIT.json           F1 of the mentions, of GMNER so, and how good the confidences are
    unreadable.json             pictures of train and dev that were left out, for taggers that look
    metrics.json                the epochs, the temperature and all scores; with knowledge, how
                                many posts have none

Predictions ground nothing, so their GMNER F1 is that of the papers' "-None" rows: what a tagger
alone is worth.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundling import atomic
from groundling.calibration import measure
from groundling.config_gmner import TaggerOptimiser, TaggingConfig, TextData
from groundling.corpus import fingerprint
from groundling.data.formats import guess_format, read_splits
from groundling.data.jsonl import write_predictions
from groundling.data.knowledge import knowledge_path, read_knowledge, with_knowledge
from groundling.errors import DataError
from groundling.gmner import tag_posts
from groundling.groundings import name_of
from groundling.inputs import check_inputs
from groundling.learnable import look
from groundling.models.base import FittedTagger, Tagger, TrainableTagger
from groundling.models.registry import compute_threads, open_ensemble, open_tagger
from groundling.progress import Progress
from groundling.provenance import provenance
from groundling.records import (
    SCHEMES,
    TWITTER,
    Failure,
    Mention,
    Post,
    PostPrediction,
    Prediction,
    Scheme,
)
from groundling.rundir import RunDir
from groundling.scoring import TRIPLE_RULES, score_triples
from groundling.stage import Stage
from groundling.strict_json import read_numbers, read_object
from groundling.team import leads, team
from groundling.tune import Manner, fit_stage

TAGGER = "tagger"
RULES = ("span", "riveg")
"""Under which mentions are scored: by tokens, and by name as RiVEG's authors do."""

Splits = Mapping[str, tuple[Post, ...]]


def run_tagging(
    config: TaggingConfig, out: Path, *, quiet: bool = False, retry: bool = False
) -> dict[str, Any]:
    """Fit, calibrate, tag and score into the directory `out`, or go on where it was stopped.

    With `retry`, what failed in finished stages is tried again. Returns what `metrics.json` says.
    Raises RunError for a directory of another configuration or of other posts, DataError for posts
    that cannot be read, InputError for what is missing or a tagger that cannot be opened.
    """
    check_inputs(config)
    wanted = dict.fromkeys(["train", "dev", *config.evaluate])
    splits = read_texts(config.data, wanted, SCHEMES[config.scheme])
    learned = {name: fingerprint(splits[name]) for name in ("train", "dev")}
    known = provenance(threads=compute_threads(), data=learned)
    gaps = None if config.data.knowledge is None else knowledge_gaps(splits)
    with RunDir.open(out, config, known, retry=retry) as run:
        if gaps is not None:
            run.event("knowledge", splits=gaps)
        fit(run, config, splits, quiet)
        for split in config.evaluate:
            evaluate(run, config, split, splits[split], quiet)
        return conclude(run, config, {} if gaps is None else {"knowledge": gaps})


def read_texts(
    data: TextData, wanted: Iterable[str], scheme: Scheme = TWITTER
) -> dict[str, tuple[Post, ...]]:
    """The wanted splits, with knowledge where there is some. Raises DataError."""
    folder = None if data.knowledge is None else Path(data.knowledge)
    images = None if data.images is None else Path(data.images)
    return {
        name: read_split(
            Path(data.source), name, folder and knowledge_path(folder, name), images, scheme
        )
        for name in wanted
    }


def read_split(
    source: Path,
    name: str,
    knowledge: Path | None = None,
    images: Path | None = None,
    scheme: Scheme = TWITTER,
) -> tuple[Post, ...]:
    """One split of a data set, or a posts file, and what a file tells of its posts.

    `images` is the folder of a release's pictures. Raises DataError; InputError where that folder
    is not there.
    """
    if not source.exists():
        raise DataError(source, "no such file or folder; check the path")
    only = [] if source.is_file() else [name]
    posts = read_splits(source, guess_format(source), images, only=only, scheme=scheme)[0].posts
    if knowledge is None:
        return posts
    posts = with_knowledge(posts, read_knowledge(knowledge))
    if not any(post.knowledge for post in posts):
        raise DataError(knowledge, f"tells of no post of {source}; check that they match")
    return posts


def knowledge_gaps(splits: Splits) -> dict[str, dict[str, int]]:
    """By split, how many posts there are, and of how many nothing is told."""
    return {
        name: {"posts": len(posts), "without": sum(not post.knowledge for post in posts)}
        for name, posts in splits.items()
    }


# --------------------------------------------------------------------------------------------- fit


def fit(
    run: RunDir,
    config: TaggingConfig,
    splits: Splits,
    quiet: bool,
    after: Sequence[str] = (),
) -> None:
    """Train on `train`, keep the epoch of the best F1 on `dev`, calibrate there.

    The members of an ensemble are trained one after another. `after` are the stages that the posts
    come from.
    """
    posts: Sequence[Post] = splits["train"]
    dev: Sequence[Post] = splits["dev"]
    if config.tagger.vision is not None:
        looked = look(run, (*posts, *dev), after, quiet)
        after = [*after, looked.stage]
        posts, dev = looked.learnable(posts), looked.learnable(dev)
    stage = run.stage("fit", after=after)
    if stage.done:
        return
    train = [post for post in posts if post.tokens]
    if config.tuning is not None and not train:
        raise DataError(config.data.source, "its train split holds no words to learn from")
    with stage:
        scheme, told = SCHEMES[config.scheme], {"dev_mner_f1": [], "best_epoch": 0}
        tagger: FittedTagger
        if config.tuning is None:
            tagger = open_tagger(config.tagger, scheme, seed=config.seed, posts=train)
        else:
            seeds = member_seeds(config)
            members = [_Member(stage, config, *one) for one in enumerate(seeds)]
            for member in members:
                member.fit(train, dev, quiet)
            folders = [member.best_folder for member in members]
            if config.tagger.uncertainty.kind == "ensemble":
                tagger = open_ensemble(config.tagger, scheme, folders)
                told = {"members": [member.told for member in members]}
            else:
                tagger = open_tagger(config.tagger, scheme, folders[0])
                told = members[0].told
        tagger.calibrate(dev)
        with stage.write_folder(TAGGER) as folder:
            tagger.save(folder)
        stage.write_json("fit.json", told | {"temperature": tagger.temperature})


def member_seeds(config: TaggingConfig) -> list[int]:
    """The seeds of the taggers to train; the first is the run's own."""
    how = config.tagger.uncertainty
    count = how.count if how.kind == "ensemble" else 1
    others = np.random.default_rng([config.seed, 53]).choice(2**31, count - 1, replace=False)
    return [config.seed, *others.tolist()]


class _Member:
    """One tagger to train, alone or of an ensemble, in a folder of the stage's scratch.

    The folder notes the end of its training, which is then not done again.
    """

    def __init__(self, stage: Stage, config: TaggingConfig, number: int, seed: int) -> None:
        self._stage, self._config, self._number, self._seed = stage, config, number, seed
        self._folder = stage.scratch / f"member-{number}"
        self._folder.mkdir(exist_ok=True)
        self._note = self._folder / "fit.json"

    @property
    def told(self) -> dict[str, Any]:
        """F1 on dev by epoch, and which one was the best."""
        found: dict[str, Any] = read_object(self._note)
        return found

    @property
    def best_folder(self) -> Path:
        """Where the tagger of the best epoch is."""
        return _epoch_folder(self._folder, self.told["best_epoch"])

    def fit(self, train: Sequence[Post], dev: Sequence[Post], quiet: bool) -> None:
        """Train until patience or epochs are at an end, or go on with it."""
        config, tuning = self._config, self._config.tuning
        if self._note.exists() or tuning is None:
            return
        scheme = SCHEMES[config.scheme]
        tagger = open_tagger(config.tagger.single, scheme, seed=self._seed, posts=train)
        epochs = _Epochs(
            self._stage, self._folder, tagger, dev, config.patience, self._number, scheme
        )
        fit_stage(
            self._stage,
            tagger,
            tagger.loss,
            train,
            tuning,
            Manner(self._seed, config.checkpoint_every_s, quiet),
            length=tagger.length,
            pace=pace_of(tuning),
            after_epoch=epochs.judge,
            folder=self._folder,
        )
        f1 = [round(100 * value, 2) for value in epochs.f1]
        told = {"dev_mner_f1": f1, "best_epoch": epochs.best}
        if leads():
            atomic.write_bytes(self._note, json.dumps(told).encode())
        team().barrier()


def pace_of(tuning: TaggerOptimiser) -> Callable[[str], float]:
    """By how much faster than the rest of a tagger its head learns, by parameter name."""
    rates = {"transitions.": tuning.crf_lr}
    if tuning.head_lr is not None:
        rates |= dict.fromkeys(("projection.", "characters.", "sight."), tuning.head_lr)

    def pace(name: str) -> float:
        return next((lr / tuning.lr for part, lr in rates.items() if name.startswith(part)), 1.0)

    return pace


class _Epochs:
    """F1 on dev by epoch, and the tagger of the best one, in a folder of the stage's scratch."""

    def __init__(
        self,
        stage: Stage,
        folder: Path,
        tagger: TrainableTagger,
        dev: Sequence[Post],
        patience: int | None,
        member: int,
        scheme: Scheme,
    ) -> None:
        self._stage, self._folder, self._tagger, self._dev = stage, folder, tagger, dev
        self._scheme = scheme
        self._patience, self._member = patience, member
        self._log = self._folder / "epochs.json"
        self.f1 = read_numbers(self._log) if self._log.exists() else []

    @property
    def best(self) -> int:
        """The epoch, from 1, of the best F1; the first of equals."""
        return self.f1.index(max(self.f1)) + 1

    @property
    def best_folder(self) -> Path:
        """Where its tagger is."""
        return _epoch_folder(self._folder, self.best)

    def judge(self, epoch: int) -> bool:
        """Take note of a finished epoch, once; whether patience is at an end."""
        if epoch > len(self.f1):
            before = self.best_folder if self.f1 else None
            self.f1.append(mner_f1(self._tagger, self._dev, self._scheme))
            if self.best == epoch:
                self._tagger.save(self.best_folder)
            if leads():
                atomic.write_bytes(self._log, json.dumps(self.f1).encode())
                if self.best == epoch and before is not None:
                    shutil.rmtree(before)
            f1 = round(100 * self.f1[-1], 2)
            self._stage.event("epoch", member=self._member, epoch=epoch, dev_mner_f1=f1)
        seen = self.f1[:epoch]
        since = epoch - (seen.index(max(seen)) + 1)
        return self._patience is not None and since >= self._patience


def _epoch_folder(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch}"


def mner_f1(tagger: Tagger, posts: Sequence[Post], scheme: Scheme = TWITTER) -> float:
    """F1 of mentions by tokens and type, in [0, 1]."""
    predictions = ungrounded(posts, tagger.tag(posts))
    rule = TRIPLE_RULES["span"]
    score = score_triples(posts, predictions, rule, resamples=0, scheme=scheme)
    return score.tasks["mner"].counts.f1


# ---------------------------------------------------------------------------------------- evaluate


def evaluate(
    run: RunDir, config: TaggingConfig, split: str, posts: Sequence[Post], quiet: bool
) -> None:
    """Tag a split; `predictions/SPLIT.jsonl` and `scores/SPLIT.json`."""
    stage = run.stage(f"evaluate-{split}", after=["fit"], inputs={"posts": fingerprint(posts)})
    if stage.done:
        return
    with stage:
        scheme = SCHEMES[config.scheme]
        tagger = open_tagger(config.tagger, scheme, run.path / TAGGER)
        found = tag_split(tagger, posts, stage.scratch / "calibrated", split, quiet)
        stage.note(found)
        tagger.temperature = 1.0
        as_fitted = tag_split(tagger, posts, stage.scratch / "as-fitted", split, quiet)
        predictions = ungrounded(posts, found)
        scores = {
            rule: score_triples(posts, predictions, TRIPLE_RULES[rule], scheme=scheme).to_json()
            for rule in RULES
        }
        confidence = {
            "calibrated": confidence_figures(posts, found),
            "as_fitted": confidence_figures(posts, as_fitted),
        }
        stage.write_json(f"scores/{split}.json", {"rules": scores, "confidence": confidence})
        draft = stage.scratch / "predictions.jsonl"
        write_predictions(draft, predictions, scheme)
        stage.write_bytes(f"predictions/{split}.jsonl", draft.read_bytes())


def tag_split(
    tagger: Tagger, posts: Sequence[Post], folder: Path, label: str, quiet: bool, who: str = ""
) -> list[list[Mention] | Failure]:
    """The mentions of all posts; what is done is kept in `folder`, for the tagger named `who`."""
    with Progress(f"tag {label}", len(posts), "posts", quiet=quiet) as progress:
        return list(tag_posts(tagger, posts, folder, who, progress).values())


def ungrounded(
    posts: Sequence[Post], found: Sequence[list[Mention] | Failure]
) -> list[PostPrediction]:
    """Mentions as predictions without boxes; confidences are their scores."""
    return [
        PostPrediction(post.id, failure=mentions)
        if isinstance(mentions, Failure)
        else PostPrediction(
            post.id,
            tuple(
                Prediction(
                    name_of(post, one), one.type, None, one.start, one.end, score=one.confidence
                )
                for one in mentions
            ),
        )
        for post, mentions in zip(posts, found, strict=True)
    ]


def confidence_figures(
    posts: Sequence[Post], found: Sequence[list[Mention] | Failure]
) -> dict[str, object]:
    """How well confidences say whether a mention is right, by tokens and type."""
    confidences, right = [], []
    for post, mentions in zip(posts, found, strict=True):
        gold = {(*entity.span, entity.type) for entity in post.entities}
        for one in [] if isinstance(mentions, Failure) else mentions:
            if one.confidence is not None:
                confidences.append(one.confidence)
                right.append((one.start, one.end, one.type) in gold)
    return measure(np.array(confidences, dtype=float), np.array(right, dtype=bool)).to_json()


def conclude(run: RunDir, config: TaggingConfig, more: Mapping[str, Any]) -> dict[str, Any]:
    """Write and return `metrics.json`, with `more` in it."""

    def stored(name: str) -> Any:
        return read_object(run.path / name)

    scores = {split: stored(f"scores/{split}.json") for split in config.evaluate}
    metrics = {"fit": stored("fit.json"), "scores": scores, **more}
    run.write_json("metrics.json", metrics)
    return metrics
