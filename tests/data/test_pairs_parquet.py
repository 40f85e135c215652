from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from groundling.data.pairs_parquet import PAIRS_SCHEMA, pair_rows, read_pairs
from groundling.errors import DataError
from groundling.prompts import as_text, writer_messages
from groundling.records import ABSENT, Pair, Query

sys.path.insert(0, str(Path(__file__).parents[1]))

PAIRS = [
    Pair("p1#0", "the man with red hair", "the woman", "sample", -3.25, -7.5),
    Pair("p1#1", ABSENT, "the man “with” red hair", "expert", -1e-12, -41.0),
    Pair("p2#0", "the man", "the sea", "expert", -2.0, -2.0),
]


@pytest.fixture
def queries(tmp_path: Path) -> list[Query]:
    """Three queries about two pictures, one of them a PNG in spite of its name."""
    for name, size, form in (("a.jpg", (56, 56), "JPEG"), ("b.jpg", (112, 56), "PNG")):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / name, form)
    first, second = str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")
    return [
        Query("p1#0", first, "Neymar", "PER"),
        Query("p1#1", first, "Paris Saint-Germain", "ORG"),
        Query("p2#0", second, "NASA", "ORG"),
    ]


@pytest.fixture
def stored(tmp_path: Path, queries: list[Query]) -> Path:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(pair_rows(PAIRS, queries), schema=PAIRS_SCHEMA), path)
    return path


def test_pairs_survive_the_file(stored: Path) -> None:
    assert read_pairs(stored) == PAIRS


def test_pictures_are_inside_byte_for_byte(stored: Path, queries: list[Query]) -> None:
    for row, query in zip(pq.read_table(stored).to_pylist(), queries, strict=True):
        (picture,) = row["images"]
        assert picture["bytes"] == Path(query.image).read_bytes()
        assert picture["path"] == Path(query.image).name  # nothing of whose machine it was


def test_prompts_are_those_that_the_writer_is_asked(stored: Path, queries: list[Query]) -> None:
    for row, query in zip(pq.read_table(stored).to_pylist(), queries, strict=True):
        assert as_text(row["prompt"]) == as_text(writer_messages(query.name, query.type))


def test_no_pairs_are_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    pq.write_table(pa.Table.from_pylist([], schema=PAIRS_SCHEMA), path)
    assert read_pairs(path) == []


def test_each_pair_needs_its_own_query(queries: list[Query]) -> None:
    with pytest.raises(ValueError, match="shorter"):
        pair_rows(PAIRS, queries[:2])


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    for content in (b"", b"not parquet"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a file of preference pairs"):
            read_pairs(path)
    pq.write_table(pa.table({"query_id": ["p1#0"]}), path)
    with pytest.raises(DataError, match="not a file of preference pairs"):
        read_pairs(path)
    with pytest.raises(DataError, match=r"gone\.parquet"):
        read_pairs(tmp_path / "gone.parquet")


# ------------------------------------------------------------------------ other libraries


@pytest.fixture
def dataset(stored: Path, tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset(
        "parquet", data_files=str(stored), split="train", cache_dir=str(tmp_path / "cache")
    )


def test_datasets_loads_it_and_opens_the_pictures(dataset: Any, queries: list[Query]) -> None:
    assert dataset.column_names == PAIRS_SCHEMA.names
    assert dataset["query_id"][:] == [pair.query_id for pair in PAIRS]
    for row, query, pair in zip(dataset, queries, PAIRS, strict=True):
        (picture,) = row["images"]
        with Image.open(io.BytesIO(Path(query.image).read_bytes())) as own:
            assert picture.size == own.size
            assert picture.convert("RGB").tobytes() == own.convert("RGB").tobytes()
        assert [part["type"] for part in row["prompt"][0]["content"]] == ["text", "image", "text"]
        for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            assert row[side][0]["role"] == "assistant"
            assert row[side][0]["content"][0] == {"type": "text", "text": text}
        assert row["ref_rejected_logps"] == pair.ref_rejected_logp


@pytest.mark.filterwarnings(
    # TRL 1.16 and PEFT 0.21 still use names that transformers 5.23 has renamed
    "ignore:`(is_)?gradient_checkpointing(_kwargs)?` is deprecated:FutureWarning"
)
def test_trl_trains_on_it_unchanged(dataset: Any, tmp_path: Path) -> None:
    """One step of TRL's own DPOTrainer: at the start its loss is −log σ(0) and its policy moves."""
    trl = pytest.importorskip("trl")
    import tiny
    import torch

    writer = tiny.writer()
    before = {name: value.detach().clone() for name, value in writer.trainable().items()}
    settings = trl.DPOConfig(
        output_dir=str(tmp_path / "trl"),
        beta=0.5,
        learning_rate=1e-2,
        max_steps=1,
        per_device_train_batch_size=len(PAIRS),
        gradient_checkpointing=False,
        max_length=None,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = trl.DPOTrainer(
        writer.model, args=settings, train_dataset=dataset, processing_class=tiny.processor()
    )
    result = trainer.train()
    assert result.training_loss == pytest.approx(math.log(2), abs=1e-5)
    assert any(not torch.equal(before[name], value) for name, value in writer.trainable().items())
