"""What the files of a Twitter-GMNER release look like, for tests to write."""

from __future__ import annotations


def voc(
    *objects: tuple[str, tuple[object, object, object, object]],
    size: tuple[object, object] | None = (100, 80),
    filename: str = "p1.jpg",
) -> str:
    """An annotation in the release's own dress: no declaration, tabs, fields nobody reads."""
    lines = ["<annotation>", "\t<folder>9-split</folder>", f"\t<filename>{filename}</filename>"]
    if size:
        lines += [
            "\t<size>",
            f"\t\t<width>{size[0]}</width>",
            f"\t\t<height>{size[1]}</height>",
            "\t</size>",
        ]
    for name, (x1, y1, x2, y2) in objects:
        lines += [
            "\t<object>",
            f"\t\t<name>{name}</name>",
            "\t\t<pose>Unspecified</pose>",
            "\t\t<bndbox>",
            f"\t\t\t<xmin>{x1}</xmin>",
            f"\t\t\t<ymin>{y1}</ymin>",
            f"\t\t\t<xmax>{x2}</xmax>",
            f"\t\t\t<ymax>{y2}</ymax>",
            "\t\t</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
