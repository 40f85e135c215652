from __future__ import annotations

from pathlib import Path

import pytest
from release_files import voc

from groundling.data.problems import Problem, refuse_errors
from groundling.data.voc import Annotation, format_annotation, read_annotation
from groundling.errors import DataError, InputError
from groundling.records import Box


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p1.xml"


def read(path: Path, content: str | bytes) -> tuple[Annotation | None, list[Problem]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    problems: list[Problem] = []
    return read_annotation(path, problems.append), problems


def test_names_boxes_and_size_are_kept_as_they_stand(path: Path) -> None:
    content = voc(
        ("Lady Gaga", (1, 2, 100, 80)), ("Lady Gaga", (5, 6, 7, 8)), ("NYC", (0, 0, 9, 9))
    )
    annotation, problems = read(path, content)
    assert annotation is not None
    assert problems == []
    assert annotation.size_wh_px == (100, 80)
    assert annotation.boxes("Lady Gaga") == (Box(1, 2, 100, 80), Box(5, 6, 7, 8))
    assert annotation.boxes("lady gaga") == ()
    assert [item.line for item in annotation.objects] == [8, 18, 28]
    assert (annotation.filename, annotation.filename_line) == ("p1.jpg", 3)


def test_a_name_is_unescaped_once_and_never_trimmed(path: Path) -> None:
    annotation, _ = read(path, voc(("AT&amp;amp ;T\n", (1, 2, 3, 4)), (" x", (1, 2, 3, 4))))
    assert annotation is not None
    assert [item.name for item in annotation.objects] == ["AT&amp ;T\n", " x"]


@pytest.mark.parametrize(
    ("size", "read_as"),
    [(None, None), ((0, 80), None), (("wide", 80), None), ((-5, 80), None), ((" 7 ", 8), (7, 8))],
)
def test_a_size_that_is_not_stated_is_none(
    path: Path, size: tuple[object, object] | None, read_as: tuple[int, int] | None
) -> None:
    annotation, problems = read(path, voc(("a", (1, 2, 3, 4)), size=size))
    assert annotation is not None
    assert (annotation.size_wh_px, problems) == (read_as, [])


@pytest.mark.parametrize(
    ("box", "kind", "words"),
    [
        ((52, 2, 40, 9), "inverted-box", "xmax 40 < xmin 52"),
        ((1, 9, 40, 2), "inverted-box", "ymax 2 < ymin 9"),
        ((1, 2, 1, 9), "degenerate-box", "xmax = xmin = 1"),
        (("nan", 2, 3, 9), "non-finite-box", "xmin is nan"),
        ((1, 2, "-Infinity", 9), "non-finite-box", "xmax is -inf"),
        ((1, 2, "1e999", 9), "non-finite-box", "xmax is inf"),
        ((1, 2, "", 9), "broken-object", "<xmax> of 'a' is ''"),
        ((1, "1_0", 20, 90), "broken-object", "<ymin> of 'a' is '1_0'"),
        ((1, "١", 20, 90), "broken-object", "<ymin>"),
    ],
)
def test_a_bad_box_breaks_the_file(
    path: Path, box: tuple[object, object, object, object], kind: str, words: str
) -> None:
    annotation, problems = read(path, voc(("ok", (1, 2, 3, 4)), ("a", box)))
    assert annotation is None
    assert [(problem.kind, problem.line) for problem in problems] == [(kind, 21)]
    assert words in problems[0].message
    with pytest.raises(DataError, match=r"p1\.xml:21: .*--skip-bad"):
        read_annotation(path, refuse_errors)


def test_all_bad_boxes_of_a_file_are_reported(path: Path) -> None:
    _, problems = read(path, voc(("a", (9, 2, 3, 4)), ("b", (1, 2, 1, 4))))
    assert [problem.kind for problem in problems] == ["inverted-box", "degenerate-box"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("<name>a</name>", ""), "exactly one <name>"),
        (("<name>a</name>", "<name></name>"), "exactly one <name>"),
        (("<name>a</name>", "<name>a<b/>c</name>"), "exactly one <name>"),
        (("<name>a</name>", "<name>a</name><name>b</name>"), "exactly one <name>"),
        (("bndbox", "box"), "has 0 <bndbox>"),
        (("<xmin>1</xmin>", ""), "<xmin> of 'a' is ''"),
        (("<xmin>1</xmin>", "<xmin>1</xmin><xmin>2</xmin>"), "wanted one number"),
    ],
)
def test_an_object_has_one_name_and_one_box(
    path: Path, change: tuple[str, str], words: str
) -> None:
    annotation, problems = read(path, voc(("a", (1, 2, 3, 4))).replace(*change))
    assert annotation is None
    assert [problem.kind for problem in problems] == ["broken-object"]
    assert words in problems[0].message


LAUGHS = '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><annotation>&d;</annotation>'
OUTSIDE = '<!DOCTYPE a SYSTEM "file:///etc/hostname"><annotation/>'


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("<annotation>\n<object>\n</annotation>", 3, "mismatched tag"),
        ("", 1, "no element found"),
        (b"<annotation>\n<name>\xff</name></annotation>", 2, "invalid token"),
        ("<html/>", 1, "wanted <annotation>"),
        (LAUGHS, 1, "refused"),
        (OUTSIDE, 1, "refused"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', 1, "cannot be decoded"),
    ],
)
def test_broken_or_hostile_xml_is_refused(
    path: Path, content: str | bytes, line: int, words: str
) -> None:
    annotation, problems = read(path, content)
    assert annotation is None
    assert [(problem.kind, problem.line) for problem in problems] == [("broken-xml", line)]
    assert words in problems[0].message


def test_what_is_written_reads_back(path: Path) -> None:
    boxes = [("a & <b> &amp; \r", Box(0, 1, 2, 3)), ("\u200b\u2028ü", Box(-4.0, 5.0, 6.0, 7.0))]
    data = format_annotation("p1.png", (30, 20), boxes)
    annotation, problems = read(path, data)
    assert annotation is not None
    assert problems == []
    assert annotation.size_wh_px == (30, 20)
    assert [(item.name, item.box) for item in annotation.objects] == boxes
    assert b"<xmin>-4</xmin>" in data


def test_an_unknown_size_is_left_out(path: Path) -> None:
    annotation, _ = read(path, format_annotation("p1.png", None, [("a", Box(0, 1, 2, 3))]))
    assert annotation is not None
    assert annotation.size_wh_px is None
    assert annotation.objects[0].name == "a"


@pytest.mark.parametrize(
    ("name", "box"),
    [
        ("a", Box(0.5, 1, 2, 3)),
        ("a", Box(5, 1, 2, 3)),
        ("a", Box(1, 1, 2, 1)),
        ("a", Box(float("nan"), 1, 2, 3)),
        ("a", Box(0, 1, float("inf"), 3)),
        ("\x00", Box(0, 1, 2, 3)),
        ("\ufffe", Box(0, 1, 2, 3)),
        ("\ud800", Box(0, 1, 2, 3)),
    ],
)
def test_what_the_layout_cannot_hold_is_not_written(name: str, box: Box) -> None:
    with pytest.raises(InputError, match=r"wanted whole pixels|which XML cannot"):
        format_annotation("p1.png", None, [(name, box)])
