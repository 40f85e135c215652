from __future__ import annotations

from pathlib import Path

import pytest
from client_calls import endpoint
from fault_server import FaultServer, said
from PIL import Image

from groundling.models.endpoints import Endpoint, endpoint_config
from groundling.prompts import EXPERT
from groundling.records import ABSENT, Box, Expression, Failure

BOX = Box(10, 10, 30, 20)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.new("RGB", (64, 48), "grey").save(path)
    return str(path)


def test_a_marked_region_is_described_in_one_line(photo: str) -> None:
    with FaultServer(said("the man\nin red \u2028 ")) as server, endpoint(server) as place:
        expert = place.expert()
        assert dict(expert.describe([(photo, BOX)])) == {
            0: Expression("the man in red", "expert:m")
        }
        assert expert.source == "expert:m"
    assert [asked.text for asked in server.asked] == [EXPERT]


@pytest.mark.parametrize("text", [ABSENT, f"{ABSENT}.", f" {ABSENT.lower()}\n"])
def test_what_is_marked_is_there(text: str, photo: str, tmp_path: Path) -> None:
    """Who says that it is not has failed; nothing is stored, so the next run asks again."""
    with FaultServer(said(text), said("the man")) as server:
        config = endpoint_config({"endpoint": server.url, "model": "m", "api_key_env": None})
        found = []
        for _ in range(2):
            with Endpoint(config, cache=tmp_path / "answers") as place:
                found += [said for _, said in place.expert().describe([(photo, BOX)])]
    assert found == [
        Failure("says that a marked entity does not appear", "answer", "absent"),
        Expression("the man", "expert:m"),
    ]


def test_a_box_outside_its_picture_is_asked_about_nobody(photo: str) -> None:
    with FaultServer(said("grey")) as server, endpoint(server) as place:
        ((_, found),) = place.expert().describe([(photo, Box(64, 0, 90, 48))])
    assert isinstance(found, Failure)
    assert found.stage == "image"
    assert "not in its picture of 64 × 48 px" in found.reason
    assert server.asked == []
