"""What a run of ReFineG belongs to: its posts and all that decides answers, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_server import Act, Asked, FaultServer, refused, said
from PIL import Image

from groundling.cli.refineg import metrics_table
from groundling.config_gmner import EndpointKeys, RefinegConfig
from groundling.data.jsonl import read_predictions, write_posts
from groundling.errors import DataError, GroundlingError, RunError
from groundling.models.api.settings import EndpointConfig
from groundling.records import ABSENT, CCKS, Entity, Mention, Post, Prediction
from groundling.refineg import _mention, run_refineg
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
    assert failures_by_stage(out) == {"tag": 1}
    broken.write_bytes((data / "p.png").read_bytes())
    told = run_refineg(config, out, quiet=True, retry=True)
    assert told["grounding"]["failed_posts"] == 0
    assert failures_by_stage(out) == {}


NOT_THERE = said(json.dumps({"box": None}))


def grounding(data: Path, server: FaultServer, way: str = "icl", **changes: Any) -> RefinegConfig:
    """A run that asks `server` where the mentions are that it has learnt to find."""
    config = tagger_alone(data, epochs=8, word_size=12, hidden_size=16)
    keys = {"endpoint": server.url, "model": "m", "api_key_env": None, "attempts": 1}
    raw = config.model_dump() | {"endpoint": keys, "grounding": {"way": way}}
    return RefinegConfig.model_validate({**raw, **changes})


def write_names(data: Path, *names: str) -> None:
    """Posts about these names in every split, each with a picture of its own."""
    for split in ("train", "dev", "test"):
        rows = []
        for place, one in enumerate(posts(*names)):
            path = data / f"{split}{place}.png"
            Image.new("RGB", (8, 8), (place, len(split), 9)).save(path)
            rows.append(replace(one, image=str(path)))
        write_posts(data / f"{split}.jsonl", rows, CCKS)


def test_a_failed_call_counts_though_its_post_met_something_else_first(data: Path) -> None:
    tokens = ("The", "Hood", "leaves", "the", "Kursk")
    entities = (Entity("Hood", "vessel", 1, 2), Entity("Kursk", "vessel", 4, 5))
    both = [Post("p0", tokens, entities, str(data / "p.png"))]
    for split in ("train", "dev", "test"):
        write_posts(data / f"{split}.jsonl", both, CCKS)

    def script(asked: Asked) -> Act:
        return said("no idea") if "Entity: Hood" in asked.text else refused(500, "down")

    zero_shot = {"in_context": {"examples": 0}}
    with FaultServer(script=script) as server:
        config = grounding(data, server, **zero_shot)
        with pytest.raises(RunError, match=r"ground: 1 of 2 questions .* first: HTTP 500: down"):
            run_refineg(config, data.parent / "run", quiet=True)
        config = grounding(data, server, **zero_shot, tolerate=0.5)
        with pytest.raises(RunError, match="ground: none of 2 questions got an answer"):
            run_refineg(config, data.parent / "run", quiet=True)
        config = grounding(data, server, **zero_shot, tolerate=1.0)
        run_refineg(config, data.parent / "run", quiet=True)
    assert failures_by_stage(data.parent / "run") == {"ground": 2}


def test_field_e1_a_stage_of_refusals_alone_stops_the_run(data: Path) -> None:
    write_names(data, "Hood", "Kursk", "Moskva", "Nimitz")
    declining = FaultServer(script=lambda _: said("I'm sorry, but I can't help with that."))
    none = r"ground: none of \d+ questions .* first: declines"
    with declining as server, pytest.raises(RunError, match=none):
        run_refineg(grounding(data, server), data.parent / "run", quiet=True)


def test_a_question_that_is_refused_for_good_does_not_stop_the_run(data: Path) -> None:
    write_names(data, "Hood", "Kursk", "Moskva", "Nimitz")

    def script(asked: Asked) -> Act:
        return refused(400, "too large") if "Entity: Hood" in asked.text[-300:] else NOT_THERE

    out = data.parent / "run"
    with FaultServer(script=script) as server:
        told = run_refineg(grounding(data, server), out, quiet=True)
    assert told["grounding"]["failed"] == {"HTTP 400": 1}
    assert failures_by_stage(out) == {"ground": 1}


def test_a_direct_answer_in_another_form_is_asked_for_again(data: Path) -> None:
    write_names(data, "Hood", "Kursk", "Moskva", "Nimitz")

    def script(asked: Asked) -> Act:
        return said("not sure") if "Hood" in asked.text else said(ABSENT)

    out = data.parent / "run"
    with FaultServer(script=script) as server:
        config = grounding(data, server, "direct")
        assert run_refineg(config, out, quiet=True)["grounding"]["failed_posts"] == 1
    assert failures_by_stage(out) == {"ground": 1}
    with FaultServer(said(ABSENT)) as server:
        config = grounding(data, server, "direct")
        assert run_refineg(config, out, quiet=True, retry=True)["grounding"]["failed_posts"] == 0
    assert failures_by_stage(out) == {}


def test_examples_that_were_left_out_are_told_and_looked_at_again(data: Path) -> None:
    write_names(data, "Hood", "Kursk", "Moskva", "Nimitz")
    broken, out = data / "train1.png", data.parent / "run"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:30])
    with FaultServer(NOT_THERE) as server:
        config = grounding(data, server, in_context={"examples": 3, "image_weight": 0})
        told = run_refineg(config, out, quiet=True)
        assert told["grounding"]["unreadable_example_pictures"] == 1
        assert "pictures of examples that cannot be read 1 (left-out.json)" in metrics_table(told)
        assert failures_by_stage(out) == {"ground": 1}
        asked = len(server.asked)
        broken.write_bytes(whole)
        told = run_refineg(config, out, quiet=True, retry=True)
        assert len(server.asked) > asked, "other examples make other questions"
    assert told["grounding"]["unreadable_example_pictures"] == 0
    assert "cannot be read" not in metrics_table(told)
    assert failures_by_stage(out) == {}


def test_a_stored_mention_without_its_tokens_is_not_the_first_one(tmp_path: Path) -> None:
    whole = _mention(tmp_path, "p", Prediction("Hood", "vessel", None, 3, 4, score=0.5))
    assert whole == Mention(3, 4, "vessel", 0.5)
    for start, end in ((None, None), (None, 4), (3, None)):
        said = Prediction("Hood", "vessel", None, start, end)
        with pytest.raises(DataError, match="post 'p', 'Hood': no start and end; run again"):
            _mention(tmp_path, "p", said)


def test_help_knows_every_default() -> None:
    told = describe(RefinegConfig)
    assert "grounding.never: a list of text (default [])" in told
    assert "Undefined" not in told


def test_the_free_keys_of_an_endpoint_are_keys_of_an_endpoint() -> None:
    (mark,) = EndpointKeys.__metadata__  # type: ignore[attr-defined]
    assert mark.names < EndpointConfig.model_fields.keys()
    decisive = EndpointConfig.model_fields.keys() - mark.names
    assert {"model", "temperature", "convention", "max_pixels", "picture_format"} <= decisive
