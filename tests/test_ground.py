from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_run
import torch
from fakes import FakeGrounder, FakeWriter
from PIL import Image

import groundling
from groundling import EntityAnswer, EntityFailure, EntityGrounder
from groundling.data.gmner import read_gmner
from groundling.errors import ImageError, InputError, RunError
from groundling.models.registry import packaged
from groundling.records import ABSENT, Box, Failure

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BOX = Box(3.0, 4.0, 20.5, 31.0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = [("Neymar", "PER"), ("NASA", "ORG")]
    return small_run.write_checkpoint(tmp_path_factory.mktemp("base") / "writer", names)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    return small_run.write_run(run, checkpoint, rounds=2, selected="round-1")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.effect_noise((60, 40), 80).convert("RGB").save(path)
    return path


def pair(words: object = "the man", box: object = BOX) -> EntityGrounder:
    writer = FakeWriter({"Ann": words, "Bob": ABSENT}, known=frozenset({"Ann"}))  # type: ignore[dict-item]
    return EntityGrounder(writer, FakeGrounder(lambda *_: box))  # type: ignore[arg-type, return-value]


# -------------------------------------------------------------------------------- asking


def test_words_lead_to_a_box_and_absence_to_none(photo: Path) -> None:
    answers = pair().ground(photo, [("Ann", "PER"), ("Bob", "other")])
    assert answers == [
        EntityAnswer("Ann", "PER", "the man", BOX, -0.5, True),
        EntityAnswer("Bob", "MISC", ABSENT, None, -0.5, False),
    ]
    assert [answer.to_json() for answer in answers] == [
        {
            "entity": "Ann",
            "type": "PER",
            "expression": "the man",
            "box": [3, 4, 20.5, 31],
            "logprob": -0.5,
            "known": True,
        },
        {
            "entity": "Bob",
            "type": "MISC",
            "expression": ABSENT,
            "box": None,
            "logprob": -0.5,
            "known": False,
        },
    ]


@pytest.mark.parametrize(
    ("words", "box", "failure"),
    [
        (Failure("no answer", "write"), BOX, Failure("no answer", "write")),
        ("the man", Failure("no such box", "ground"), Failure("no such box", "ground")),
    ],
)
def test_a_failure_stands_in_its_place(
    photo: Path, words: object, box: object, failure: Failure
) -> None:
    first, second = pair(words, box).ground(photo, [("Ann", "PER"), ("Bob", "PER")])
    assert first == EntityFailure("Ann", "PER", failure)
    assert first.to_json()["error"] == {"reason": failure.reason, "stage": failure.stage}
    assert "box" not in first.to_json()
    assert isinstance(second, EntityAnswer)


def test_the_writer_is_asked_greedily_and_each_name_by_itself(photo: Path) -> None:
    writer = FakeWriter({"Ann": "the man", "Cy": "the man"})
    grounder = FakeGrounder(lambda *_: BOX)
    EntityGrounder(writer, grounder, max_new_tokens=9).ground(
        str(photo), [("Ann", "PER"), ("Cy", "ORG")]
    )
    assert [(q.name, q.type, q.image, k) for q, k, *_ in writer.asked] == [
        ("Ann", "PER", str(photo), 1),
        ("Cy", "ORG", str(photo), 1),
    ]
    assert all((s.temperature, s.max_new_tokens) == (0.0, 9) for _, _, s, _ in writer.asked)
    assert len({query.id for query, *_ in writer.asked}) == 2
    assert grounder.asked == [(str(photo), "the man")]


def test_a_bad_call_is_refused_before_any_model_is_asked(photo: Path, tmp_path: Path) -> None:
    writer = FakeWriter({"Ann": "the man"})
    grounder = EntityGrounder(writer, FakeGrounder({}))
    with pytest.raises(ImageError, match="no such file"):
        grounder.ground(tmp_path / "gone.jpg", [("Ann", "PER")])
    with pytest.raises(InputError, match="ACTOR"):
        grounder.ground(photo, [("Ann", "ACTOR")])
    with pytest.raises(InputError, match="entity 2 has no name"):
        grounder.ground(photo, [("Ann", "PER"), (" ", "PER")])
    with pytest.raises(InputError, match="not Unicode"):
        grounder.ground(photo, [("Ann\udcff", "PER")])
    assert writer.asked == []
    assert grounder.ground(photo, []) == []


# ------------------------------------------------------------------------------- loading


def expressions(grounder: EntityGrounder, photo: Path) -> list[str]:
    return [
        answer.expression if isinstance(answer, EntityAnswer) else answer.failure.reason
        for answer in grounder.ground(photo, [("Neymar", "PER"), ("Paris", "LOC")])
    ]


def test_a_run_answers_with_the_round_it_selected(
    finished: Path, checkpoint: Path, photo: Path, tmp_path: Path
) -> None:
    grounder = EntityGrounder.load(finished)
    assert (grounder.source, grounder.tuned) == ("writer:finished/1", True)
    selected = expressions(grounder, photo)
    for name in ("sft", "round-1", "round-2"):
        other = small_run.write_run(tmp_path / name, checkpoint, rounds=2, selected=name)
        assert (expressions(EntityGrounder.load(other), photo) == selected) == (name == "round-1")


def test_an_unfinished_run_answers_with_its_last_round(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "metrics.json").unlink()
    (run / "writer/round-10").mkdir()  # a folder that holds no weights does not count
    assert EntityGrounder.load(str(run)).source == "writer:run/2"
    shutil.rmtree(run / "writer/round-2")
    assert EntityGrounder.load(run).source == "writer:run/1"


def test_without_a_run_the_packaged_one_answers_and_else_the_untuned_models(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "tuned")
    monkeypatch.setattr("groundling.ground.packaged", lambda name: tmp_path / name)
    assert EntityGrounder.load().source == "writer:tuned/1"
    (tmp_path / "tuned" / "config.yaml").unlink()
    untuned = EntityGrounder.load()
    assert (untuned.source, untuned.tuned) == ("writer:untuned/0", False)


def test_a_run_knows_its_checkpoints_names_and_its_own(finished: Path, photo: Path) -> None:
    asked = [("Neymar", "PER"), ("Neymar", "ORG"), ("Trained Only", "PER"), ("Nobody", "PER")]
    answers = EntityGrounder.load(finished).ground(photo, asked)
    assert [a.known for a in answers if isinstance(a, EntityAnswer)] == [True, False, True, False]


def test_a_run_whose_grounder_was_not_tuned_uses_the_published_one(
    checkpoint: Path, photo: Path, tmp_path: Path
) -> None:
    run = small_run.write_run(tmp_path / "run", checkpoint, rounds=0, tune=False)
    (answer,) = EntityGrounder.load(run).ground(photo, [("Neymar", "PER")])
    assert isinstance(answer, EntityAnswer)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: shutil.rmtree(run), "not a run directory"),
        (lambda run: shutil.rmtree(run / "writer"), "no writer's weights"),
        (lambda run: shutil.rmtree(run / "grounder"), "not tuned yet"),
        (lambda run: shutil.rmtree(run / "writer/round-1"), "selects round 1"),
        (lambda run: (run / "metrics.json").write_text("{"), "selects no round"),
        (lambda run: (run / "metrics.json").write_text('{"selected": "best"}'), "selects no round"),
        (lambda run: (run / "grounder/config.json").write_text("{"), "grounder"),
        (lambda run: (run / "grounder/model.safetensors").write_bytes(b"x"), "grounder"),
        (lambda run: (run / "grounder/config.json").unlink(), "no grounder here"),
        (
            lambda run: (run / "writer/round-1/adapter_model.safetensors").write_bytes(b"x"),
            "adapter_model.safetensors",
        ),
        (
            lambda run: (run / "writer/round-1/adapter_config.json").write_text("{"),
            "writer/round-1: adapter_config.json cannot be read",
        ),
        (lambda run: (run / "config.yaml").write_text("a: ["), "config.yaml"),
    ],
)
def test_a_run_without_sound_weights_is_one_clear_line(
    finished: Path, tmp_path: Path, damage: object, said: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    damage(run)  # type: ignore[operator]
    with pytest.raises((RunError, InputError), match=said) as caught:
        EntityGrounder.load(run)
    assert str(run) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_import_groundling_is_light_and_lends_its_name() -> None:
    code = (
        "import sys, groundling\n"
        "assert 'EntityGrounder' in dir(groundling)\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'pydantic', 'yaml'} & set(sys.modules)))\n"
        "from groundling import EntityGrounder\n"
        "print(EntityGrounder.__module__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\ngroundling.ground False\n"
    with pytest.raises(AttributeError, match="no attribute 'Grounder'"):
        groundling.Grounder  # noqa: B018


# ----------------------------------------------------------------------- real photographs


@pytest.fixture(scope="module")
def shipped() -> EntityGrounder:
    """The packaged models, asked about strangers too, as a run of one's own would be."""
    if not (packaged("writer") / "model.safetensors").is_file():
        pytest.skip("the package was built without its models")
    models = EntityGrounder.load()
    models.sampler = models.writer
    return models


def assert_sound(image: str, answers: list[EntityAnswer | EntityFailure], asked: int) -> None:
    with Image.open(image) as picture:
        width, height = picture.size
    assert len(answers) == asked
    for answer in answers:
        assert isinstance(answer, EntityAnswer), answer
        absent = answer.expression.rstrip(".") == ABSENT
        assert (answer.box is None) == absent
        if answer.box is not None:
            assert 0 <= answer.box.x1 <= answer.box.x2 <= width
            assert 0 <= answer.box.y1 <= answer.box.y2 <= height


def test_real_posts_go_through(shipped: EntityGrounder) -> None:
    folder = SHARED / "twitter-gmner-22"
    if not folder.is_dir():
        pytest.skip("twitter-gmner-22 is not in ../shared/data beside the checkout")
    posts = read_gmner(folder, "test", folder / "images").posts
    assert len(posts) == 22
    for post in posts:
        assert post.image is not None
        asked = [(entity.name, entity.type) for entity in post.entities] or [("Nobody", "PER")]
        assert_sound(post.image, shipped.ground(post.image, asked), len(asked))


def test_public_photographs_go_through(shipped: EntityGrounder) -> None:
    folder = SHARED / "public-domain"
    if not folder.is_dir():
        pytest.skip("public-domain is not in ../shared/data beside the checkout")
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        image = str(folder / row["image"])
        answers = shipped.ground(image, [(row["entity"], row["type"])])
        assert_sound(image, answers, 1)
        assert [a.known for a in answers if isinstance(a, EntityAnswer)] == [False]
