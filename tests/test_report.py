from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
from written_run import NAMES, RIGHT, write_run

from groundling.errors import RunError
from groundling.preferences import DropReason
from groundling.records import Box, Entity, FailedEntity, Failure, Post, PostPrediction, Prediction
from groundling.report import write_report
from groundling.report.gallery import Side, _sides
from groundling.report.line_chart import common_range
from groundling.report.record import Gold, read_record
from groundling.report.tables import duration, stage_seconds, time_table
from groundling.report.verdict import Contrast, judge_run, p_words, points

HOSTILE = "<script>alert(1)</script>&amp;\"'"


class Page(HTMLParser):
    """The tags, table rows and text of a page."""

    VOID = ("meta", "br", "line", "circle", "rect", "image", "use")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.rows = [[cell.strip() for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "span" and self.rows and self.rows[-1]:
            self.rows[-1][-1] += " "

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def count(self, tag: str, style: str) -> int:
        return sum(
            name == tag and style in (attrs.get("class") or "").split() for name, attrs in self.tags
        )


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return page_of(run)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def metrics_of(run: Path) -> Any:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def test_the_table_says_what_metrics_say(run: Path, page: Page) -> None:
    metrics = metrics_of(run)
    shown = {row[0]: [cell.split(" ")[0] for cell in row[1:]] for row in page.rows if row}
    labels = ("Untuned writer", "+ SFT", "+ ISR, round 1", "+ ISR, round 2 selected on validation")
    for label, stage in zip(labels, metrics["stages"], strict=True):
        test = stage["test"]
        figures = [test["accuracy"][name] for name in ("PER", "LOC", "ORG", "MISC", "all")]
        figures += [test["groundable"]["all"], test["ungroundable"]["all"]]
        figures += [stage["validation"]["accuracy"]["all"]]
        assert shown[label] == ["–" if x is None else f"{x:.2f}" for x in figures]
    floor = metrics["floors"]["test"]["none"]
    assert shown["Always absent"][4:7] == [f"{floor['all']:.2f}", "0.00", "100.00"]
    assert shown["Mean person"][4] == f"{metrics['floors']['test']['mean-person']['all']:.2f}"


def test_intervals_stand_below_their_figures(run: Path, page: Page) -> None:
    low, high = metrics_of(run)["stages"][1]["test"]["interval"]["groundable"]
    row = next(row for row in page.rows if row[0] == "+ SFT")
    assert row[6].split(" ")[1] == f"{low:.1f}–{high:.1f}"


def test_the_headline_is_the_paired_difference(run: Path) -> None:
    verdict = judge_run(read_record(run))
    total = verdict.contrasts[0]
    assert (verdict.before, verdict.after) == ("sft", "round-2")
    assert total.difference == pytest.approx(100 * (22 - 6) / 28)
    assert total.interval is not None
    assert total.interval[0] < total.difference < total.interval[1]
    assert verdict.title == "Self-refinement gained 57.1 points on test"
    assert "On 28 test queries, round 2, selected on validation" in verdict.sentences[0]
    assert "in the picture" in verdict.sentences[1]


@pytest.mark.parametrize(
    ("difference", "interval", "p_value", "outcome"),
    [
        (2.0, (0.5, 3.5), 0.01, "gain"),
        (-2.0, (-3.5, -0.5), 0.01, "loss"),
        (2.0, (0.1, 4.5), 0.06, "tie"),
        (2.0, None, None, "untested"),
    ],
)
def test_a_difference_counts_where_its_test_rejects(
    difference: float, interval: tuple[float, float] | None, p_value: float | None, outcome: str
) -> None:
    assert Contrast("accuracy", 80.0, 82.0, difference, interval, p_value).outcome == outcome


def test_figures_in_words() -> None:
    assert [points(x) for x in (2.44, -0.31, 0.02, -0.04)] == ["+2.4", "−0.3", "0.0", "0.0"]
    assert [p_words(p).replace("\u00a0", " ") for p in (0.0004, 0.0421)] == [
        "p < 0.001",
        "p = 0.042",
    ]
    assert [duration(s) for s in (3.21, 41.6, 185, 7810)] == [
        "3.2 s",
        "42 s",
        "3 min 05 s",
        "2 h 10 min",
    ]


def test_nothing_comes_from_outside(run: Path, page: Page) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert not {"script", "link", "iframe", "img"} & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        for name in ("src", "href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/jpeg;base64,")), tag


def test_the_gallery_counts_and_shows_every_kind(page: Page) -> None:
    before, after = set(RIGHT["sft"]), set(RIGHT["round-2"])
    everything = set(range(28))
    for title, found in {
        "won": after - before,
        "lost": before - after,
        "stayed right": after & before,
        "stayed wrong": everything - after - before,
    }.items():
        told = re.search(rf"{title}. (\d+) of 28 test queries", page.text)
        assert told is not None
        assert int(told[1]) == len(found)
    shown = 6 + 1 + 2 + 2  # of 9, 1, 2 and 2 pictures
    assert page.count("article", "card") == shown
    assert sum(tag == "image" for tag, _ in page.tags) == shown
    assert sum(tag == "use" for tag, _ in page.tags) == shown


def test_drawings_are_told_in_words(page: Page) -> None:
    for tag, attrs in page.tags:
        if tag == "svg":
            assert attrs.get("aria-hidden") or attrs.get("aria-label")
    assert sum("Ann Lee (PER), in the picture" in (a.get("aria-label") or "") for _, a in page.tags)
    headers = [attrs for tag, attrs in page.tags if tag == "th"]
    assert headers
    assert all(attrs.get("scope") for attrs in headers)


def test_hostile_names_and_words_are_only_text(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", name=f"Eve{HOSTILE}", expression=HOSTILE))
    assert "script" not in {tag for tag, _ in page.tags}
    assert f"Eve{HOSTILE}" in page.text
    assert f"“{HOSTILE}”" in page.text


def test_figures_are_files_of_their_own(run: Path, page: Page) -> None:
    assert page.count("svg", "chart") == 8
    for name in ("accuracy", "rewards", "meanings"):
        text = (run / f"figures/{name}.svg").read_text(encoding="utf-8")
        root = ET.fromstring(text)
        assert root.tag.endswith("svg")
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_pairs_and_drops_are_told(page: Page) -> None:
    told = {row[-2]: row[-1] for row in page.rows if len(row) in (2, 3)}
    assert told["pairs, chosen from samples"] == "21"
    assert told["pairs, chosen from experts"] == "7"
    assert told["dropped, no failure"] == "11"
    assert told["prompts nothing was written for"] == "1"
    assert told["mean reward, ungroundable"] == "–"


def test_time_adds_up_over_attempts(run: Path, page: Page) -> None:
    assert stage_seconds(read_record(run).events) == {"sft": 5.0, "round-1-draw": 90.0}
    assert "1 min 35 s of computing in all" in page.text
    assert "taken up again 1 time," in page.text


def test_the_same_run_gives_the_same_page(run: Path, page: Page) -> None:
    first = (run / "report.html").read_bytes()
    assert write_report(run).read_bytes() == first
    assert page.count("span", "badge") == 1


def test_a_run_that_is_not_finished(copy: Path) -> None:
    (copy / "metrics.json").unlink()
    (copy / "evaluations/round-2.json").unlink()
    shutil.rmtree(copy / "rounds/2")
    page = page_of(copy)
    assert "This run is not finished" in page.text
    assert "+ ISR, round 1 selected on validation" in {row[0] for row in page.rows if row}
    assert not any(row[0].startswith("+ ISR, round 2") for row in page.rows if row)


def test_a_run_that_has_only_begun(copy: Path) -> None:
    (copy / "metrics.json").unlink()
    shutil.rmtree(copy / "evaluations")
    shutil.rmtree(copy / "rounds")
    assert "Nothing has been evaluated yet" in page_of(copy).text


def test_a_run_without_rounds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", rounds=0)
    verdict = judge_run(read_record(run))
    assert (verdict.before, verdict.after) == ("untuned", "sft")
    page = page_of(run)
    assert page.count("svg", "chart") == 1  # what was meant on test
    assert page.count("article", "card")


def test_time_is_never_negative_after_a_clock_was_set_back() -> None:
    events = [
        {"time": f"2026-01-01T{hour}:00:00.000+00:00", "stage": stage, "kind": kind, "payload": {}}
        for hour, stage, kind in (
            ("10", "sft", "started"),
            ("09", "sft", "finished"),
            ("11", "data", "started"),
            ("12", "data", "finished"),
        )
    ]
    assert stage_seconds(events) == {"sft": 0.0, "data": 3600.0}
    assert time_table(events).total == "1 h 00 min"


@pytest.mark.parametrize(
    ("right", "iou", "meaning", "note"),
    [
        (False, 0.0, "exact", "the words fit the entity alone, but the box misses it (IoU 0.00)"),
        (True, 0.8, "exact", "the words fit the entity alone, and the box fits (IoU 0.80)"),
        (True, 0.8, "ambiguous", "the words fit something else too, but the box fits (IoU 0.80)"),
        (False, 0.2, None, "the box misses it (IoU 0.20)"),
        (False, None, None, ""),
    ],
)
def test_field_r12_an_example_says_what_was_wrong(
    right: bool, iou: float | None, meaning: str | None, note: str
) -> None:
    assert Side(right, "the man", False, Box(0, 0, 1, 1), iou, meaning).note == note


def test_field_r12_wide_tables_scroll_within_themselves_and_say_so(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("<table>") == page.count('<div class="scroll"')
    assert "Scroll the table sideways" in page


def test_a_real_release_has_no_meanings(copy: Path) -> None:
    metrics = metrics_of(copy)
    for stage in metrics["stages"]:
        stage["test"]["verdicts"] = stage["validation"]["verdicts"] = None
    (copy / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    for t in (1, 2):
        path = copy / f"rounds/{t}/metrics.json"
        path.write_text(path.read_text().replace('"ambiguous": 40', '"x": 0'), encoding="utf-8")
        row = json.loads(path.read_text())
        path.write_text(json.dumps(row | {"verdicts": {}}), encoding="utf-8")
    page = page_of(copy)
    assert page.count("svg", "chart") == 6
    assert "Samples drawn in training" not in page.text
    assert page.count("dl", "words") == 0


def test_without_gold_the_difference_is_not_tested(copy: Path) -> None:
    shutil.rmtree(copy / "data")
    verdict = judge_run(read_record(copy))
    assert "not tested" in verdict.title
    page = page_of(copy)
    assert "The difference was not tested" in page.text
    assert page.count("article", "card") == 0


def test_fine_tuning_may_win(copy: Path) -> None:
    metrics = metrics_of(copy) | {"selected": "sft"}
    (copy / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    verdict = judge_run(read_record(copy))
    assert verdict.title == "No round beat fine-tuning on validation"
    assert (verdict.before, verdict.after) == ("sft", "round-2")
    assert verdict.sentences[0].startswith("Validation chose SFT")


def test_below_the_floor_is_said(copy: Path) -> None:
    metrics = metrics_of(copy)
    metrics["floors"]["test"]["none"]["all"] = 99.0
    (copy / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    assert "Round 2 does not beat the floor" in page_of(copy).text


def test_panels_span_the_same_number_of_points() -> None:
    groups = [[80.4, 86.6], [69.2, 77.4], [93.3, 100.0]]
    ranges = common_range(groups)
    assert len({high - low for low, high in ranges}) == 1
    for (low, high), values in zip(ranges, groups, strict=True):
        assert 0 <= low <= min(values)
        assert max(values) <= high <= 100
    assert common_range([[None], [50.0, 50.0]])[1] == (50.0, 52.0)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("config: {seed: 1}\n", encoding="utf-8")
    with pytest.raises(RunError, match="not a run of `groundling isr`"):
        write_report(tmp_path)


def test_every_fate_of_a_prompt_is_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = run / "rounds/1/metrics.json"
    told = json.loads(path.read_text())
    told["dropped"] = dict.fromkeys(get_args(DropReason), 70)
    path.write_text(json.dumps(told))
    write_report(run)
    (drawn,) = [p for p in (run / "figures").iterdir() if "What became of" in p.read_text()]
    assert drawn.read_text().count(": 70 (") == len(get_args(DropReason))


@pytest.mark.parametrize("text", ["null", "[]", '"x"', "{}", "{"])
@pytest.mark.parametrize("name", ["metrics.json", "rounds/1/metrics.json", "events.jsonl"])
def test_a_damaged_file_is_named_in_a_line(name: str, text: str, tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    with pytest.raises(RunError, match=f"{name}: .*restore"):
        write_report(tmp_path)


def test_every_stage_is_in_the_charts(page: Page) -> None:
    words = [
        attrs["aria-label"] for tag, attrs in page.tags if tag == "svg" and "aria-label" in attrs
    ]
    overall = next(word for word in words if word and word.startswith("All queries"))
    assert overall.count("SFT 21.4") == 1
    assert len(NAMES) - 1 == len(re.findall(r"(SFT|\b\d) \d+\.\d", overall.split(". ")[1]))


def test_field_r5_the_gallery_tells_why_an_entity_has_no_answer() -> None:
    ann, bo = Entity("Ann", "PER", 0, 1), Entity("Bo", "ORG", 1, 2)
    post = Post("p1", ("Ann", "Bo"), (ann, bo), "a.png")
    lost = FailedEntity("Bo", "ORG", Failure("an apology", "answer", "refused"), 1, 2)
    half = PostPrediction("p1", (Prediction("Ann", "PER", None, 0, 1),), failed=(lost,))
    sides = _sides(Gold((post,)), [half])
    assert (sides["p1#0"].right, sides["p1#0"].absent) == (True, True)
    assert (sides["p1#1"].right, sides["p1#1"].absent) == (False, False)
    assert sides["p1#1"].failure == "an apology"
