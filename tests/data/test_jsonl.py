from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundling.data.ccks_predictions import write_ccks_predictions
from groundling.data.expressions_jsonl import (
    EntityExpression,
    read_expressions,
    write_expressions,
)
from groundling.data.jsonl import (
    as_written,
    read_posts,
    read_predictions,
    write_posts,
    write_predictions,
)
from groundling.errors import DataError, InputError
from groundling.ground import EntityAnswer
from groundling.records import (
    TWITTER,
    Box,
    Entity,
    Expression,
    FailedEntity,
    Failure,
    Post,
    PostPrediction,
    Prediction,
)

NYC = {"name": "NYC", "type": "LOC", "start": 1, "end": 2, "boxes": [[1, 2, 3.5, 4]]}
POST = {"id": "p1", "image": None, "tokens": ["in", "NYC"], "entities": [NYC]}
ANSWER = {"name": "NYC", "type": "LOC", "box": [1, 2, 3.5, 4]}
PREDICTED = {"id": "p1", "entities": [ANSWER]}
SAID = {"id": "p1", "entity": "NYC", "type": "LOC", "expression": "the sign", "source": "human"}
READERS = {"posts": read_posts, "predictions": read_predictions, "expressions": read_expressions}
SOUND = {"posts": POST, "predictions": PREDICTED, "expressions": SAID}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.jsonl"


def put(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


# --- posts -------------------------------------------------------------------------------------


def test_posts_are_read(path: Path) -> None:
    spoken = {"id": "p2", "text": " in  NYC\u2003today", "entities": [NYC | {"type": "OTHER"}]}
    bare = {"id": "p3", "text": "", "meta": {"anything": 1}}
    split = read_posts(put(path, POST, spoken, bare))
    boxes = (Box(1, 2, 3.5, 4),)
    assert split.posts == (
        Post("p1", ("in", "NYC"), (Entity("NYC", "LOC", 1, 2, boxes),)),
        Post("p2", ("in", "NYC", "today"), (Entity("NYC", "MISC", 1, 2, boxes),)),
        Post("p3", ()),
    )
    assert (split.name, split.without_xml, split.xml_sizes) == ("test", None, {})


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (without(POST, "id"), "id: missing"),
        (POST | {"id": 7}, "id: wanted a valid string, got 7"),
        (POST | {"id": ""}, "id: "),
        (POST | {"image": 7}, "image: "),
        (without(POST, "tokens"), "either 'tokens' or 'text'"),
        (POST | {"text": "in NYC"}, "either 'tokens' or 'text'"),
        (POST | {"tokens": ["in", ""]}, r"tokens\[1\]"),
        (POST | {"tokens": "in NYC"}, "tokens: "),
        (POST | {"entites": []}, "entites: unknown key"),
        (POST | {"entities": [without(NYC, "end")]}, "both 'start' and 'end', or neither"),
        (POST | {"entity": "NYC"}, "entity: unknown key"),
        (POST | {"offsets": "characters"}, "count in 'text', which is missing"),
        (POST | {"offsets": "bytes"}, "offsets: wanted 'tokens', 'characters' or 'utf-16'"),
        (POST | {"entities": [NYC | {"box": None}]}, r"entities\[0\]\.box: unknown key"),
        (POST | {"entities": [NYC | {"type": "GPE"}]}, "unknown entity type 'GPE'"),
        (POST | {"entities": [NYC | {"type": None}]}, r"entities\[0\]\.type"),
        (POST | {"entities": [NYC | {"start": "1"}]}, r"entities\[0\]\.start"),
        (POST | {"entities": [NYC | {"start": 1.0}]}, r"entities\[0\]\.start"),
        (POST | {"entities": [NYC | {"end": 3}]}, "tokens 1 to 3 of 2"),
        (POST | {"entities": [NYC | {"end": 1}]}, "tokens 1 to 1 of 2"),
        (POST | {"entities": [NYC | {"start": -1}]}, "tokens -1 to 2 of 2"),
        (POST | {"entities": [NYC | {"boxes": [[1, 2, 3]]}]}, r"boxes\[0\]"),
        (POST | {"entities": [NYC | {"boxes": [[1, 2, 3, True]]}]}, r"boxes\[0\]\[3\]"),
        (POST | {"entities": [NYC | {"boxes": [[1, 2, 3, "4"]]}]}, r"boxes\[0\]\[3\]"),
        (POST | {"entities": [NYC | {"boxes": [[1, 2, 3, 10**400]]}]}, r"boxes\[0\]\[3\]"),
        (POST | {"entities": [NYC | {"boxes": [[5, 2, 3, 4]]}]}, "xmax 3 < xmin 5"),
        (POST | {"entities": [NYC | {"boxes": [[1, 2, 1, 4]]}]}, "xmax = xmin = 1"),
        ([POST], "wanted"),
        ("p1", "wanted"),
        (None, "wanted"),
    ],
)
def test_a_bad_post_is_refused_or_left_out(path: Path, line: Any, words: str) -> None:
    put(path, POST | {"id": "p0"}, line)
    with pytest.raises(DataError, match=words) as caught:
        read_posts(path)
    assert (caught.value.path, caught.value.line) == (path, 2)
    split = read_posts(path, skip_bad=True)
    assert [post.id for post in split.posts] == ["p0"]
    assert [(skip.kind, skip.line) for skip in split.skipped] == [("bad-record", 2)]


def test_an_id_twice_is_an_error(path: Path) -> None:
    put(path, POST, POST | {"id": "p2"}, POST)
    with pytest.raises(DataError, match=r"test\.jsonl:3: post id 'p1' was used before, in line 1"):
        read_posts(path)
    assert [post.id for post in read_posts(path, skip_bad=True).posts] == ["p1", "p2"]


def test_a_relative_picture_starts_at_the_file(path: Path, picture: Any) -> None:
    found = picture(path.parent / "pics" / "a.jpg")
    put(
        path,
        POST | {"image": "pics/a.jpg"},
        POST | {"id": "p2", "image": "pics/b.jpg"},
        POST | {"id": "p3", "image": str(found)},
        POST | {"id": "p4"},
    )
    split = read_posts(path)
    absent = str(path.parent / "pics" / "b.jpg")
    assert [post.image for post in split.posts] == [str(found), absent, str(found), None]
    assert split.missing_images == ("p2",)


def test_an_image_folder_confines_the_pictures(path: Path, picture: Any, tmp_path: Path) -> None:
    outside = picture(tmp_path / "outside.jpg")
    home = tmp_path / "images"
    nested, flat = picture(home / "deep" / "a.jpg"), picture(home / "a.jpg")
    by_id = picture(home / "twitter2015_images" / "p4.png")
    put(
        path,
        POST | {"image": "deep/a.jpg"},
        POST | {"id": "p2", "image": "../elsewhere/a.jpg"},
        POST | {"id": "p3", "image": str(outside)},
        POST | {"id": "p4"},
        POST | {"id": "p5", "image": "../outside.jpg"},
    )
    split = read_posts(path, home)
    images = [post.image for post in split.posts]
    assert images == [str(nested), str(flat), None, str(by_id), None]
    assert split.missing_images == ("p3", "p5")


def test_written_pictures_are_relative_to_the_file(tmp_path: Path) -> None:
    post = Post("p1", ("a",), image=str(tmp_path / "pics" / "a.jpg"))
    target = tmp_path / "out" / "posts.jsonl"
    write_posts(target, [post])
    assert json.loads(target.read_text())["image"] == "../pics/a.jpg"
    assert read_posts(target).posts == (post,)


# --- what every file refuses -------------------------------------------------------------------


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{", "not JSON: .* at column 2"),
        (b'{"id": "caf\xe9"}', "byte 0xe9 at column 12"),
        (b'{"id": "a", "id": "b"}', "key 'id' is given twice"),
        (b'{"id": NaN}', "NaN is not a JSON number"),
        (b'{"id": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"id": "\\ud800"}', "half a surrogate pair"),
        (b"[" * 100_000, "nested too deeply"),
        (b"7" * 5000, "limit"),
        (b"7", "wanted"),
    ],
)
def test_what_is_not_a_json_object(path: Path, kind: str, raw: bytes, words: str) -> None:
    path.write_bytes(json.dumps(SOUND[kind]).encode() + b"\n\n" + raw)
    with pytest.raises(DataError, match=words) as caught:
        READERS[kind](path)
    assert caught.value.line == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_is_not_there(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        READERS[kind](tmp_path / "nowhere.jsonl")


def test_blank_lines_windows_ends_and_a_byte_order_mark_are_read(path: Path) -> None:
    line = json.dumps(PREDICTED).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n  \r\n\n")
    assert [post.id for post in read_predictions(path)] == ["p1"]


def test_lines_end_at_newlines_only(path: Path) -> None:
    path.write_text(json.dumps(SAID | {"expression": "a\u2028b\u0085c"}, ensure_ascii=False))
    assert read_expressions(path)[0].expression.text == "a\u2028b\u0085c"


# --- predictions -------------------------------------------------------------------------------


def test_predictions_are_read(path: Path) -> None:
    full = ANSWER | {"start": 1, "end": 2, "expression": "the sign", "score": 0.5, "model": "x"}
    absent = {"name": "Bob", "type": "other", "box": None, "start": None, "score": None}
    failed = {"id": "p3", "error": {"reason": "HTTP 500", "stage": "writer", "tries": 3}}
    put(path, {"id": "p1", "entities": [full, absent], "took_s": 3}, PREDICTED | {"id": "p2"})
    with path.open("a") as stream:
        stream.write(json.dumps(failed) + "\n" + json.dumps({"id": "p4", "entities": []}))
    box = Box(1, 2, 3.5, 4)
    assert read_predictions(path) == (
        PostPrediction(
            "p1",
            (
                Prediction("NYC", "LOC", box, 1, 2, "the sign", 0.5),
                Prediction("Bob", "MISC", None),
            ),
        ),
        PostPrediction("p2", (Prediction("NYC", "LOC", box),)),
        PostPrediction("p3", (), Failure("HTTP 500", "writer")),
        PostPrediction("p4"),
    )


def test_the_kind_of_a_failure_is_kept(path: Path) -> None:
    said = (
        PostPrediction("p1", (), Failure("an apology: …", "answer", "refused")),
        PostPrediction("p2", (), Failure("HTTP 500", "api")),
    )
    write_predictions(path, said)
    assert read_predictions(path) == said
    assert "kind" not in json.loads(path.read_text().splitlines()[1])["error"]


def test_a_predicted_box_may_be_flat_but_not_inverted(path: Path) -> None:
    put(path, {"id": "p1", "entities": [ANSWER | {"box": [1, 2, 1, 4]}]})
    assert read_predictions(path)[0].predictions[0].box == Box(1, 2, 1, 4)
    put(path, {"id": "p1", "entities": [ANSWER | {"box": [50, 2, 10, 4]}]})
    with pytest.raises(DataError, match=r"not \[x, y, width, height\]"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"id": "p1"}, "either 'entities' or 'error'"),
        ({"id": "p1", "entities": None}, "either 'entities' or 'error'"),
        (PREDICTED | {"error": {"reason": "r", "stage": "s"}}, "either 'entities' or 'error'"),
        ({"id": "p1", "error": {"reason": "r"}}, r"error\.stage: missing"),
        ({"id": "p1", "error": "failed"}, "error: "),
        ({"id": "p1", "entities": [without(ANSWER, "box")]}, r"entities\[0\]\.box: missing"),
        ({"id": "p1", "entities": [ANSWER | {"box": []}]}, r"entities\[0\]\.box"),
        ({"id": "p1", "entities": [ANSWER | {"start": 1}]}, "both 'start' and 'end'"),
        ({"id": "p1", "entities": [ANSWER | {"start": 2, "end": 2}]}, "tokens 2 to 2"),
        ({"id": "p1", "entities": [ANSWER | {"score": "high"}]}, r"entities\[0\]\.score"),
        ({"id": "p1", "entities": [ANSWER | {"type": "GPE"}]}, "unknown entity type 'GPE'"),
    ],
)
def test_a_bad_prediction_is_refused(path: Path, line: Any, words: str) -> None:
    put(path, PREDICTED | {"id": "p0"}, line)
    with pytest.raises(DataError, match=words) as caught:
        read_predictions(path)
    assert caught.value.line == 2


def test_two_predictions_for_one_post_are_refused(path: Path) -> None:
    put(path, PREDICTED, {"id": "p1", "error": {"reason": "r", "stage": "s"}})
    with pytest.raises(DataError, match="'p1' was used before, in line 1"):
        read_predictions(path)


# --- expressions -------------------------------------------------------------------------------


def test_expressions_are_read(path: Path) -> None:
    put(path, SAID, SAID | {"source": "expert:gpt-4o", "verdict": "kept", "round": 1})
    assert read_expressions(path) == (
        EntityExpression("p1", "NYC", "LOC", Expression("the sign", "human")),
        EntityExpression("p1", "NYC", "LOC", Expression("the sign", "expert:gpt-4o"), "kept"),
    )


@pytest.mark.parametrize("source", ["", "Human", "expert:", "writer:run", "writer:/1", "model"])
def test_an_unknown_source_is_refused(path: Path, source: str) -> None:
    with pytest.raises(DataError, match="wanted expert:MODEL, human or writer:RUN/ROUND"):
        read_expressions(put(path, SAID | {"source": source}))


@pytest.mark.parametrize("key", ["id", "entity", "type", "expression", "source"])
def test_an_expression_needs_its_keys(path: Path, key: str) -> None:
    with pytest.raises(DataError, match=f"{key}: missing"):
        read_expressions(put(path, without(SAID, key)))


# --- writing -----------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
WORD = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
TYPE = st.sampled_from(("PER", "LOC", "ORG", "MISC"))
NUMBER = st.floats(-1e6, 1e6)
BOX = st.tuples(NUMBER, NUMBER, NUMBER, NUMBER).map(
    lambda n: Box(min(n[0], n[2]), min(n[1], n[3]), max(n[0], n[2]), max(n[1], n[3]))
)
GOLD_BOX = BOX.filter(lambda box: box.x1 < box.x2 and box.y1 < box.y2)
ENTITY = st.builds(
    lambda name, kind, at, boxes: Entity(name, kind, at[0], at[1], tuple(boxes)),
    WORD,
    TYPE,
    st.sampled_from([(0, 1), (1, 3), (0, 3)]),
    st.lists(GOLD_BOX, max_size=2),
)
POSTS = st.lists(
    st.builds(
        lambda key, words, entities: Post(key, tuple(words), tuple(entities)),
        WORD,
        st.lists(WORD, min_size=3, max_size=4),
        st.lists(ENTITY, max_size=3),
    ),
    max_size=3,
    unique_by=lambda post: post.id,
)
SPAN = st.sampled_from([(None, None), (0, 2), (4, 5)])
PREDICTION = st.builds(
    lambda name, kind, box, span, said, score: Prediction(name, kind, box, *span, said, score),
    TEXT,
    TYPE,
    st.none() | BOX,
    SPAN,
    st.none() | TEXT,
    st.none() | st.floats(0, 1),
)
ANSWERED = st.lists(
    st.builds(lambda key, items: PostPrediction(key, tuple(items)), WORD, st.lists(PREDICTION))
    | st.builds(PostPrediction, WORD, st.just(()), st.builds(Failure, TEXT, TEXT)),
    max_size=3,
    unique_by=lambda post: post.id,
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(POSTS, ANSWERED)
def test_what_is_written_reads_back(written: list[Post], answers: list[PostPrediction]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_posts(Path(folder, "posts.jsonl"), written)
        write_predictions(Path(folder, "pred.jsonl"), answers)
        assert read_posts(Path(folder, "posts.jsonl")).posts == tuple(written)
        assert read_predictions(Path(folder, "pred.jsonl")) == tuple(as_written(answers))
        for name in ("posts", "pred"):
            lines = Path(folder, f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
            assert len(lines) == len(written if name == "posts" else answers)


@pytest.mark.parametrize(
    ("box", "written"),
    [
        ((7.199999999999999, 1 / 3, 40.005001, 38), [7.2, 0.33, 40.01, 38]),
        ((0.1 + 0.2, -0.001, 99.999, 10.0), [0.3, 0, 100, 10]),
        ((5.001, 5, 5.004, 9), [5.001, 5, 5.004, 9]),  # it would have no width
        ((5, 5, 5, 9), [5, 5, 5, 9]),
    ],
)
def test_field_r6_boxes_of_answers_have_two_decimals_and_keep_their_area(
    box: tuple[float, float, float, float], written: list[float], path: Path
) -> None:
    said = [PostPrediction("p1", (Prediction("a", "PER", Box(*box)),))]
    write_predictions(path, said)
    assert json.loads(path.read_text())["entities"][0]["box"] == written
    assert read_predictions(path) == tuple(as_written(said))
    answer = EntityAnswer("a", "PER", "the man", Box(*box), None, True)
    assert answer.to_json()["box"] == written
    ccks = path.with_suffix(".json")
    post = Post("p1", ("a",), ())
    write_ccks_predictions(ccks, said, [post], {}, TWITTER)
    assert list(json.loads(ccks.read_text())["p1"][0]["bnd"].values()) == written


def test_annotated_boxes_stay_as_they_are(path: Path) -> None:
    gold = Entity("a", "PER", 0, 1, (Box(7.199999999999999, 0, 9, 9),))
    write_posts(path, [Post("p1", ("a",), (gold,))])
    assert read_posts(path).posts[0].entities == (gold,)


def test_expressions_round_trip(path: Path) -> None:
    said = [
        EntityExpression("p1", "NYC", "LOC", Expression("the sign", "writer:run-a/3"), "kept"),
        EntityExpression("p1", "NYC", "MISC", Expression("el rótulo", "human")),
    ]
    write_expressions(path, said)
    assert read_expressions(path) == tuple(said)
    assert "rótulo" in path.read_text(encoding="utf-8")


def test_whole_coordinates_are_written_without_a_point(path: Path) -> None:
    write_predictions(path, [PostPrediction("p1", (Prediction("a", "PER", Box(1.0, 2, 3.5, 4)),))])
    assert '"box": [1, 2, 3.5, 4]' in path.read_text()


@pytest.mark.parametrize(
    ("posts", "words"),
    [
        ([PostPrediction("a"), PostPrediction("a")], "comes twice"),
        ([PostPrediction("")], "id"),
        ([PostPrediction("a", (Prediction("n", "PER", Box(0, 0, math.nan, 1)),))], "box"),
        ([PostPrediction("a", (Prediction("n", "PER", Box(0, 0, math.inf, 1)),))], "box"),
        ([PostPrediction("a", (Prediction("n", "PER", Box(5, 0, 1, 1)),))], "xmax 1 < xmin 5"),
        ([PostPrediction("a", (Prediction("n", "PER", None, 1),))], "both"),
        ([PostPrediction("a", (Prediction("\ud800", "PER", None),))], "surrogate"),
    ],
)
def test_what_would_not_read_back_is_not_written(
    path: Path, posts: list[PostPrediction], words: str
) -> None:
    path.write_text("before")
    with pytest.raises(InputError, match=words):
        write_predictions(path, [PostPrediction("fine"), *posts])
    assert path.read_text() == "before"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_flat_gold_box_is_not_written(path: Path) -> None:
    flat = Entity("a", "PER", 0, 1, (Box(1, 1, 1, 2),))
    with pytest.raises(InputError, match=r"'p1' cannot be written: .*xmax = xmin"):
        write_posts(path, [Post("p1", ("a",), (flat,))])
    assert not path.exists()


def test_field_r5_an_entity_that_failed_stands_beside_the_answers(path: Path) -> None:
    ann = Prediction("Ann", "PER", Box(1, 2, 3, 4), 0, 1)
    why = Failure("an apology", "answer", "refused")
    lost = (FailedEntity("Bo", "MISC", why, 2, 3), FailedEntity("Cy", "PER", why))
    said = (PostPrediction("p1", (ann,), failed=lost), PostPrediction("p2", failed=lost[:1]))
    write_predictions(path, said)
    assert read_predictions(path) == said
    assert json.loads(path.read_text().splitlines()[0])["entities"][1:] == [
        {"name": "Bo", "type": "MISC", "start": 2, "end": 3, "error": why.to_json()},
        {"name": "Cy", "type": "PER", "error": why.to_json()},
    ]


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"box": None, "error": {"reason": "r", "stage": "s"}}, "either 'box' or 'error'"),
        ({"error": None}, "box: missing"),
        ({"error": {"reason": "r"}}, "stage: missing"),
        ({"error": {"reason": "r", "stage": "s"}, "start": 1}, "both 'start' and 'end'"),
    ],
)
def test_field_r5_an_entity_is_answered_or_failed(
    path: Path, keys: dict[str, object], wanted: str
) -> None:
    entity = {"name": "Ann", "type": "PER", **keys}
    path.write_text(json.dumps({"id": "p1", "entities": [entity]}) + "\n")
    with pytest.raises(DataError, match=wanted):
        read_predictions(path)
