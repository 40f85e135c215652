from pathlib import Path

import pytest

from groundling.data.gmner import Split, read_gmner
from groundling.records import Box, Entity, Post
from groundling.scoring import FLOORS, Floor, floor_predictions, mean_person_norm, score_floors

FACTS: dict[Floor, list[float]] = {
    "none": [35.60, 90.10, 71.63, 71.28, 58.87],
    "whole": [22.37, 2.72, 2.35, 9.07, 12.15],
    "mean-person": [19.02, 90.10, 71.63, 71.28, 51.67],
    "oracle-whole": [57.88, 92.82, 73.98, 80.35, 70.98],
}
COLUMNS = ("PER", "LOC", "ORG", "MISC", "all")


def post(post_id: str, *entities: Entity) -> Post:
    return Post(post_id, ("Ann", "Bo"), entities)


def ann(*boxes: Box) -> Entity:
    return Entity("Ann", "PER", 0, 1, boxes)


BO = Entity("Bo", "ORG", 1, 2)


def test_released_test_split(gmner_v2: Path, gmner_test: Split) -> None:
    train = read_gmner(gmner_v2, "train")
    person = mean_person_norm(train.posts, train.xml_sizes)
    assert person is not None
    assert [round(corner, 4) for corner in person.xyxy] == [0.2477, 0.1353, 0.7437, 0.9087]
    floors = score_floors(gmner_test.posts, gmner_test.xml_sizes, person)
    assert list(floors) == list(FLOORS)
    for floor, figures in FACTS.items():
        score = floors[floor]
        assert [score.accuracy[column].percent for column in COLUMNS] == figures
        assert score.accuracy == score.largest
    assert floors["none"].accuracy == floors["whole"].always_absent


def test_mean_person_is_the_mean_of_largest_boxes_over_sizes() -> None:
    posts = [
        post("1", ann(Box(0, 0, 50, 50), Box(0, 0, 10, 10)), BO),
        post("2", ann(Box(20, 0, 40, 10))),
        post("3", ann(Box(0, 0, 9, 9))),  # no size: left out
        post("4", Entity("Bo", "ORG", 1, 2, (Box(0, 0, 1, 1),))),
    ]
    sizes = {"1": (100, 50), "2": (40, 20), "4": (10, 10)}
    assert mean_person_norm(posts, sizes) == Box(0.25, 0.0, 0.75, 0.75)
    assert mean_person_norm(posts[2:], sizes) is None


def test_what_each_floor_answers() -> None:
    known, unknown = post("1", ann(Box(0, 0, 60, 60)), BO), post("2", ann(), BO)
    sizes, person = {"1": (100, 80)}, Box(0.1, 0.2, 0.5, 0.5)

    def boxes(floor: Floor) -> list[list[object]]:
        found = floor_predictions(floor, [known, unknown], sizes, person)
        return [[(p.name, p.box and p.box.xyxy) for p in said.predictions] for said in found]

    nothing = [("Ann", None), ("Bo", None)]
    whole = (1, 1, 100, 80)
    assert boxes("none") == [nothing, nothing]
    assert boxes("whole") == [[("Ann", whole), ("Bo", whole)], []]
    assert boxes("mean-person") == [[("Ann", (10, 16, 50, 40)), ("Bo", None)], [("Bo", None)]]
    assert boxes("oracle-whole") == [[("Ann", (0, 0, 100, 80)), ("Bo", None)], nothing]


def test_no_mean_person_without_people_to_learn_from() -> None:
    floors = score_floors([post("1", ann(Box(0, 0, 60, 60)))], {"1": (60, 60)}, None)
    assert list(floors) == ["none", "whole", "oracle-whole"]
    assert floors["oracle-whole"].accuracy["all"].percent == 100.0


@pytest.mark.parametrize("floor", FLOORS)
def test_without_sizes_only_absence_can_be_right(floor: Floor) -> None:
    posts = [post("1", ann(Box(0, 0, 60, 60)), BO)]
    scores = score_floors(posts, {}, Box(0, 0, 1, 1))
    right = scores[floor].accuracy["all"].right
    assert right == (0 if floor == "whole" else 1)
