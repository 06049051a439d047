"""The interval of one effect beside its region, as a small inline SVG picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from eltbench.evidence.claims import COVERS

WIDTH, HEIGHT, EDGE = 180, 22, 6  # pixels


def forest(witness: Mapping[str, Any], words: str) -> str:
    """SVG: the region as a band, zero as a line, the estimate as a dot on its interval; empty where there is none.

    witness: as in claims.json, with estimate, low, high and region (None: unbounded). words: what a screen reader says.
    """
    numbers = [witness[name] for name in ("estimate", "low", "high")]
    if any(value is None for value in numbers):
        return ""
    estimate, low, high = numbers
    bounds = [value for value in witness["region"] if value is not None]
    least, most = min(low, 0.0, *bounds), max(high, 0.0, *bounds)
    room = 0.08 * (most - least) or 1.0
    least, most = least - room, most + room

    def place(value: float | None, unbounded: float) -> float:
        value = unbounded if value is None else value
        return round(EDGE + (WIDTH - 2 * EDGE) * (value - least) / (most - least), 1)

    left, right = place(witness["region"][0], least), place(witness["region"][1], most)
    start, end, dot, zero = (place(value, math.nan) for value in (low, high, estimate, 0.0))
    middle = HEIGHT / 2
    return (
        f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}"><title>{escape(words)}; covers {COVERS}</title>'
        f'<rect class="region" x="{left}" y="2" width="{right - left:.1f}" height="{HEIGHT - 4}"/>'
        f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="{HEIGHT}"/>'
        f'<line class="interval" x1="{start}" x2="{end}" y1="{middle}" y2="{middle}"/>'
        f'<circle class="estimate" cx="{dot}" cy="{middle}" r="4"/></svg>'
    )
