"""The study's figure: where looping pays, measured against predicted, the share of the ceiling, and the bandwidths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from eltbench.studies.throughput.cells import counted
from eltbench.studies.throughput.summary import SPILLED, UNIT, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Place = tuple[Any, ...]
PLACE = ["measure", "block", "batch_size", "tokens", "precision", "mode"]
HOLLOW = "hollow: all layers take less than twice the cache; faint: noisy"
FAINT = 0.3  # opacity of a cell that stayed noisy


def figure(rows: pd.DataFrame) -> Figure:
    """Four panels; a cell's colour and marker are those of its measure, block, batch, tokens, precision and mode."""
    from eltbench.evidence import figures

    table = summary(rows)
    canvas, axes = figures.grid(2, 2)
    calls = table[(table["metric"] == "throughput_ratio") & table["mean"].notna()]
    times = table[table["metric"].isin(["call_seconds", "sample_seconds"])]
    order = list(dict.fromkeys(pd.concat([calls, times])[PLACE].itertuples(index=False, name=None)))
    _where_it_pays(axes[0, 0], calls, order)
    _predicted(axes[0, 1], calls, order)
    _achieved(axes[1, 0], times, order)
    _ladder(axes[1, 1], rows[rows["measure"] == "ceiling"])
    return canvas


def _styles(table: pd.DataFrame, order: Sequence[Place]) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Name, lines and style of every place in the table; the style is that of its number in `order`."""
    from eltbench.evidence import figures

    for place, here in table.groupby(PLACE, sort=False):
        number = order.index(place)
        measure, block, batch, tokens, precision, mode = place
        colour, marker = figures.PALETTE[number % 10], figures.MARKERS[(number + number // 10) % len(figures.MARKERS)]
        words = f"{measure}, {block}, batch {batch}, {counted(int(str(tokens)), 'token')}, {precision}, {mode}"
        yield words, here, {"color": colour, "marker": marker, "ls": "", "ms": 5}


def _where_it_pays(axis: Axes, calls: pd.DataFrame, order: Sequence[Place]) -> None:
    """Measured ratio with its interval against block weights over cache; hollow: layers do not spill; faint: noisy."""
    axis.set(xlabel="weights of the shared block over the last cache", ylabel="throughput, looped over unique")
    known = calls[calls["cache_bytes"].notna()]
    axis.set_title("where looping pays")
    axis.axhline(1, color="0.4", lw=1)
    if known.empty:
        axis.text(0.5, 0.5, "no cell was timed", ha="center", transform=axis.transAxes)
        return
    axis.set_xscale("log")
    axis.axvline(1, color="0.6", ls=":", lw=1)
    for label, here, style in _styles(known, order):
        here = here.assign(at=here["block_bytes"].astype(float) / here["cache_bytes"].astype(float))
        spilled_or_not, noisy_or_not = here["unique_bytes"] > SPILLED * here["cache_bytes"], here["noisy"] > 0
        for number, ((spilled, noisy), part) in enumerate(here.groupby([spilled_or_not, noisy_or_not])):
            low, high = (part[bound].where(part[bound].between(1e-6, 1e6), part["mean"]) for bound in ("low", "high"))
            fill: dict[str, Any] = {"alpha": FAINT if noisy else 1.0} | ({} if spilled else {"mfc": "white"})
            errors = [part["mean"] - low, high - part["mean"]]
            axis.errorbar(part["at"], part["mean"], errors, **style, **fill, label=None if number else label)
    axis.set_ylim(0.9 * min(1, known["mean"].min()), 1.1 * known["mean"].max())  # a wide interval is cut
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "ncols": 2}  # there may be a dozen
    axis.legend(fontsize=6, frameon=False, title=HOLLOW, title_fontsize=6, **below)


def _predicted(axis: Axes, calls: pd.DataFrame, order: Sequence[Place]) -> None:
    axis.set(xlabel="ratio predicted", ylabel="ratio measured", title="measured against predicted")
    known = calls[calls["predicted"].notna()]
    if known.empty:
        return
    shown = known[["mean", "predicted", "roofline"]]
    ends = [shown.min().min(), shown.max().max()]
    axis.plot(ends, ends, color="0.4", lw=1)
    for _, here, style in _styles(known, order):
        axis.plot(here["roofline"], here["mean"], **style, mfc="white", alpha=FAINT)
        axis.plot(here["predicted"], here["mean"], **style)
    axis.annotate("faint, hollow: by the textbook's roofline", (0.02, 0.02), xycoords="axes fraction", fontsize=6)


def _achieved(axis: Axes, times: pd.DataFrame, order: Sequence[Place]) -> None:
    axis.set(xlabel="weights of all layers, MiB", ylabel="ceiling's time over measured", title="achieved over ceiling")
    known = times[times["achieved"].notna()]
    if known.empty:
        return
    axis.set_xscale("log")
    axis.axhline(1, color="0.4", lw=1)
    for _, here, style in _styles(known, order):
        for role, part in here.groupby("role"):
            fill: dict[str, Any] = {"mfc": "white"} if role == "unique" else {}
            axis.plot(part["unique_bytes"].astype(float) / UNIT, part["achieved"], **style, **fill)
    axis.annotate("filled: looped, hollow: unique", (0.02, 0.02), xycoords="axes fraction", fontsize=6)


def _ladder(axis: Axes, machine: pd.DataFrame) -> None:
    from eltbench.evidence import figures

    for number, kind in enumerate(("read", "copy")):
        steps = machine[machine["metric"] == f"{kind}_bytes_per_second"].sort_values("bytes")
        axis.plot(steps["bytes"].astype(float) / UNIT, steps["value"] / 1e9, color=figures.PALETTE[number], label=kind)
    for _, level in machine[machine["metric"] == "cache_bytes"].iterrows():
        axis.axvline(level["value"] / UNIT, color="0.6", ls=":", lw=1)
        axis.annotate(level["role"], (level["value"] / UNIT, 0.95), xycoords=("data", "axes fraction"), fontsize=7)
    axis.set(xscale="log", xlabel="working set, MiB", ylabel="GB/s", title="bandwidth by working set")
    axis.legend(fontsize=7, frameon=False)
