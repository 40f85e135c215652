"""A release of a dozen pictures in the Twitter-GMNER layout, which tiny random models can learn.

Four pictures with a red and a blue square each; every post shows one of them under an id of its
own, and mentions a name that stands for one of its squares, or for nothing in it.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from groundling.config import DataConfig, ExpertsConfig, GmnerData
from groundling.data.expressions_jsonl import EntityExpression, write_expressions
from groundling.data.gmner import write_gmner_split
from groundling.records import ABSENT, Box, Entity, Expression, Post

SIZES_WH_PX = [(64, 64), (120, 60), (50, 90), (80, 72)]
NAMES = [("Neymar", "PER"), ("Paris", "LOC"), ("NASA", "ORG")]
"""Of each picture: its red square, its blue square, and what is not in it."""


def squares(picture: int) -> tuple[Box, Box]:
    """The red and the blue square of a picture, on opposite sides, in pixels."""
    width, height = SIZES_WH_PX[picture]
    left = Box(width // 10, height // 4, width * 4 // 10, height * 3 // 4)
    right = Box(width * 6 // 10, height // 3, width * 9 // 10, height * 9 // 10)
    return (left, right) if picture % 2 == 0 else (right, left)


def draw(picture: int) -> Image.Image:
    """Two squares on grey."""
    image = Image.new("RGB", SIZES_WH_PX[picture], (200, 200, 200))
    for box, colour in zip(squares(picture), [(220, 30, 30), (30, 30, 220)], strict=True):
        image.paste(colour, tuple(int(value) for value in box.xyxy))
    return image


def expression(picture: int, which: int) -> str:
    """What an expert says of the entity that stands for a square, or for nothing."""
    if which == 2:
        return ABSENT
    side = "left" if (which == 0) == (picture % 2 == 0) else "right"
    return f"the {('red', 'blue')[which]} square on the {side}"


def posts(split: str, copies: int) -> list[tuple[Post, int, int]]:
    """Posts of all pictures, `copies` times over, with the picture and the entity they show."""
    made = []
    for copy in range(copies):
        for picture in range(4):
            for which, (name, type_) in enumerate(NAMES):
                name = f"{name}{picture}"
                boxes = () if which == 2 else (squares(picture)[which],)
                entity = Entity(name, type_, 1, 2, boxes)  # type: ignore[arg-type]
                post_id = f"{split}_{copy}_{picture}_{which}"
                made.append((Post(post_id, ("see", name), (entity,), None), picture, which))
    return made


def write_release(folder: Path, copies: int = 2) -> tuple[DataConfig, ExpertsConfig]:
    """Write texts, boxes, pictures and expert expressions; return how a recipe names them."""
    images = folder / "images"
    images.mkdir(parents=True)
    experts: list[EntityExpression] = []
    for split, times in (("train", copies), ("dev", 1), ("test", 1)):
        made = posts(split, times)
        sizes = {post.id: SIZES_WH_PX[picture] for post, picture, _ in made}
        write_gmner_split(folder, split, [post for post, _, _ in made], sizes)
        for post, picture, which in made:
            draw(picture).save(images / f"{post.id}.jpg", quality=95)
            if split == "train" and which < 2:
                entity = post.entities[0]
                said = Expression(expression(picture, which), "expert:squares")
                experts.append(EntityExpression(post.id, entity.name, entity.type, said))
    write_expressions(folder / "experts.jsonl", experts)
    return (
        DataConfig(gmner=GmnerData(source=str(folder), images=str(images))),
        ExpertsConfig(path=str(folder / "experts.jsonl")),
    )
