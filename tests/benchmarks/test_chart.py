"""benchmarks/chart.py: an SVG that is well-formed, to scale, and readable in light and dark."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from benchmarks.chart import Bar, Panel, chart

pytestmark = pytest.mark.once

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*panels: Panel) -> ET.Element:
    return ET.fromstring(chart(panels))


def bars(picture: ET.Element) -> list[ET.Element]:
    return picture.findall(f"{SVG}rect")


def test_to_scale() -> None:
    """Bars begin at zero and are as long as their values are to each other; the one of ours stands out."""
    panel = Panel("CPU", "less is better", (Bar("A", 10.0, 10.0, 10.0), Bar("B", 40.0, 40.0, 40.0, stands_out=True)))
    first, second = bars(drawn(panel))
    assert float(second.attrib["width"]) == pytest.approx(4 * float(first.attrib["width"]), abs=0.2)
    assert first.attrib["x"] == second.attrib["x"]
    assert (first.attrib["class"], second.attrib["class"]) == ("bar", "bar ours")


def test_the_range() -> None:
    """A line marks lowest and highest where they differ, inside the picture."""
    picture = drawn(Panel("CPU", "", (Bar("A", 10.0, 8.0, 16.0), Bar("B", 5.0, 5.0, 5.0))))
    (line,) = picture.findall(f"{SVG}path")
    start, end = line.attrib["d"].removeprefix("M").split(" ")[0], line.attrib["d"].partition("H")[2]
    value = bars(picture)[0]
    assert float(start) < float(value.attrib["x"]) + float(value.attrib["width"]) < float(end)
    assert float(end) < float(picture.attrib["width"])


def test_everything_inside() -> None:
    """Every panel is below the one before it, and the last ends within the picture."""
    panel = Panel("CPU", "note", tuple(Bar(str(number), 1.0, 1.0, 1.0) for number in range(13)))
    picture = drawn(panel, panel)
    tops = [float(bar.attrib["y"]) for bar in bars(picture)]
    assert tops == sorted(set(tops))
    assert tops[-1] + 20 < float(picture.attrib["height"])


def test_names_are_only_names() -> None:
    """What looks like markup in a name is shown as it is."""
    picture = drawn(Panel("a < b & c", '"n"', (Bar("<script>", 1.0, 1.0, 1.0),)))
    assert [text.text for text in picture.findall(f"{SVG}text")] == ["a < b & c", '"n"', "<script>", "1"]
    assert picture.attrib["aria-label"] == "a < b & c"


@pytest.mark.parametrize("given", [(), (Bar("A", 0.0, 0.0, 0.0),)])
def test_nothing_to_show(given: tuple[Bar, ...]) -> None:
    """No bar, or one of nothing, is a picture as well."""
    assert len(bars(drawn(Panel("CPU", "", given)))) == len(given)


def test_light_and_dark() -> None:
    """The picture has its own colours for a dark page, and refers to nothing outside itself."""
    text = chart((Panel("CPU", "", (Bar("A", 1.0, 1.0, 1.0),)),))
    assert "prefers-color-scheme: dark" in text
    assert text.count("http") == 1  # the namespace
