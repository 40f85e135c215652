"""What a run directory holds, finished or not, as a report needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from groundling.data.frames import turn_those_with_images
from groundling.data.gmner import read_gmner
from groundling.data.jsonl import read_predictions
from groundling.errors import GroundlingError, RunError
from groundling.records import Post, PostPrediction
from groundling.rundir import read_events
from groundling.settings import read_yaml
from groundling.strict_json import parse_json
from groundling.toyworld.posts import WorldJudge, read_scenes

WORLD = "data"
"""Where a run keeps the embedded world that it drew, as in `workbench`, which imports torch."""

Meaning = Callable[[str, str], str]
"""(query id, expression) → what the expression means in the query's picture."""


ROUND = ("prompts", "expressions", "mean_reward", "verdicts", "pairs", "dropped")
"""Some of what a round's metrics.json says."""


@dataclass(frozen=True)
class Gold:
    """The test posts with their pictures, and what expressions mean where the world is known."""

    posts: tuple[Post, ...]
    meaning: Meaning | None = None


@dataclass(frozen=True)
class RunRecord:
    """A run as its directory tells it.

    `stages` are the evaluated writers in training order, each as in `metrics.json`; `rounds` the
    `metrics.json` of each round that has one, by number. `floors` go by split, then by name.
    `gold` is None, with `gold_problem` saying why, where the test posts are no longer at hand.
    """

    path: Path
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    stages: Sequence[Mapping[str, Any]]
    selected: str | None
    floors: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    rounds: Mapping[int, Mapping[str, Any]]
    finished: bool
    gold: Gold | None
    gold_problem: str = ""

    @property
    def names(self) -> list[str]:
        """The names of the evaluated stages, in order."""
        return [stage["name"] for stage in self.stages]

    def stage(self, name: str) -> Mapping[str, Any]:
        """The scores of an evaluated stage. Raises RunError where there is none of this name."""
        found = next((stage for stage in self.stages if stage["name"] == name), None)
        if found is None:
            raise RunError(f"{self.path}: no evaluation of {name!r}; restore metrics.json")
        return found

    def predictions(self, name: str) -> tuple[PostPrediction, ...]:
        """What the writer of a stage answered on test."""
        return read_predictions(self.path / "predictions" / name / "test.jsonl")


_OF_ANOTHER_TYPE = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    TemplateError,
)
"""What reading and drawing raise where a file holds a value of another type than a run writes."""


@contextmanager
def blaming_record(path: Path) -> Iterator[None]:
    """What a run's files lack, or hold of another type, is told in one line: a RunError."""
    try:
        yield
    except GroundlingError:
        raise
    except _OF_ANOTHER_TYPE as fault:
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:200]
        raise RunError(
            f"{path}: its config.yaml, events.jsonl, metrics.json, rounds or evaluations do not "
            f"hold what a run writes ({reason}); restore them, or run again in a new directory"
        ) from fault


def read_record(path: Path) -> RunRecord:
    """Read the run directory at `path`. Raises RunError where it is none."""
    with blaming_record(path):
        return _read_record(path)


def _read_record(path: Path) -> RunRecord:
    identity = _identity(path)
    config = identity["config"]
    summary = _json(path / "metrics.json", "stages", "selected", "floors")
    stages = summary["stages"] if summary else _evaluations(path, config["rounds"])
    gold, problem = _gold(path, config)
    return RunRecord(
        path=path,
        config=config,
        provenance=identity["provenance"],
        events=read_events(path),
        stages=stages,
        selected=summary["selected"] if summary else _best(stages),
        floors=summary["floors"] if summary else _known_floors(stages),
        rounds={
            t: found
            for t in range(1, config["rounds"] + 1)
            if (found := _json(path / f"rounds/{t}/metrics.json", *ROUND)) is not None
        },
        finished=summary is not None,
        gold=gold,
        gold_problem=problem,
    )


def stage_label(name: str) -> str:
    """`round-3` → `Round 3`, `sft` → `SFT`, `untuned` → `Untuned`."""
    if name == "sft":
        return "SFT"
    return name.replace("-", " ").capitalize()


def _identity(path: Path) -> dict[str, Any]:
    source = path / "config.yaml"
    try:
        found = read_yaml(source)
    except FileNotFoundError as fault:
        raise RunError(f"{path}: not a run directory, it has no config.yaml") from fault
    except (OSError, ValueError) as fault:
        raise RunError(f"{source}: cannot be read ({fault}); restore it") from fault
    config = found.get("config") if isinstance(found, dict) else None
    if not isinstance(config, dict) or not {"rounds", "data", "seed"} <= config.keys():
        raise RunError(f"{path}: not a run of `groundling isr`; name another directory")
    return {"config": config, "provenance": found.get("provenance") or {}}


def _json(path: Path, *keys: str) -> dict[str, Any] | None:
    """The object with these keys in a JSON file, None where there is no such file."""
    try:
        found = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as fault:
        raise RunError(f"{path}: not JSON ({fault}); restore it or run the stage again") from fault
    if not isinstance(found, dict) or not set(keys) <= found.keys():
        raise RunError(f"{path}: wanted an object with {', '.join(keys)}; restore it")
    return found


def _evaluations(path: Path, rounds: int) -> list[dict[str, Any]]:
    """The stages that an unfinished run has evaluated so far."""
    names = ["untuned", "sft", *(f"round-{t}" for t in range(1, rounds + 1))]
    found = (
        (name, _json(path / f"evaluations/{name}.json", "validation", "test")) for name in names
    )
    return [{"name": name, **scores} for name, scores in found if scores is not None]


def _best(stages: Sequence[Mapping[str, Any]]) -> str | None:
    """The trained stage that is best on validation so far; the earliest among equals."""
    trained = [stage for stage in stages if stage["name"] != "untuned"]
    if not trained:
        return None
    best = max(trained, key=lambda stage: stage["validation"]["accuracy"]["all"] or 0.0)
    return str(best["name"])


def _known_floors(stages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What any evaluation tells about floors: the one that is always absent."""
    if not stages:
        return {"validation": {}, "test": {}}
    return {split: stages[0][split]["floors"] for split in ("validation", "test")}


def _gold(path: Path, config: Mapping[str, Any]) -> tuple[Gold | None, str]:
    """The test posts, or why they cannot be had."""
    data = config["data"]
    try:
        if data.get("gmner"):
            release = data["gmner"]
            test = read_gmner(release["source"], "test", release["images"])
            if release.get("boxes") == "stored":
                test = turn_those_with_images(Path(release["source"]), test)
            posts = test.posts
            return Gold(posts), ""
        world = path / WORLD
        posts = read_gmner(world, "test", world / "images").posts
        if not (world / "scenes.jsonl").is_file():
            return Gold(posts), ""
        return Gold(posts, WorldJudge(read_scenes(world), [posts], config["seed"]).verdict), ""
    except (GroundlingError, OSError) as fault:
        return None, str(fault)
