from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from release_files import voc

from groundling.data.check import check_data
from groundling.data.problems import Problem
from groundling.errors import DataError, InputError

CLEAN = "IMGID:p1\nNYC\tB-LOC\nnow\tO\n\n"
BOX = voc(("NYC", (1, 2, 100, 80)))


def kinds(problems: list[Problem]) -> list[tuple[str, str, int | None]]:
    return [(problem.kind, Path(problem.file).name, problem.line) for problem in problems]


def test_a_clean_release_has_no_problem(release: Any) -> None:
    assert check_data(release({"test": CLEAN}, {"p1": BOX}), "twitter-gmner") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IMGID:p2\nb\tI-PER\n", [("orphan-inside", 6)]),
        ("IMGID:p2\na\tB-PER\nb\tI-ORG\n", [("orphan-inside", 7)]),
        ("IMGID:p2\nb\tI-PER\tx\n", [("malformed-line", 6)]),
        ("IMGID:p2\nb\nc\tO\nd\tE-PER\n", [("malformed-line", 6), ("unknown-tag", 8)]),
        ("b\tO\n", [("line-outside-post", 5)]),
        ("IMGID:p2\nb\tO\nIMGID:p3\nc\tO\n", [("missing-blank-line", 7)]),
        ("IMGID:p1\nb\tO\n", [("duplicate-post", 5)]),
        ("IMGID:p/2\nb\tO\n", [("bad-post-id", 5)]),
        ("IMGID:p2\n", [("empty-post", 5)]),
        ("IMGID:p2\r\nb\tO\r\n", [("crlf", 5)]),
        (b"IMGID:p2\n\xff\tO\n", [("not-utf8", 6)]),
        ("IMGID:p2\nX\tB-PER\nX\tB-ORG\nX\tB-PER\n", [("type-conflict", 7)]),
        ("IMGID:p2\nX\tB-PER\nx\tB-ORG\n", []),
        ("IMGID:p2\na\u200bb\tO\n", [("odd-character", 6)]),
        ("IMGID:p2\n\ufffd\tO\n", [("odd-character", 6)]),
        ("IMGID:p2\n\x92\tO\n", [("odd-character", 6)]),
        ("IMGID:p2\na b\tO\n", [("odd-character", 6)]),
        ("IMGID:p2\né\tO\n\U0001f469\tO\n漢\tO\n", []),
    ],
)
def test_quirks_of_a_text(release: Any, text: str | bytes, expected: list[tuple[str, int]]) -> None:
    raw = text.encode() if isinstance(text, str) else text
    src = release({"test": CLEAN.encode() + raw}, {"p1": BOX})
    found = [(problem.kind, problem.line) for problem in check_data(src, "twitter-gmner")]
    assert found == expected


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (voc(("nyc", (1, 2, 3, 4))), [("unmatched-object", 8)]),
        (voc(("NYC\n", (1, 2, 3, 4))), [("unmatched-object", 8), ("name-whitespace", 8)]),
        (voc((" NYC", (1, 2, 3, 4))), [("unmatched-object", 8), ("name-whitespace", 8)]),
        (voc(("NYC", (1, 2, 101, 80))), [("box-outside-image", 8)]),
        (voc(("NYC", (1, 2, 100, 81))), [("box-outside-image", 8)]),
        (voc(("NYC", (-1, 2, 100, 80))), [("box-outside-image", 8)]),
        (voc(("NYC", (0, 0, 100, 80))), []),
        (voc(("NYC", (5, 2, 3, 4))), [("inverted-box", 11)]),
        (voc(("NYC", (5, 2, 5, 4))), [("degenerate-box", 11)]),
        (voc(("NYC", ("nan", 2, 5, 4))), [("non-finite-box", 11)]),
        (voc(("NYC", (1, 2, 3, 4)), size=None), [("missing-size", None)]),
        (voc(), [("empty-annotation", None)]),
        (voc(("NYC", (1, 2, 3, 4)), filename="p2.jpg"), [("filename-differs", 3)]),
        (voc(("NYC", (1, 2, 3, 4)), filename="p1.png"), []),
        ("<annotation>", [("broken-xml", 1)]),
        ("<!DOCTYPE a []><annotation/>", [("broken-xml", 1)]),
    ],
)
def test_quirks_of_an_xml(release: Any, xml: str, expected: list[tuple[str, int | None]]) -> None:
    src = release({"test": CLEAN}, {"p1": xml})
    found = check_data(src, "twitter-gmner")
    assert sorted(kinds(found), key=str) == sorted(
        ((kind, "p1.xml", line) for kind, line in expected), key=str
    )


def test_a_broken_xml_does_not_hide_what_is_odd_in_its_text(release: Any) -> None:
    src = release({"test": "IMGID:p1\nb\tI-PER\n"}, {"p1": "<annotation>"})
    assert kinds(check_data(src, "twitter-gmner")) == [
        ("orphan-inside", "test.txt", 2),
        ("broken-xml", "p1.xml", 1),
    ]


def test_a_broken_text_does_not_hide_what_is_broken_in_its_xml(release: Any) -> None:
    src = release({"test": "IMGID:p1\nb\n"}, {"p1": "<annotation>"})
    assert kinds(check_data(src, "twitter-gmner")) == [
        ("malformed-line", "test.txt", 2),
        ("broken-xml", "p1.xml", 1),
    ]


def test_xml_without_a_post_and_a_post_in_two_splits(release: Any) -> None:
    src = release({"train": CLEAN, "test": CLEAN}, {"p1": BOX, "p9": voc(("x", (1, 2, 3, 4)))})
    assert kinds(check_data(src, "twitter-gmner")) == [
        ("post-in-two-splits", "test.txt", 1),
        ("xml-without-post", "p9.xml", None),
    ]


def test_nothing_is_changed(release: Any) -> None:
    src = release({"test": CLEAN + "b\tO\n"}, {"p1": voc(("nyc", (1, 2, 3, 4)))})
    before = {path: path.read_bytes() for path in sorted(src.rglob("*.*"))}
    assert len(check_data(src, "twitter-gmner")) == 2
    assert {path: path.read_bytes() for path in sorted(src.rglob("*.*"))} == before


# --- pictures ----------------------------------------------------------------------------------


@pytest.fixture
def src(release: Any) -> Path:
    found: Path = release({"test": CLEAN}, {"p1": BOX})
    return found


def test_a_sound_picture_is_no_problem(src: Path, picture: Any, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "p1.jpg", (100, 80))
    assert check_data(src, "twitter-gmner", tmp_path / "images") == []


def test_a_missing_picture_is_reported_at_its_post(src: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    found = check_data(src, "twitter-gmner", tmp_path / "images")
    assert kinds(found) == [("image-missing", "test.txt", 1)]


def test_a_picture_of_another_size_is_reported(src: Path, picture: Any, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "p1.jpg", (90, 80))
    (found,) = check_data(src, "twitter-gmner", tmp_path / "images")
    assert (found.kind, Path(found.file).name) == ("image-size-differs", "p1.jpg")
    assert found.message == "the picture is 90 × 80, its XML says 100 × 80"


def test_a_turned_picture_says_so(src: Path, picture: Any, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "images" / "p1.jpg", (100, 80), exif=exif)
    found, summary = check_data(src, "twitter-gmner", tmp_path / "images")
    assert (found.kind, summary.kind) == ("image-size-differs", "box-frame")
    assert found.message.endswith("boxes may be drawn on its stored frame: see --boxes")
    assert "say `boxes: stored`" in summary.message


@pytest.mark.parametrize("fault", ["truncated", "text", "empty", "animated"])
def test_a_picture_that_cannot_be_decoded(
    src: Path, picture: Any, tmp_path: Path, fault: str
) -> None:
    path = picture(tmp_path / "images" / "p1.png", (100, 80))
    if fault == "animated":
        frames = [Image.new("RGB", (100, 80), shade) for shade in ("red", "blue")]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    else:
        whole = path.read_bytes()
        cut = {"truncated": whole[: len(whole) // 2], "text": b"<html>", "empty": b""}
        path.write_bytes(cut[fault])
    (found,) = check_data(src, "twitter-gmner", tmp_path / "images")
    assert (found.kind, found.file) == ("image-unreadable", str(path))
    assert not found.message.startswith(str(path))


def test_a_picture_linked_from_elsewhere_is_not_opened(
    src: Path, picture: Any, tmp_path: Path
) -> None:
    outside = picture(tmp_path / "outside.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "p1.jpg").symlink_to(outside)
    (found,) = check_data(src, "twitter-gmner", tmp_path / "images")
    assert found.kind == "image-unreadable"
    assert "outside" in found.message


def test_without_a_stated_size_the_picture_bounds_the_boxes(
    release: Any, picture: Any, tmp_path: Path
) -> None:
    src = release({"test": CLEAN}, {"p1": voc(("NYC", (1, 2, 100, 80)), size=None)})
    picture(tmp_path / "images" / "p1.jpg", (90, 80))
    found = check_data(src, "twitter-gmner", tmp_path / "images")
    assert kinds(found) == [("missing-size", "p1.xml", None), ("box-outside-image", "p1.xml", 4)]


# --- jsonl -------------------------------------------------------------------------------------


def post(post_id: str, *entities: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"id": post_id, "tokens": ["NYC", "now"], "entities": list(entities), **others}


def entity(name: str = "NYC", kind: str = "LOC", *boxes: list[int]) -> dict[str, Any]:
    return {"name": name, "type": kind, "start": 0, "end": 1, "boxes": list(boxes)}


def test_quirks_of_jsonl(tmp_path: Path) -> None:
    lines = [
        post("p1", entity()),
        post("p2", entity("nyc")),
        post("p3", entity(), entity("NYC", "ORG")),
        post("p4") | {"tokens": []},
        post("p5") | {"tokens": ["a\u200b"]},
        post("p6", entity("NYC", "LOC", [5, 2, 3, 4])),
        post("p1"),
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    (tmp_path / "train.jsonl").write_text(json.dumps(post("p5")) + "\n")
    assert kinds(check_data(path, "jsonl")) == [
        ("name-differs", "test.jsonl", 2),
        ("type-conflict", "test.jsonl", 3),
        ("empty-post", "test.jsonl", 4),
        ("odd-character", "test.jsonl", 5),
        ("bad-record", "test.jsonl", 6),
        ("duplicate-post", "test.jsonl", 7),
        ("bad-record", "test.jsonl", 8),
    ]
    both = check_data(tmp_path, "jsonl")
    assert ("post-in-two-splits", "test.jsonl", 5) in kinds(both)


def test_pictures_of_jsonl(tmp_path: Path, picture: Any) -> None:
    picture(tmp_path / "images" / "p1.jpg", (100, 80))
    lines = [post("p1", entity("NYC", "LOC", [1, 2, 100, 81])), post("p2")]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert kinds(check_data(path, "jsonl", tmp_path / "images")) == [
        ("box-outside-image", "test.jsonl", 1),
        ("image-missing", "test.jsonl", 2),
    ]
    assert check_data(path, "jsonl") == []


def test_pictures_that_jsonl_records_are_decoded(tmp_path: Path, picture: Any) -> None:
    (tmp_path / "p1.jpg").write_bytes(b"<html>")
    picture(tmp_path / "p2.jpg", (100, 80))
    box = entity("NYC", "LOC", [1, 2, 101, 80])
    lines = [post(f"p{n}", box, image=f"p{n}.jpg") for n in (1, 2, 3)]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert kinds(check_data(path, "jsonl")) == [
        ("image-unreadable", "p1.jpg", None),
        ("image-unreadable", "p3.jpg", None),
        ("box-outside-image", "test.jsonl", 2),
    ]


# --- the command -------------------------------------------------------------------------------


def test_check_command_prints_json_and_exits_1(release: Any, data_command: Any) -> None:
    src = release({"test": CLEAN + "IMGID:p2\nb\tI-PER\n"}, {"p1": BOX, "p9": BOX})
    found = data_command("check", src, "--format", "twitter-gmner", "--json")
    assert found.code == 1
    assert found.json == {
        "problems": [
            {
                "file": str(src / "txt" / "test.txt"),
                "line": 6,
                "kind": "orphan-inside",
                "severity": "warning",
                "message": "I-PER of 'b' (post p2) continues nothing; it opens an entity",
            },
            {
                "file": str(src / "xml" / "p9.xml"),
                "kind": "xml-without-post",
                "severity": "warning",
                "message": "no post 'p9' in test",
            },
        ]
    }


def test_check_command_on_clean_data_exits_0(src: Path, data_command: Any) -> None:
    assert data_command("check", src, "--json").json == {"problems": []}
    found = data_command("check", src)
    assert (found.code, found.out) == (0, "no problems found\n")


def test_check_command_lists_a_few_of_a_kind_unless_told(release: Any, data_command: Any) -> None:
    text = "IMGID:p1\n" + "\u200b\tO\n" * 12 + "b\tI-PER\n"
    src = release({"test": text})
    few, every = data_command("check", src), data_command("check", src, "--all")
    assert few.code == every.code == 1
    assert few.out.count("[odd-character]") == 10
    assert "(2 not shown; --all shows them)" in few.out
    assert "12  odd-character: a zero-width" in few.out
    assert "1  orphan-inside: an I- tag" in few.out
    assert every.out.count("[odd-character]") == 12
    assert "not shown" not in every.out
    assert f"{src / 'txt' / 'test.txt'}:14: warning: I-PER" in few.out


@pytest.mark.parametrize("case", ["nowhere", "no-layout", "no-images"])
def test_check_command_exits_2_where_it_cannot_read(
    src: Path, tmp_path: Path, data_command: Any, case: str
) -> None:
    words: dict[str, list[Any]] = {
        "nowhere": [tmp_path / "nowhere"],
        "no-layout": [src / "txt"],
        "no-images": [src, "--images", tmp_path / "nowhere"],
    }
    found = data_command("check", *words[case], "--json")
    assert found.code == 2
    assert found.out == ""
    assert found.err.count("\n") == 1


def test_errors_are_of_the_right_kind(tmp_path: Path, src: Path) -> None:
    with pytest.raises(DataError):
        check_data(tmp_path / "nowhere", "twitter-gmner")
    with pytest.raises(InputError):
        check_data(src, "twitter-gmner", tmp_path / "nowhere")
