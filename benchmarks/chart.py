"""A bar chart as SVG, written by hand: one file, no script, readable in light and in dark. Pure.

Bars begin at zero; a thin line marks the lowest and the highest of the measurements where they are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

__all__ = ["Bar", "Panel", "chart"]

_WIDTH: Final = 760
_LABELS: Final = 176  # of the width, left of the bars
_VALUES: Final = 74  # right of the longest bar
_ROW: Final = 24
_BAR: Final = 15
_HEAD: Final = 46  # above each panel's bars

# Colours of the text, of bars and of bars that stand out, chosen for contrast on white and on GitHub's dark.
_STYLE: Final = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px } .note, .value { fill: #59636e }
.bar { fill: #9aa4b0 } .ours { fill: #1a7f64 } .range { stroke: #1f2328; stroke-width: 1.2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note, .value { fill: #9aa5b1 }
  .bar { fill: #59636e } .ours { fill: #3fb68b } .range { stroke: #e6edf3 }
}"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One value, zero or more; ``low`` and ``high`` equal it if there was only one measurement."""

    label: str
    value: float
    low: float
    high: float
    stands_out: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars with one scale; ``digits`` behind the point."""

    title: str
    note: str
    bars: tuple[Bar, ...]
    digits: int = 0

    @property
    def height(self) -> int:
        """What it takes, in pixels."""
        return _HEAD + _ROW * len(self.bars) + 10


def chart(panels: Sequence[Panel]) -> str:
    """The panels, one below the other."""
    height = sum(panel.height for panel in panels) + 6
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    about = escape("; ".join(panel.title for panel in panels))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{about}">',
        f"<style>\n{_STYLE}\n</style>",
    ]
    top = 0
    for panel in panels:
        lines += _drawn(panel, top)
        top += panel.height
    return "\n".join([*lines, "</svg>", ""])


def _drawn(panel: Panel, top: int) -> list[str]:
    longest = max((bar.high for bar in panel.bars), default=0.0) or 1.0
    scale = (_WIDTH - _LABELS - _VALUES) / longest
    lines = [
        f'<text class="title" x="8" y="{top + 22}">{escape(panel.title)}</text>',
        f'<text class="note" x="{_LABELS}" y="{top + 40}">{escape(panel.note)}</text>',
    ]
    for number, bar in enumerate(panel.bars):
        lines += _row(bar, top + _HEAD + number * _ROW, scale, panel.digits)
    return lines


def _row(bar: Bar, top: int, scale: float, digits: int) -> list[str]:
    middle, text = top + _ROW / 2, top + _ROW / 2 + 4.5
    end = _LABELS + bar.value * scale
    kind = "bar ours" if bar.stands_out else "bar"
    place = f'x="{_LABELS}" y="{middle - _BAR / 2:g}" width="{bar.value * scale:.1f}" height="{_BAR}"'
    lines = [
        f'<text x="{_LABELS - 8}" y="{text:g}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{kind}" {place} rx="2"/>',
    ]
    if bar.high > bar.low:
        low, high = _LABELS + bar.low * scale, _LABELS + bar.high * scale
        end = max(end, high)
        lines.append(f'<path class="range" d="M{low:.1f} {middle:g}H{high:.1f}"/>')
    return [*lines, f'<text class="value" x="{end + 6:.1f}" y="{text:g}">{bar.value:,.{digits}f}</text>']
