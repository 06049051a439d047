"""Parameters, GFLOPs and depth of the rows of the paper's tables, counted again under every convention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from eltbench import accounting
from eltbench.core.config import Architecture
from eltbench.studies.audit import paper
from eltbench.studies.audit.paper import printed
from eltbench.studies.audit.paper.conventions import (
    COMPUTE,
    EMBEDDINGS,
    NOT_RECOMPUTABLE,
    PARAMETERS,
    QUANTITIES,
    SCALES,
    SETTINGS,
    ComputeConvention,
    ParameterConvention,
    Setting,
)
from eltbench.studies.audit.paper.printed import Printed

DIT_FREQUENCIES = 256  # inputs of the first layer of DiT's timestep MLP
NO_LAYERS = "the row gives no number of layers or loops"
NO_COLUMN = "the table prints no such figure"

Observation = dict[str, Any]


class Shape(NamedTuple):
    """The network of a row; the width only where the row or the set-up gives one."""

    unique_layers: int
    loops: int
    width: int
    mlp_width: int

    @property
    def effective_depth(self) -> int:
        """N·L."""
        return self.unique_layers * self.loops

    @property
    def mlp_ratio(self) -> int:
        """Widths of the MLP; raises ValueError where they are no whole number."""
        ratio, rest = divmod(self.mlp_width, self.width)
        if rest:
            raise ValueError(f"mlp_width must be a multiple of width {self.width}, given {self.mlp_width}")
        return ratio

    @property
    def architecture(self) -> Architecture:
        """As this package builds it."""
        return Architecture(self.unique_layers, self.loops, width=self.width, mlp_ratio=self.mlp_ratio, block="bert")


def rows_of(table: str) -> dict[str, dict[str, str]]:
    """The rows of a table as printed, by what its first column calls them."""
    lines = paper.table(table, printed=True)
    return {str(line.iloc[0]): {str(name): text for name, text in line.items()} for _, line in lines.iterrows()}


def setting_of(table: str) -> Setting | None:
    """The set-up of a table's models, None for a table of other things."""
    return next((setting for setting in SETTINGS if setting.table == table), None)


def shape_of(row: Mapping[str, str], setting: Setting | None) -> Shape | None:
    """The network that a row describes, or None where it gives no layers."""
    if not row["unique_layers"]:
        return None
    width = int(row.get("width") or (setting.width if setting else None) or 0)
    return Shape(int(row["unique_layers"]), int(row["loops"]), width, int(row.get("mlp_width") or 4 * width))


def parameters(shape: Shape, setting: Setting, convention: ParameterConvention) -> int:
    """Trained values of a row's network under a convention."""
    d, spec = shape.width, setting.spec
    layer = 4 * d * d + 2 * d * shape.mlp_width + convention.layer.squares * d * d
    if convention.biases:
        layer += 5 * d + shape.mlp_width + convention.layer.lines * d
    if spec.kind == "tokens":
        size = {"tokens": (spec.vocabulary + 1) * d, "rest": spec.tokens * d + d * spec.vocabulary}
    else:
        size = {"tokens": 2 * setting.patch**2 * spec.channels * d, "rest": DIT_FREQUENCIES * d + 3 * d * d}
    size["classes"] = (spec.classes + 1) * d
    return shape.unique_layers * layer + sum(size[part] for part in EMBEDDINGS[convention.embeddings])


def gigaflops(shape: Shape, setting: Setting, convention: ComputeConvention, steps: int) -> float:
    """Thousands of GFLOPs of one sample of a row's network under a convention, in `steps` sampling steps."""
    spec = setting.spec if convention.condition_token else replace(setting.spec, classes=0)
    network = accounting.NetworkSpec(shape.architecture, "looped", spec, timed=False)
    parts = accounting.macs_by_part(network, shape.loops)
    counted = ["layers", *(name for name in ("attention", "head") if getattr(convention, name))]
    per_call = (2 if convention.unit == "FLOP" else 1) * sum(parts[name] for name in counted)
    return steps * convention.calls * per_call / 1e12


def recount() -> Iterator[Observation]:
    """One observation per table row, quantity and convention; a single one where nothing can be counted.

    Of each: what was printed with its interval, the value, whether it fits, and for GFLOPs the number of steps with
    which it comes nearest.
    """
    for table, quantities in QUANTITIES.items():
        setting = setting_of(table)
        for model, row in rows_of(table).items():
            shape = shape_of(row, setting)
            for quantity in quantities:
                known = {**_described(table, model, row, setting, shape), "metric": quantity, **_given(row, quantity)}
                for found in _counted(quantity, row, setting, shape):
                    yield {**known, **_judged(known, found)}


def _described(
    table: str, model: str, row: Mapping[str, str], setting: Setting | None, shape: Shape | None
) -> Observation:
    family = row.get("family")
    return {
        "table": table,
        "model": model,
        "trainer": family if family in ("elt", "unique-depth") else None,
        "task": setting.task if setting else None,
        "dataset": setting.dataset if setting else None,
        "unique_layers": shape.unique_layers if shape else None,
        "loops": shape.loops if shape else None,
        "effective_depth": shape.effective_depth if shape else None,
        "width": shape.width or None if shape else None,
        "sampling_steps": int(row["sampling_steps"]) if row.get("sampling_steps") else None,
        "assumed": setting.assumed or None if setting else None,
    }


def _given(row: Mapping[str, str], quantity: str) -> Observation:
    """The printed figure of a quantity; the layers of its scale for a row that names a scale."""
    text = str(SCALES[row["scale"]]) if "scale" in row and quantity == "effective_depth" else row.get(quantity)
    if not text:
        return reported(None)
    figure = printed.read(text)
    return reported(Printed(*[figure.value] * 3) if quantity == "effective_depth" else figure)  # a count is exact


def reported(figure: Printed | None) -> Observation:
    """A printed figure with its interval as the columns of an observation."""
    return dict(zip(("reported", "reported_low", "reported_high"), figure or (None, None, None), strict=True))


def _counted(
    quantity: str, row: Mapping[str, str], setting: Setting | None, shape: Shape | None
) -> Iterator[Observation]:
    """Every convention's value, in the unit of the column; or the reason why there is none."""
    if quantity in NOT_RECOMPUTABLE:
        yield {"reason": NOT_RECOMPUTABLE[quantity]}
    elif shape is None:
        yield {"reason": NO_LAYERS}
    elif quantity == "effective_depth":
        about = "N·L against the layers of the scale" if "scale" in row else "N·L"
        yield {"convention": about, "value": float(shape.effective_depth)}
    elif quantity not in row:
        yield {"reason": NO_COLUMN}
    elif setting is not None and quantity == "params_m":
        for convention in PARAMETERS:
            yield {
                "convention": convention.name,
                "value": parameters(shape, setting, convention) / 1e6,
                "layer": convention.layer.name,
                "biases": convention.biases,
                "embeddings": convention.embeddings,
            }
    elif setting is not None:
        steps = int(row["sampling_steps"])
        for choice in COMPUTE:
            if choice.calls in setting.calls:
                value = gigaflops(shape, setting, choice, steps)
                yield {"convention": choice.name, "value": value, **asdict(choice)}


def _judged(known: Observation, found: Observation) -> Observation:
    """The value beside what was printed: deviation, fit, and the number of steps that would bring it nearest."""
    value = found.get("value")
    if value is None or known["reported"] is None:
        return found
    figure = Printed(known["reported"], known["reported_low"], known["reported_high"])
    judged = {**found, "deviation_percent": 100 * (value / figure.value - 1), "fits": figure.contains(value)}
    if known["metric"] == "gflops_k":
        per_step = value / known["sampling_steps"]
        steps = max(1, round(figure.value / per_step))
        judged |= {"nearest_steps": steps, "value_at_nearest_steps": steps * per_step}
        judged["fits_at_nearest_steps"] = figure.contains(steps * per_step)
    return judged
