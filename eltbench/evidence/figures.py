"""One style for every plot: colours that colour-blind readers tell apart, a marker per trainer, intervals as bands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from eltbench.core.atomic import replacing

SOLVED = 0.9  # a distance counts as solved above this accuracy
PALETTE = sns.color_palette("colorblind")
_BUILT_IN = ("elt", "no-ilsd", "unique-depth", "deq", "universal-transformer", "random-loops")
TRAINERS = {**{name: place for place, name in enumerate(_BUILT_IN)}, "deep-supervision": 9, "progressive": 7}
MARKERS = "osD^vP*Xdh"
CONTROLS = ("dedicated", "equal-compute", "equal-parameters")  # roles; what is neither of them nor main is a variant
ABOUT = "eltbench"  # the text of a picture that says what it shows
CLEAREST = (0, 1, 2, 3, 4, 5, 9, 7, 8, 6)  # the palette's colours, the clearest on white first
PAGE = 11.0  # inches at most across, so that a page's column of 1,100 pixels shows letters as large as its own
LETTERS, LINE = 0.075, 0.2  # width of a letter of the key and height of a line of it, in inches


def plain() -> AbstractContextManager[None]:
    """A context in which figures are drawn and saved with matplotlib's own settings, not those of a user's file."""
    return matplotlib.style.context("default")


def grid(rows: int, columns: int, heights: Sequence[float] = ()) -> tuple[Figure, np.ndarray]:
    """An empty figure of rows × columns panels, its axes as an array of that shape; heights of rows are usually 1."""
    heights = heights or [1.0] * rows
    canvas = Figure(figsize=(min(5.2, PAGE / columns) * columns, 3.8 * sum(heights)), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return canvas, axes


def heading(cell: Iterable[object], table: pd.DataFrame) -> str:
    """A row of panels by its task, world and backend, the latter where the whole table has several."""
    task, world, backend = map(str, cell)
    return " · ".join([task, world, backend] if table["backend"].nunique() > 1 else [task, world])


def loop_curves(
    axis: Axes, table: pd.DataFrame, title: str, measured: str, *, log: bool = False, floor: float | None = None
) -> None:
    """A metric by loop count: a line with its interval per main model, a lone marker per control.

    table: columns of a study's summary. measured: the metric in words. The dotted line is L_max; `floor` is what real
    images score.
    """
    if floor is None:
        axis.set_yscale("log" if log else "linear")
        if log:
            plain_ticks(axis, table["mean"])
    else:  # unbiased distances go below zero, and a collapsed model is hundreds of times farther than a good one
        axis.set_yscale("symlog", linthresh=0.1)
    for model, curve in models(table):
        loops, mean, low, high = _line(curve, "loops")
        if model.trainer == "unique-depth":
            axis.axhline(mean[0], color=model.colour, ls="--", lw=1.2, label=model.label)
        elif len(curve) == 1:
            lone = {"color": model.colour, "marker": model.marker, "mfc": "white", "ls": "", "label": model.label}
            axis.errorbar(loops, mean, [mean - low, high - mean], **lone)
        else:
            axis.plot(loops, mean, label=model.label, ms=4, **model.line)
            axis.fill_between(loops, low, high, color=model.colour, alpha=0.2, lw=0)
    if floor is not None and np.isfinite(floor):
        axis.axhline(floor, color="0.4", ls=":", lw=1.2, label="real images")
    axis.autoscale_view(scalex=False)  # a horizontal line that the limits hold, however barely, does not move them
    for deepest in sorted(set(table[table["role"] == "main"]["max_loops"]) - {1}):
        axis.axvline(deepest, color="0.6", ls=":", lw=1, label="L_max")
    if floor is not None and len(table):  # wide intervals of a few bad models would leave no room for the others
        lowest, highest = np.nanmin([*table["mean"], floor]), np.nanmax([*table["mean"], floor])
        axis.set_ylim(min(2 * lowest, lowest - 0.02), 3 * max(highest, 0.1))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="loops at inference, L", ylabel=measured, title=title)


def staircase(axis: Axes, table: pd.DataFrame, reach: pd.DataFrame, title: str) -> None:
    """The furthest distance solved at each exit, beside the line N·L·ρ that no network can cross.

    table: the metric token_accuracy by stratum; reach: the theorem's line by effective depth, empty without a radius.
    """
    table = table.assign(distance=table["stratum"].str.removeprefix("distance ").astype(int))
    for model, exits in models(table):
        steps = [(int(at["effective_depth"].iloc[0]), furthest_solved(at)) for _, at in exits.groupby("loops")]
        depth, solved = zip(*steps, strict=True)
        axis.plot(depth, solved, color=model.colour, marker=model.marker, ms=4, alpha=0.8, label=model.label)
    line = reach.drop_duplicates("effective_depth").sort_values("effective_depth")
    line = line[line["mean"] <= table["distance"].max() + 1]
    if len(line):
        axis.plot(line["effective_depth"], line["mean"], color="0.4", ls=":", lw=1.2, label="theorem: distance = N·L·ρ")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    measured = f"furthest distance solved (accuracy > {SOLVED})"
    axis.set(xlabel="effective depth N·L at inference", ylabel=measured, title=title)


def heat_map(axis: Axes, table: pd.DataFrame, deepest: int, hardest: int | None, title: str) -> None:
    """The share of solved items by difficulty and loop count, from 0 (dark) to 1 (light).

    table: columns difficulty, loops, mean. Lines mark L_max, `deepest`, and the hardest item that was trained on.
    """
    shares = table.pivot(index="difficulty", columns="loops", values="mean").sort_index()
    levels, loops = shares.index.to_numpy(), shares.columns.to_numpy()
    edges = np.append(loops, loops[-1] + 1) - 0.5
    drawn = axis.pcolormesh(edges, np.arange(len(levels) + 1) - 0.5, shares, vmin=0, vmax=1, cmap="viridis")
    axis.figure.colorbar(drawn, ax=axis, label="share of items solved")
    axis.axvline(deepest + 0.5, color="white", lw=1.5, label="L_max")
    if hardest is not None:
        axis.axhline(np.sum(levels <= hardest) - 0.5, color="white", ls="--", lw=1.5, label="hardest trained")
    axis.grid(False)
    shown = np.unique(np.linspace(0, len(levels) - 1, min(len(levels), 12)).round().astype(int))
    axis.set_yticks(shown, levels[shown])
    axis.set(xlabel="loops at inference, L", ylabel="difficulty", title=title)
    axis.legend(fontsize=7, loc="upper left", frameon=True, facecolor="0.3", labelcolor="white", edgecolor="none")


def furthest_solved(table: pd.DataFrame) -> int:
    """The largest distance up to which every distance is solved; columns `distance` and `mean`."""
    ordered = table.sort_values("distance")
    unsolved = ordered[~(ordered["mean"] > SOLVED)]["distance"]  # also where the mean is no number
    return int(unsolved.iloc[0] - 1 if len(unsolved) else ordered["distance"].iloc[-1])


def training_curves(
    axis: Axes, table: pd.DataFrame, marks: pd.DataFrame, title: str, xlabel: str, measured: str
) -> None:
    """A loss by training cost: a line with its interval per model, its crossing of the target as a star.

    table: columns of a study's summary and `at`, the cost. marks: columns trainer, role, unique_layers, max_loops, at,
    target, reached (share of the seeds); the star is hollow where a seed never reached its target. Dashed lines are the
    targets, the final losses of the unique-depth models.
    """
    axis.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=measured, title=title)
    if table.empty:
        axis.text(0.5, 0.5, "no run left a curve", ha="center", transform=axis.transAxes)
        return
    for model, curve in models(table):
        at, mean, low, high = _line(curve, "at")
        axis.plot(at, mean, label=model.label, ms=3, **model.line)
        axis.fill_between(at, np.maximum(low, mean / 10), high, color=model.colour, alpha=0.2, lw=0)
        if model.trainer == "unique-depth":
            axis.axhline(mean[-1], color=model.colour, ls="--", lw=1, label=f"target: final loss of {model.trainer}")
    for model, mark in models(marks, beside=table):
        star = {"color": model.colour, "mec": "black", "mew": 0.6, "ms": 11, "zorder": 3}
        star |= {} if mark["reached"].iloc[0] == 1 else {"mfc": "white"}
        axis.plot(mark["at"], mark["target"], "*", label="reaches the target (mean)", **star)
    plain_ticks(axis, table["mean"])
    _costs(axis)


def over_curves(axis: Axes, table: pd.DataFrame, beside: pd.DataFrame, title: str, xlabel: str, measured: str) -> None:
    """Percent of another model's loss by training cost: a line with its interval per model, zero being the other.

    table: columns of a study's summary, mean and bounds in percent, and `at`, the cost. beside: all models of the
    figure, which decide the styles.
    """
    axis.set(xscale="log", xlabel=xlabel, ylabel=measured, title=title)
    if table.empty:
        axis.text(0.5, 0.5, "no model to compare with", ha="center", transform=axis.transAxes)
        return
    axis.axhline(0, color="0.4", lw=1)
    for model, curve in models(table, beside):
        at, mean, low, high = _line(curve, "at")
        axis.plot(at, mean, label=model.label, ms=3, **model.line)
        axis.fill_between(at, low, high, color=model.colour, alpha=0.2, lw=0)
    _costs(axis)


def _costs(axis: Axes) -> None:
    """Ticks of a logarithmic axis of training costs."""
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def forest(axis: Axes, table: pd.DataFrame, margin: float, title: str) -> None:
    """Changes in percent by role, in the table's order, each a dot with its interval, over the band of ± `margin`."""
    mean, (low, high) = table["mean"].to_numpy(float), bounds(table)
    axis.axvspan(-margin, margin, color="0.93", lw=0, label=f"margin, ±{margin:g} %")
    axis.axvline(0, color="0.4", lw=1)
    axis.errorbar(mean, table["role"], xerr=[mean - low, high - mean], fmt="o", color=PALETTE[TRAINERS["elt"]])
    axis.set_xscale("symlog", linthresh=5 * margin)  # a term left out may cost fifty times the margin
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.invert_yaxis()
    axis.set(xlabel="loss, change from linear decay of λ, %", title=title)


def pictures(images: np.ndarray, names: list[str], title: str) -> Figure:
    """Images (rows, columns, H, W, C) in [-1, 1] as a table of pictures, one name a row."""
    rows, columns = images.shape[:2]
    canvas = Figure(figsize=(0.7 * columns + 0.8, 0.7 * rows + 0.4), layout="constrained")
    canvas.suptitle(title, fontsize=9)
    axes = canvas.subplots(rows, columns, squeeze=False)
    for axis, image in zip(axes.flat, images.reshape(-1, *images.shape[2:]), strict=True):
        picture = (np.clip(image, -1, 1) + 1) / 2
        axis.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return canvas


def save(figure: Figure, stem: str | Path) -> None:
    """Write STEM.png and STEM.pdf, each file whole, without dates, so that the same rows give the same files."""
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        for kind, settings in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with replacing(Path(f"{stem}.{kind}")) as temporary:
                figure.savefig(temporary, format=kind, dpi=150, metadata=settings)


class Model(NamedTuple):
    """How the curve of one kind of model is drawn.

    A trainer has its colour and marker in every figure, a variant of one those that no trainer of its figure has.
    """

    trainer: str
    role: str
    size: str  # 2N×4L
    colour: Any
    marker: str

    @property
    def main(self) -> bool:
        return self.role == "main"

    @property
    def kind(self) -> str:
        """Its name without its size, one for all controls of a trainer."""
        if self.role in CONTROLS:
            return f"{self.trainer}, {'trained for that L' if self.role == 'dedicated' else 'a control'}"
        return self.trainer if self.main else f"{self.trainer} ({self.role})"

    @property
    def label(self) -> str:
        if self.role == "dedicated":  # a lone marker at its own L
            return f"{self.trainer} {self.size.partition('×')[0]}, trained for that L"
        return f"{self.trainer} {self.size}" + ("" if self.main else f" ({self.role})")

    @property
    def line(self) -> dict[str, Any]:
        """Full for a main model, dashed for a variant, dotted for a control."""
        style = "-" if self.main else ":" if self.role in CONTROLS else "--"
        return {"color": self.colour, "marker": self.marker, "ls": style}


def models(table: pd.DataFrame, beside: pd.DataFrame | None = None) -> Iterator[tuple[Model, pd.DataFrame]]:
    """The rows of every kind of model in the table, of each trainer the main ones first.

    beside: the table of the whole panel where this one is part of it; it decides the styles.
    """
    shown = (table if beside is None else beside)[["trainer", "role"]].drop_duplicates()
    taken = {_style(trainer) for trainer in shown["trainer"]}
    free = [style for style in CLEAREST if style not in taken]
    variants = sorted(shown[~shown["role"].isin(["main", *CONTROLS])].itertuples(index=False, name=None))
    names = ["trainer", "role", "unique_layers", "max_loops"]
    kinds = [(tuple(curve[names].iloc[0]), curve) for _, curve in table.groupby(names)]
    for (trainer, role, layers, deepest), curve in sorted(kinds, key=lambda kind: (kind[0][0], kind[0][1] != "main")):
        variant = (trainer, role) in variants
        style = free[variants.index((trainer, role)) % len(free)] if variant else _style(trainer)
        yield Model(trainer, role, f"{layers}N×{deepest}L", PALETTE[style], MARKERS[style]), curve


def _style(trainer: str) -> int:
    """The trainer's place in the palette and among the markers; one that is not built in has one of three."""
    return TRAINERS.get(trainer, 6 + sum(trainer.encode()) % 3)


def key(canvas: Figure, seeds: int = 0) -> None:
    """One key to all panels that have none of their own, below them, where it covers nothing: every name once.

    seeds: where above one, the key says that bands and bars are intervals over so many.
    """
    shown: dict[str, Any] = {}
    for axis in canvas.axes:
        if axis.get_legend() is None:
            for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
                shown.setdefault(name, handle)
    if seeds > 1:
        shown[f"95 % interval over {seeds} seeds"] = Patch(color="0.85")
    if shown:
        key_of(canvas, list(shown.values()), list(shown))


def key_of(canvas: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """A key of these handles below all panels, which keep their height."""
    columns = max(1, int(canvas.get_figwidth() / (LETTERS * (max(map(len, names)) + 8))))
    canvas.set_figheight(canvas.get_figheight() + LINE * math.ceil(len(names) / columns))
    place = {"fontsize": 8, "frameon": False, "ncols": min(len(names), columns)}
    canvas.legend(list(handles), list(names), loc="outside lower center", **place)


def _line(curve: pd.DataFrame, along: str) -> tuple[np.ndarray, ...]:
    """A curve in the order of one column: that column, the mean, and both bounds."""
    curve = curve.sort_values(along)
    return curve[along].to_numpy(float), curve["mean"].to_numpy(float), *bounds(curve)


def bounds(curve: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the intervals; the mean itself where one seed gives none."""
    mean, low, high = (curve[name].to_numpy(float) for name in ("mean", "low", "high"))
    return np.where(np.isfinite(low), low, mean), np.where(np.isfinite(high), high, mean)


def plain_ticks(axis: Axes, values: pd.Series) -> None:
    """Within a decade a logarithmic axis is labelled in plain numbers: 0.04, not 4 × 10⁻²."""
    if values.min() > 0 and values.max() < 10 * values.min():
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_major_formatter(plain)
        axis.yaxis.set_minor_formatter(plain)
