from __future__ import annotations

from xml.etree import ElementTree

from groundling.report.routing_chart import SHARES, at_shares, routing_sheet


def test_shares_are_rounded_down_to_whole_calls() -> None:
    assert at_shares([float(calls) for calls in range(26)]).tolist() == [
        0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25,
    ]  # fmt: skip
    assert at_shares([7.0]).tolist() == [7.0] * len(SHARES)


def test_a_plot_tells_its_values_its_axis_and_its_lines() -> None:
    rising = [50.0 + calls for calls in range(11)]
    drawn = routing_sheet(rising, [[50.0] * 10 + [60.0], [52.0] * 10 + [60.0]], "F1 here")
    root = ElementTree.fromstring(drawn)
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words[0] == "F1 here"
    assert {"mentions asked about, %", "least certain first", "random order"} <= set(words)
    assert [word for word in words if word in {"0", "30", "100"}] == ["0", "30", "100"]
    titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "30, least certain first: 53.00 %" in titles
    assert "30, random order: 51.00 %" in titles
    height = float(root.attrib["height"])
    lowest = max(float(n.attrib["y"]) for n in root.iter("{http://www.w3.org/2000/svg}text"))
    assert lowest < height


def test_a_curve_without_a_mention_is_a_point() -> None:
    assert "random order" in routing_sheet([0.0], [[0.0]], "nothing found")
