"""Asking a trained pair of models: a picture and names go in, words and boxes come out.

from groundling import EntityGrounder

grounder = EntityGrounder.load()
answers = grounder.ground("photo.jpg", [("Mara Quill", "PER")])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from groundling.answers import Answer, answer_queries
from groundling.config import DataConfig, GrounderConfig, IsrConfig, ToyworldData, WriterConfig
from groundling.data.expressions_jsonl import read_expressions
from groundling.data.json_lines import answer_box, box_numbers
from groundling.errors import DataError, GroundlingError, InputError, RunError
from groundling.images import load_image
from groundling.models.base import GREEDY, ExpressionSampler, Grounder, Sampling, Writer
from groundling.models.registry import few_threads, open_grounder, open_writer, packaged
from groundling.records import Box, EntityType, Expression, Failure, Query, parse_entity_type
from groundling.rundir import stored_config
from groundling.strict_json import read_object


@dataclass(frozen=True, slots=True)
class EntityAnswer:
    """What was said of one entity; `box` (pixels of the picture, upright) None: it is not there.

    `expression` refers to the entity in words, or is the sentence that says it is absent; `logprob`
    is its natural-log probability under the writer, None where it was cut short. `known` tells
    whether the writer has been trained on the name, None where no list of names came with it.
    """

    entity: str
    type: EntityType
    expression: str
    box: Box | None
    logprob: float | None
    known: bool | None

    def to_json(self) -> dict[str, object]:
        """The answer as `groundling ground --json` prints it."""
        return {
            "entity": self.entity,
            "type": self.type,
            "expression": self.expression,
            "box": None if self.box is None else box_numbers(answer_box(self.box)),
            "logprob": self.logprob,
            "known": self.known,
        }


@dataclass(frozen=True, slots=True)
class EntityFailure:
    """An entity that could not be answered, and why; it is never to be read as absent."""

    entity: str
    type: EntityType
    failure: Failure

    def to_json(self) -> dict[str, object]:
        """The failure as `groundling ground --json` prints it."""
        error = self.failure.to_json()
        return {"entity": self.entity, "type": self.type, "error": error}


class EntityGrounder:
    """A writer and a grounder, ready to be asked about any picture.

    `tuned` tells whether the writer was ever trained on the task. `names` are those that its run
    trained on, beside the ones that its checkpoint lists. With `known_only`, as for the models that
    come with the package, any other name is a failure and nobody is asked about it.
    """

    def __init__(
        self,
        writer: Writer,
        grounder: Grounder,
        *,
        source: str = "writer:session/0",
        max_new_tokens: int = 64,
        tuned: bool = True,
        names: frozenset[tuple[str, EntityType]] = frozenset(),
        known_only: bool = False,
        configs: Sequence[WriterConfig | GrounderConfig] = (),
    ) -> None:
        """`configs` are those of the two models, where known: tiny ones take one thread."""
        self.tuned = tuned
        self.source = source
        self.writer = writer
        self.grounder = grounder
        self.max_new_tokens = max_new_tokens
        self._names = names
        self.sampler: ExpressionSampler = _KnownOnly(writer, self._known) if known_only else writer
        self._configs = configs

    @classmethod
    def load(cls, run: str | Path | None = None) -> EntityGrounder:
        """The models of a run directory; without one, those that come with the package.

        Of a run's rounds the one that its metrics.json selects is taken, else the last that is
        there. Raises RunError where `run` is no ISR run or has no weights yet, InputError where
        the base models it names are gone.
        """
        if run is not None:
            return cls._of_run(Path(run))
        shipped = packaged("tuned")
        if (shipped / "config.yaml").is_file():
            return cls._of_run(shipped, known_only=True)
        return cls._untuned()

    @classmethod
    def _of_run(cls, run: Path, known_only: bool = False) -> EntityGrounder:
        config = stored_config(run, IsrConfig)
        round_ = _chosen_round(run)
        adapter, tuned_grounder = run / f"writer/round-{round_}", run / "grounder"
        if config.grounder.tune and not tuned_grounder.is_dir():
            raise RunError(f"{run}: its grounder is not tuned yet; let the run finish first")
        with _opening(f"{run}: its writer of round {round_}"):
            writer = open_writer(config.writer, config.lora, config.seed, adapter)
        with _opening(f"{run}: its grounder"):
            grounder = open_grounder(
                config.grounder, tuned_grounder if config.grounder.tune else None
            )
        return cls(
            writer,
            grounder,
            source=f"writer:{run.resolve().name}/{round_}",
            max_new_tokens=config.max_new_tokens,
            names=_trained_names(run),
            known_only=known_only,
            configs=(config.writer, config.grounder),
        )

    @classmethod
    def _untuned(cls) -> EntityGrounder:
        """The packaged models before any tuning: they know names, but not what is asked of them."""
        config = IsrConfig(data=DataConfig(toyworld=ToyworldData()))
        return cls(
            open_writer(config.writer, config.lora, config.seed),
            open_grounder(config.grounder),
            source="writer:untuned/0",
            max_new_tokens=config.max_new_tokens,
            tuned=False,
            known_only=True,
            configs=(config.writer, config.grounder),
        )

    def ground(
        self, image: str | Path, entities: Sequence[tuple[str, str]]
    ) -> list[EntityAnswer | EntityFailure]:
        """One answer for each (name, type), in order; types are PER, LOC, ORG, MISC or OTHER.

        Raises ImageError for a picture that cannot be read and InputError for a name or type that
        cannot be asked; what goes wrong for one entity alone is an EntityFailure in its place.
        """
        queries = make_queries(image, entities)
        load_image(image)  # a bad picture is the caller's to hear of, not a failure of each entity
        with few_threads(*self._configs):
            answers = answer_queries(
                self.sampler,
                self.grounder,
                queries,
                source=self.source,
                sampling=Sampling(GREEDY.temperature, self.max_new_tokens),
            )
        return [self._answered(*pair) for pair in zip(queries, answers, strict=True)]

    def _answered(self, query: Query, answer: Answer | Failure) -> EntityAnswer | EntityFailure:
        if isinstance(answer, Failure):
            return EntityFailure(query.name, query.type, answer)
        return EntityAnswer(
            query.name,
            query.type,
            answer.expression.text,
            answer.box,
            answer.expression.logprob,
            self._known(query),
        )

    def _known(self, query: Query) -> bool | None:
        return True if (query.name, query.type) in self._names else self.writer.knows(query)


class _KnownOnly:
    """A writer that is asked about names alone that it was trained on; others are failures.

    The packaged models have seen nothing but the embedded world: of a stranger they say something,
    mostly that it is absent, and nothing in their words or numbers shows that they do not know.
    """

    def __init__(self, writer: Writer, knows: Callable[[Query], bool | None]) -> None:
        self._writer, self._knows = writer, knows

    def sample(
        self, queries: Sequence[Query], k: int, sampling: Sampling, seed: int, source: str
    ) -> list[list[Expression] | Failure]:
        """See `models.base.ExpressionSampler`."""
        asked = [query for query in queries if self._knows(query) is not False]
        rows = iter(self._writer.sample(asked, k, sampling, seed, source) if asked else [])
        return [
            _stranger(query) if self._knows(query) is False else next(rows) for query in queries
        ]


def _stranger(query: Query) -> Failure:
    name = query.name if len(query.name) <= 60 else query.name[:59] + "…"
    return Failure(
        f"the packaged models were never trained on {name} ({query.type}): they know the names of "
        "the embedded world alone; train on posts of yours with groundling isr and name that run "
        "with --run, or ask a model that knows the world with groundling direct",
        "prompt",
        "unknown-name",
    )


def make_queries(image: str | Path, entities: Sequence[tuple[str, str]]) -> list[Query]:
    """One query for each (name, type). Raises InputError for an empty name or an unknown type."""
    queries = []
    for index, (name, type_) in enumerate(entities):
        if not name.strip():
            raise InputError(f"entity {index + 1} has no name; wanted a name and a type")
        if not _is_text(name):
            raise InputError(f"entity {name!r}: not Unicode text; wanted it in UTF-8")
        queries.append(Query(f"{image}#{index}", str(image), name, parse_entity_type(type_)))
    return queries


def _is_text(name: str) -> bool:
    """Whether a name can be encoded: bytes of the command line that are no UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _chosen_round(run: Path) -> int:
    """The round whose writer answers: the selected one, else the last that has weights."""
    found = {
        int(number)
        for folder in (run / "writer").glob("round-*")
        if (number := folder.name.removeprefix("round-")).isdecimal()
        and (folder / "adapter_model.safetensors").is_file()
    }
    selected = _selected_round(run)
    if not found:
        raise RunError(f"{run}: no writer's weights (writer/round-N); let the run get that far")
    if selected is not None and selected not in found:
        raise RunError(f"{run}: metrics.json selects round {selected}, which has no weights here")
    return max(found) if selected is None else selected


def _selected_round(run: Path) -> int | None:
    """The number of the round that metrics.json selects (`sft` is 0); None without that file."""
    path = run / "metrics.json"
    if not path.exists():
        return None
    try:
        name = read_object(path)["selected"]
        return 0 if name == "sft" else int(name.removeprefix("round-"))
    except (DataError, ValueError, LookupError, TypeError, AttributeError) as fault:
        raise RunError(
            f"{path}: selects no round (wanted sft or round-N); let the run finish again"
        ) from fault


def _trained_names(run: Path) -> frozenset[tuple[str, EntityType]]:
    path = run / "experts" / "train.jsonl"
    if not path.is_file():
        return frozenset()
    return frozenset((row.name, row.type) for row in read_expressions(path))


@contextmanager
def _opening(what: str) -> Iterator[None]:
    """Damaged weights are told in one line; each library has exceptions of its own for them."""
    try:
        yield
    except GroundlingError:
        raise
    except Exception as fault:
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise RunError(f"{what} cannot be opened ({reason}); restore it or run again") from fault
