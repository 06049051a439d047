"""What follows from the rows of the paper's tables: every declared statement against the printed figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from eltbench import accounting, studies
from eltbench.core.config import Architecture
from eltbench.studies.audit.paper import printed, statements
from eltbench.studies.audit.paper.conventions import LAYERS
from eltbench.studies.audit.paper.judgement import rows_fitted
from eltbench.studies.audit.paper.printed import Printed
from eltbench.studies.audit.paper.recount import Observation, Shape, rows_of, setting_of, shape_of
from eltbench.studies.audit.paper.statements import Pair, Quote


def consequences(counted: Sequence[Observation]) -> Iterator[Observation]:
    """One observation per statement, given those of `recount`; `fits` says whether it holds, a reason why it is open.

    `value` is what the tables give, `reported` what the statement expects of it.
    """
    for pair in statements.PAIRS:
        yield from _sizes(pair)
        yield from _qualities(pair)
    for tables, quantity in statements.ONE_CONVENTION:
        yield _one_convention(counted, tables, quantity)
    for table in (statements.MASKED, statements.DIFFUSION, statements.VIDEO):
        for layer in LAYERS:
            yield _one_layer(counted, table, layer.name)
    yield from map(_quoted, statements.QUOTES)
    for table, model in statements.STEP_COSTS:
        yield _step_cost(table, model)
    for claim in (claim for its in studies.claims().values() for claim in its):
        if reason := statements.UNCHECKED.get(claim.id) or statements.WITHOUT_FIGURE.get(claim.reference):
            yield _said("claims", claim.id, "reference", claim.reference, claim=claim.id, reason=reason)


def _said(table: str, model: str, quantity: str, statement: str, **found: Any) -> Observation:
    return {"table": table, "model": model, "metric": quantity, "statement": statement, **found}


def _figure(table: str, model: str, column: str) -> Printed | None:
    text = rows_of(table)[model].get(column)
    return printed.read(text) if text else None


def _sizes(pair: Pair) -> Iterator[Observation]:
    """Parameters and compute of a pair: against what sharing layers gives, and against what claims state."""
    table, model, baseline = pair
    ours, theirs = _figure(table, model, "params_m"), _figure(table, baseline, "params_m")
    if ours and theirs:
        layers = _shape(table, baseline).unique_layers / _shape(table, model).unique_layers
        about = f"{baseline} has the parameters of {model} times the ratio of their unique layers"
        yield _said(table, model, "params ratio", about, **_held(theirs.over(ours), Printed(layers, layers, layers)))
        for claim, stated_of, factor in statements.FACTORS:
            if stated_of == pair:
                about = f"{model} has {factor} times fewer parameters than {baseline}"
                found = _held(theirs.over(ours), printed.read(factor))
                yield _said(table, model, "stated params ratio", about, claim=claim, **found)
    ours, theirs = _figure(table, model, "gflops_k"), _figure(table, baseline, "gflops_k")
    if ours and theirs:
        about = f"{model} takes the compute of {baseline}"
        yield _said(table, model, "gflops ratio", about, **_held(ours.over(theirs), Printed(1.0, 1.0, 1.0)))


def _held(ratio: Printed, expected: Printed) -> Observation:
    """A ratio of printed figures; it holds where some values that are printed so agree with what is expected."""
    return {
        "value": ratio.value,
        "reported": expected.value,
        "reported_low": expected.low,
        "reported_high": expected.high,
        "deviation_percent": 100 * (ratio.value / expected.value - 1),
        "fits": ratio.low <= expected.high and expected.low <= ratio.high,
    }


def _qualities(pair: Pair) -> Iterator[Observation]:
    """A pair by every quality that both rows print: is the looped model at least as good?"""
    table, model, baseline = pair
    for column, higher_is_better in statements.HIGHER_IS_BETTER.items():
        ours, theirs = _figure(table, model, column), _figure(table, baseline, column)
        if not ours or not theirs:
            continue
        gain = ours.value - theirs.value if higher_is_better else theirs.value - ours.value
        spreads = [rows_of(table)[name].get(f"{column}_spread") or "nan" for name in (model, baseline)]
        together = math.hypot(*map(float, spreads))
        yield _said(
            table,
            model,
            column,
            f"{model} is not worse than {baseline} by {column}",
            value=ours.value,
            reported=theirs.value,
            deviation_percent=100 * (ours.value / theirs.value - 1),
            higher_is_better=higher_is_better,
            fits=gain >= 0,
            reason=f"{abs(gain) / together:.1f} times both printed spreads in quadrature" if together > 0 else None,
        )


def _one_convention(counted: Sequence[Observation], tables: tuple[str, ...], quantity: str) -> Observation:
    """Whether one convention fits all rows; the value is how many rows the best one fits."""
    ours = [it for it in counted if it["table"] in tables and it["metric"] == quantity and "fits" in it]
    fitted, rows = rows_fitted(ours), {(it["table"], it["model"]) for it in ours}
    best = max(fitted, key=lambda name: fitted[name])
    found = {"convention": best, "value": float(fitted[best]), "reported": float(len(rows))}
    about = f"one convention fits the {quantity} of every row of {' and '.join(tables)}"
    return _said(" and ".join(tables), "all rows", quantity, about, **found, fits=fitted[best] == len(rows))


def _one_layer(counted: Sequence[Observation], table: str, layer: str) -> Observation:
    """Whether every row fits with one kind of layer, under some choice of biases and embeddings for each."""
    ours = [it for it in counted if it["table"] == table and it.get("layer") == layer and "fits" in it]
    rows, fitted = {it["model"] for it in ours}, {it["model"] for it in ours if it["fits"]}
    about = f"every row of {table} fits with layers of {layer}"
    found = {"layer": layer, "value": float(len(fitted)), "reported": float(len(rows)), "fits": fitted == rows}
    return _said(table, "all rows", "params_m", about, **found)


def _quoted(quote: Quote) -> Observation:
    """Whether the figures that a claim quotes are those of the table."""
    rows = rows_of(quote.table)
    agree = sum(float(rows[model][quote.column]) == float(text) for model, text in quote.figures.items())
    found = {"value": float(agree), "reported": float(len(quote.figures)), "fits": agree == len(quote.figures)}
    about = f"{quote.claim} quotes the {quote.column} of {quote.table}"
    return _said(quote.table, ", ".join(quote.figures), quote.column, about, claim=quote.claim, **found)


def _step_cost(table: str, model: str) -> Observation:
    """FLOPs of a training step that reads two exits over those of one that reads the last alone, in closed form."""
    shape, setting = _shape(table, model), setting_of(table)
    assert setting is not None
    looped = Architecture(shape.unique_layers, shape.loops, width=shape.width, mlp_ratio=shape.mlp_ratio, block="bert")
    network = accounting.NetworkSpec(looped, "looped", setting.spec, timed=False)
    two, one = (sum(accounting.step_flops(network, shape.loops, exits).values()) for exits in (2, 1))
    (condition,) = studies.claim("step-cost").conditions
    limit = math.exp(condition.region.high)
    about = f"ILSD makes a training step of {model} less than {limit:g} times as costly"
    found = {"value": two / one, "reported": limit, "fits": two / one < limit}
    return _said(table, model, "step flops ratio", about, claim="step-cost", **found)


def _shape(table: str, model: str) -> Shape:
    shape = shape_of(rows_of(table)[model], setting_of(table))
    if shape is None:
        raise ValueError(f"{model} of {table} gives no layers: it cannot stand in a statement about them")
    return shape
