"""What a run of ReFineG belongs to: its posts and all that decides answers, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from groundling.config_gmner import EndpointKeys, RefinegConfig
from groundling.data.jsonl import read_predictions, write_posts
from groundling.errors import DataError, GroundlingError, RunError
from groundling.models.api.settings import EndpointConfig
from groundling.records import CCKS, Entity, Post
from groundling.refineg import run_refineg
from groundling.settings import describe, load_config
from groundling.stage import failures_by_stage


def posts(*names: str, image: str | None = None) -> list[Post]:
    return [
        Post(f"p{place}", ("The", name, "leaves"), (Entity(name, "vessel", 1, 2),), image)
        for place, name in enumerate(names)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Posts of the CCKS scheme in three splits, with one picture for all."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "p.png")
    for split in ("train", "dev", "test"):
        write_posts(folder / f"{split}.jsonl", posts("Hood", image=str(folder / "p.png")), CCKS)
    return folder


def begin(data: Path, **changes: Any) -> dict[str, Any]:
    """A run up to its synthesis, which is left out: nobody is asked."""
    settings = {
        "scheme": "ccks",
        "data.gmner.source": str(data),
        "endpoint": {
            "endpoint": "http://127.0.0.1:9/v1",
            "model": "m",
            **changes.pop("endpoint", {}),
        },
        "synthesis": None,
        **changes,
    }
    config = load_config(RefinegConfig, None, settings)
    return run_refineg(config, data.parent / "run", until="synth", quiet=True)


def test_a_stopped_run_goes_on_elsewhere_and_with_more_money(data: Path) -> None:
    assert begin(data) == {"questions": 0, "kept": 0}
    prices = {"price_input": 1.0, "price_output": 1.0, "budget": 5.0}
    begin(data, endpoint={"endpoint": "http://127.0.0.2:9/v1", "attempts": 2, **prices})
    begin(data, **{"in_context.endpoint": {"concurrency": 1}})


@pytest.mark.parametrize(
    "changes", [{"endpoint": {"model": "n"}}, {"in_context.endpoint": {"convention": "pixels"}}]
)
def test_but_not_with_another_model_or_way_to_read_boxes(
    data: Path, changes: dict[str, Any]
) -> None:
    begin(data)
    with pytest.raises(RunError, match="belongs to another configuration"):
        begin(data, **changes)


def test_nor_with_other_posts(data: Path) -> None:
    begin(data)
    write_posts(data / "test.jsonl", posts("Hood", "Kursk", image=str(data / "p.png")), CCKS)
    with pytest.raises(RunError, match=r"another configuration \(data\.test: was another"):
        begin(data)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"in_context.endpoint": {"modle": "n"}}, "endpoint of grounding: modle: unknown key"),
        ({"refinement.endpoint": {"attempts": 0}}, "endpoint of refinement: attempts: "),
        ({"grounding.never": ["locatoin"]}, "grounding.never: unknown type 'locatoin'; wanted"),
        ({"tagger.knowledge": True}, "tagger.knowledge: posts of this flow come without"),
        ({"grounding": {"way": "icl", "run": "r"}}, "grounding: run: way icl takes no run"),
        ({"data.gmner.images": "nowhere"}, "nowhere: no such folder"),
        ({"scheme": "twitter"}, "unknown entity type 'vessel'; wanted one of PER"),
    ],
)
def test_what_a_later_stage_would_refuse_is_told_at_once(
    data: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(GroundlingError) as told:
        begin(data, **changes)
    assert line in str(told.value)
    assert not (data.parent / "run/stages").exists()


def test_a_data_set_without_pictures_cannot_be_grounded(data: Path) -> None:
    for split in ("train", "dev", "test"):
        write_posts(data / f"{split}.jsonl", posts("Hood"), CCKS)
    with pytest.raises(DataError, match="no picture of any post found"):
        begin(data)
    begin(data, **{"grounding.way": "none"})


def tagger_alone(data: Path, epochs: int, **tagger: Any) -> RefinegConfig:
    """A run in which nobody is asked and nothing is grounded."""
    settings = {
        "scheme": "ccks",
        "data.gmner.source": str(data),
        "synthesis": None,
        "refinement": None,
        "grounding.way": "none",
        "tagger": {"backend": "bilstm", "device": "cpu", **tagger},
        "tuning": {"lr": 2e-2, "batch_size": 4, "epochs": epochs},
    }
    return load_config(RefinegConfig, None, settings)


def test_scores_count_the_types_of_the_scheme(data: Path) -> None:
    names = ("Hood", "Kursk", "Moskva", "Nimitz")
    for split in ("train", "dev", "test"):
        write_posts(data / f"{split}.jsonl", posts(*names), CCKS)
    config = tagger_alone(data, epochs=8, word_size=12, hidden_size=16)
    scores = run_refineg(config, data.parent / "run", quiet=True)["test"]["grounded"]
    assert scores["span"]["mner"]["right"] == 4
    assert scores["refineg"]["mner"]["right"] == 4


def test_a_post_that_cannot_be_tagged_stays_a_failure_until_it_can(data: Path) -> None:
    names, broken = ("Hood", "Kursk", "Moskva"), data / "p2.png"
    for split in ("train", "dev", "test"):
        rows = posts(*names, image=str(data / "p.png"))
        if split == "test":
            rows[2] = replace(rows[2], image=str(broken))
        write_posts(data / f"{split}.jsonl", rows, CCKS)
    broken.write_bytes((data / "p.png").read_bytes()[:30])
    config = tagger_alone(data, epochs=2, vision={"grid": 1, "width": 4, "heads": 1})
    out = data.parent / "run"
    told = run_refineg(config, out, quiet=True)
    assert told["grounding"]["failed_posts"] == 1
    for name in ("mentions/test", "mentions/refined", "predictions/test"):
        *others, last = read_predictions(out / f"{name}.jsonl", CCKS)
        assert not any(one.failure for one in others)
        assert last.failure is not None, name
        assert str(broken) in last.failure.reason
    assert failures_by_stage(out) == {"ground": 1, "tag": 1}
    broken.write_bytes((data / "p.png").read_bytes())
    told = run_refineg(config, out, quiet=True, retry=True)
    assert told["grounding"]["failed_posts"] == 0
    assert failures_by_stage(out) == {}


def test_help_knows_every_default() -> None:
    told = describe(RefinegConfig)
    assert "grounding.never: a list of text (default [])" in told
    assert "Undefined" not in told


def test_the_free_keys_of_an_endpoint_are_keys_of_an_endpoint() -> None:
    (mark,) = EndpointKeys.__metadata__  # type: ignore[attr-defined]
    assert mark.names < EndpointConfig.model_fields.keys()
    decisive = EndpointConfig.model_fields.keys() - mark.names
    assert {"model", "temperature", "convention", "max_pixels", "picture_format"} <= decisive
