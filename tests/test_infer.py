from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from groundling.errors import RunError
from groundling.infer import map_batches
from groundling.progress import Progress
from groundling.records import Expression, Failure, Query

QUERIES = [Query(f"p#{i}", f"{i}.jpg", f"Ann {i}", "PER") for i in range(7)]


class Backend:
    """Answers with names; records the chunks it saw; can fail or die at a chunk."""

    def __init__(self, failing: str = "", dies_at: int = -1) -> None:
        self.chunks: list[int] = []
        self.failing, self.dies_at = failing, dies_at

    def __call__(self, index: int, chunk: Sequence[Query]) -> list[Expression | Failure]:
        if index == self.dies_at:
            raise KeyboardInterrupt
        self.chunks.append(index)
        return [
            Failure("no answer", "write")
            if query.id == self.failing
            else Expression(f"größer {query.name}", "writer:x/0", -0.1 * index)
            for query in chunk
        ]


def answers(backend: Backend, folder: Path | None, **options: object) -> list[object]:
    return list(
        map_batches(
            options.pop("items", QUERIES),  # type: ignore[arg-type]
            backend,
            chunk_size=3,
            folder=folder,
            encode=lambda e: [e.text, e.source, e.logprob],
            decode=lambda stored: Expression(*stored),
            **options,  # type: ignore[arg-type]
        )
    )


def test_results_come_in_order_with_and_without_a_folder(tmp_path: Path) -> None:
    plain = answers(Backend(), None)
    assert plain == answers(Backend(), tmp_path) == answers(Backend(), tmp_path)
    assert [e.text for e in plain] == [f"größer {q.name}" for q in QUERIES]  # type: ignore[attr-defined]


def test_a_resume_goes_on_at_the_next_chunk(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        answers(Backend(dies_at=2), tmp_path)
    backend = Backend()
    assert answers(backend, tmp_path) == answers(Backend(), None)
    assert backend.chunks == [2]


def test_a_chunk_with_a_failure_is_run_again_as_a_whole(tmp_path: Path) -> None:
    first = answers(Backend(failing="p#4"), tmp_path)
    assert first[4] == Failure("no answer", "write")
    again = Backend()
    assert answers(again, tmp_path) == answers(Backend(), None)
    assert again.chunks == [1]


@pytest.mark.parametrize("change", ["items", "context", "damage", "torn", "empty"])
def test_a_chunk_is_trusted_only_for_the_same_inputs(tmp_path: Path, change: str) -> None:
    answers(Backend(), tmp_path)
    backend, path = Backend(), tmp_path / "chunk-00001.jsonl"
    if change == "items":
        other = [*QUERIES[:4], Query("q", "9.jpg", "Bob", "PER"), *QUERIES[5:]]
        answers(backend, tmp_path, items=other)
    elif change == "context":
        answers(backend, tmp_path, context="temperature 0.9")
    else:
        text = path.read_text()
        path.write_text(
            {"damage": text.replace("Ann 4", "Bob 4"), "torn": text[:-9]}.get(change, "")
        )
        assert answers(backend, tmp_path) == answers(Backend(), None)
    assert backend.chunks == ([0, 1, 2] if change == "context" else [1])


def test_a_chunk_belongs_to_what_else_decides_its_items(tmp_path: Path) -> None:
    seen = dict.fromkeys((query.image for query in QUERIES), "as it was")
    answers(Backend(), tmp_path, about=lambda query: seen[query.image])
    seen["4.jpg"] = "another picture under the same name"
    backend = Backend()
    answers(backend, tmp_path, about=lambda query: seen[query.image])
    assert backend.chunks == [1]


def test_no_items_no_calls(tmp_path: Path) -> None:
    backend = Backend()
    assert answers(backend, tmp_path, items=[]) == []
    assert backend.chunks == []


def test_one_result_an_item_is_demanded() -> None:
    with pytest.raises(RunError, match="chunk 0: got 1 results for 2 items"):
        map_batches([1, 2], lambda _, chunk: chunk[:1], chunk_size=2)


def test_progress_counts_resumed_chunks_apart(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        answers(Backend(dies_at=1), tmp_path)
    progress = Progress("write", len(QUERIES), "query", quiet=True)
    answers(Backend(), tmp_path, progress=progress)
    assert progress.done == 7
    assert progress._skipped == 3
