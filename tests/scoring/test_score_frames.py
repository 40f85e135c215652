"""`groundling score` with gold boxes drawn on stored pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def test_field_d1_score_compares_upright_boxes(tmp_path: Path, score: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (300, 200)).save(tmp_path / "p1.jpg", exif=exif)
    entity = {"name": "Ann", "type": "PER", "start": 0, "end": 1}
    gold = {"id": "p1", "image": "p1.jpg", "tokens": ["Ann"]}
    gold["entities"] = [{**entity, "boxes": [[200, 20, 290, 60]]}]
    said = {"id": "p1", "entities": [{**entity, "box": [140, 200, 180, 290]}]}
    (tmp_path / "gold.jsonl").write_text(json.dumps(gold) + "\n")
    (tmp_path / "pred.jsonl").write_text(json.dumps(said) + "\n")
    words = [tmp_path / "pred.jsonl", "--gold", tmp_path / "gold.jsonl", "--json"]
    assert score(*words).json["accuracy"]["all"] == 0.0
    assert score(*words, "--boxes", "stored").json["accuracy"]["all"] == 100.0
