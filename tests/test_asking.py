from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from groundling.asking import ask_all, refuse_losses
from groundling.errors import DataError, InputError, RunError
from groundling.journal import Journal
from groundling.models.base import Question
from groundling.records import Failure


class Fake:
    """Answers backwards; says what it was told to say, or fails."""

    def __init__(self, failing: set[str] | None = None, name: str = "m") -> None:
        self.name = self.manner = name
        self.asked: list[str] = []
        self.failing = failing or set()
        self.stop_after: int | None = None

    def ask(self, questions: Sequence[Question], _: int = 2) -> Iterator[tuple[int, object]]:
        words = [question.messages(())[0]["content"] for question in questions]
        for place in reversed(range(len(words))):
            if self.stop_after is not None and len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(words[place])
            failed = words[place] in self.failing
            yield place, Failure("no", "api") if failed else questions[place].read(words[place], ())


def question(word: str) -> Question[tuple[str, int]]:
    return Question(
        lambda _: [{"role": "user", "content": word}], lambda text, _: (text, len(text))
    )


def ask(fake: Fake, journal: Path, *words: str) -> list[object]:
    return list(
        ask_all(
            fake,
            words,
            question,
            journal=journal,
            key=lambda word: [word],
            encode=list,
            decode=tuple,
        )
    )


def test_answers_come_in_the_items_order_and_equal_items_are_asked_once(tmp_path: Path) -> None:
    fake = Fake()
    assert ask(fake, tmp_path / "j", "a", "bb", "a") == [("a", 1), ("bb", 2), ("a", 1)]
    assert fake.asked == ["bb", "a"]


def test_an_answer_belongs_to_what_is_in_the_pictures_wherever_they_lie(tmp_path: Path) -> None:
    fake, picture = Fake(), tmp_path / "p.png"

    def look() -> None:
        ask_all(
            fake,
            ["a"],
            lambda word: replace(question(word), pictures=(str(picture),)),
            journal=tmp_path / "j",
            key=lambda word: [word],
            encode=list,
            decode=tuple,
        )

    picture.write_bytes(b"one")
    look()
    picture = picture.rename(tmp_path / "elsewhere.png")
    look()
    assert fake.asked == ["a"]
    picture.write_bytes(b"two")
    look()
    picture.unlink()
    look()
    assert fake.asked == ["a"] * 3


def test_a_second_run_asks_only_for_what_is_missing_or_failed(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    first = Fake(failing={"bb"})
    assert ask(first, journal, "a", "bb") == [("a", 1), Failure("no", "api")]
    assert ask(first, journal, "a", "bb") == [("a", 1), Failure("no", "api")]
    assert first.asked == ["bb", "a", "bb"]
    second = Fake()
    assert ask(second, journal, "a", "bb", "ccc") == [("a", 1), ("bb", 2), ("ccc", 3)]
    assert second.asked == ["ccc", "bb"]
    assert ask(second, journal, "bb") == [("bb", 2)]
    assert len(second.asked) == 2


def test_another_model_is_asked_anew(tmp_path: Path) -> None:
    for name in ("m", "n", "m"):
        ask(Fake(name=name), tmp_path / "j", "a")
    assert len((tmp_path / "j").read_text().splitlines()) == 2


def test_the_same_model_is_asked_anew_where_anything_else_decides_otherwise(tmp_path: Path) -> None:
    """Two manners of one model, and two limits of an answer, are four questions."""
    fake = Fake(name="m")
    for manner in ("m, temperature 0", "m, temperature 1"):
        for limit in (16, 32):
            fake.manner = manner
            ask_all(
                fake,
                ["a"],
                lambda word, limit=limit: replace(question(word), max_tokens=limit),
                journal=tmp_path / "j",
                key=lambda word: [word],
                encode=list,
                decode=tuple,
            )
    assert fake.asked == ["a"] * 4


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    fake = Fake()
    fake.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        ask(fake, tmp_path / "j", "a", "b", "c", "d")
    with (tmp_path / "j").open("ab") as torn:
        torn.write(b'{"key": "half')
    again = Fake()
    assert ask(again, tmp_path / "j", "a", "b", "c", "d") == [(x, 1) for x in "abcd"]
    assert again.asked == ["b", "a"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(InputError, match="another process is writing"):
        ask(Fake(), tmp_path / "j", "a")


@pytest.mark.parametrize("line", ["garbage", "[1]", "7", '{"answer": 1}'])
def test_a_broken_journal_is_told_in_one_line(line: str, tmp_path: Path) -> None:
    ask(Fake(), tmp_path / "j", "a")
    with (tmp_path / "j").open("a") as journal:
        journal.write(f"{line}\n")
    with pytest.raises(DataError, match=r"j:2: not a line of this journal; delete it to ask"):
        ask(Fake(), tmp_path / "j", "a")


def test_losses_beyond_what_is_tolerated_are_told_with_the_first_reason() -> None:
    outcomes = [7, Failure("odd", "answer"), Failure("down", "api"), Failure("dear", "budget")]
    refuse_losses("refine", outcomes, 4, 0.5)
    with pytest.raises(RunError) as told:
        refuse_losses("refine", outcomes, 4, 0.4)
    assert str(told.value) == (
        "refine: 2 of 4 questions failed at the endpoint, first: down; "
        "run again to ask for these alone, or raise tolerate (0.4)"
    )


def test_failures_are_on_record_with_their_reason(tmp_path: Path) -> None:
    ask(Fake(failing={"a"}), tmp_path / "j", "a")
    (line,) = map(json.loads, (tmp_path / "j").read_text().splitlines())
    assert line["failure"] == {"reason": "no", "stage": "api"}


def test_a_stage_whose_every_question_fails_is_no_success() -> None:
    useless = [Failure("declines", "answer", "refused")] * 3
    with pytest.raises(RunError, match=r"none of 3 questions got .* first: declines"):
        refuse_losses("ground", useless, 3, 0.5)
    with pytest.raises(RunError, match=r"none of 4 questions"):
        refuse_losses("ground", [*useless, Failure("no", "api")], 4, 0.5)
    refuse_losses("ground", useless, 3, 1.0)
    refuse_losses("ground", useless, 4, 0.0)
    refuse_losses("ground", [], 0, 0.0)
