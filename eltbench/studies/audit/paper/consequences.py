"""What follows from the rows of the paper's tables: every declared statement against the printed figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from eltbench import accounting, studies
from eltbench.studies.audit.paper import printed, statements
from eltbench.studies.audit.paper.conventions import LAYERS
from eltbench.studies.audit.paper.judgement import rows_fitted
from eltbench.studies.audit.paper.printed import Printed
from eltbench.studies.audit.paper.recount import Observation, Shape, reported, rows_of, setting_of, shape_of
from eltbench.studies.audit.paper.statements import Pair, Quote


def consequences(counted: Sequence[Observation]) -> Iterator[Observation]:
    """One observation per statement, given those of `recount`: whether it `fits`, or the reason why it is open.

    `value` follows from the tables, `reported` is the statement's.
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
    for claim in (claim for its in studies.claims().values() for claim in its if claim.paper_section):
        if reason := statements.UNCHECKED.get(claim.id) or statements.WITHOUT_FIGURE.get(claim.reference):
            yield _said("claims", claim.id, "reference", claim.reference, claim=claim.id, reason=reason)


def _said(table: str, model: str, quantity: str, statement: str, **found: Any) -> Observation:
    return {"table": table, "model": model, "metric": quantity, "statement": statement, **found}


def _counted(found: int, of: int) -> Observation:
    return {"value": float(found), "reported": float(of), "fits": found == of}


def _figures(pair: Pair, column: str) -> tuple[Printed, Printed] | None:
    """What both rows print; None where one prints nothing."""
    rows = rows_of(pair.table)
    ours, theirs = rows[pair.model].get(column), rows[pair.baseline].get(column)
    return (printed.read(ours), printed.read(theirs)) if ours and theirs else None


def _sizes(pair: Pair) -> Iterator[Observation]:
    """Parameters and compute of a pair: against those of shared layers, and against what claims state."""
    table, model, baseline = pair
    if both := _figures(pair, "params_m"):
        ours, theirs = both
        layers = _shape(table, baseline).unique_layers / _shape(table, model).unique_layers
        about = f"{baseline} has the parameters of {model} times the ratio of their unique layers"
        yield _said(table, model, "params ratio", about, **_held(theirs.over(ours), Printed(layers, layers, layers)))
        for claim, stated_of, factor in statements.FACTORS:
            if stated_of == pair:
                about = f"{model} has {factor} times fewer parameters than {baseline}"
                found = _held(theirs.over(ours), printed.read(factor))
                yield _said(table, model, "stated params ratio", about, claim=claim, **found)
    if both := _figures(pair, "gflops_k"):
        about, found = f"{model} takes the compute of {baseline}", _held(both[0].over(both[1]), Printed(1.0, 1.0, 1.0))
        yield _said(table, model, "gflops ratio", about, **found)


def _held(ratio: Printed, expected: Printed) -> Observation:
    """A ratio of printed figures; it holds where some values that are printed so agree with the expected one."""
    return {
        "value": ratio.value,
        **reported(expected),
        "deviation_percent": 100 * (ratio.value / expected.value - 1),
        "fits": ratio.low <= expected.high and expected.low <= ratio.high,
    }


def _qualities(pair: Pair) -> Iterator[Observation]:
    """A pair by every quality that both rows print: is the looped model at least as good?"""
    table, model, baseline = pair
    for column, higher_is_better in statements.HIGHER_IS_BETTER.items():
        if not (both := _figures(pair, column)):
            continue
        ours, theirs = (figure.value for figure in both)
        gain = ours - theirs if higher_is_better else theirs - ours
        together = math.hypot(*(float(rows_of(table)[name].get(f"{column}_spread") or "nan") for name in pair[1:]))
        yield _said(
            table,
            model,
            column,
            f"{model} is not worse than {baseline} by {column}",
            value=ours,
            reported=theirs,
            deviation_percent=100 * (ours / theirs - 1),
            higher_is_better=higher_is_better,
            fits=gain >= 0,
            reason=f"{abs(gain) / together:.1f} times both printed spreads in quadrature" if together > 0 else None,
        )


def _one_convention(counted: Sequence[Observation], tables: Sequence[str], quantity: str) -> Observation:
    """Whether one convention fits all rows; the value is how many rows the best one fits."""
    ours = [it for it in counted if it["table"] in tables and it["metric"] == quantity and "fits" in it]
    fitted, rows = rows_fitted(ours), {(it["table"], it["model"]) for it in ours}
    best, names = max(fitted, key=lambda name: fitted[name]), " and ".join(tables)
    about = f"one convention fits the {quantity} of every row of {names}"
    return _said(names, "all rows", quantity, about, convention=best, **_counted(fitted[best], len(rows)))


def _one_layer(counted: Sequence[Observation], table: str, layer: str) -> Observation:
    """Whether every row fits with one kind of layer, under some choice of biases and embeddings for each."""
    ours = [it for it in counted if it["table"] == table and it.get("layer") == layer and "fits" in it]
    rows, fitted = {it["model"] for it in ours}, {it["model"] for it in ours if it["fits"]}
    about = f"every row of {table} fits with layers of {layer}"
    return _said(table, "all rows", "params_m", about, layer=layer, **_counted(len(fitted), len(rows)))


def _quoted(quote: Quote) -> Observation:
    """Whether the figures that a claim quotes are those of the table."""
    rows = rows_of(quote.table)
    agree = sum(float(rows[model][quote.column]) == float(text) for model, text in quote.figures.items())
    found = {"claim": quote.claim, **_counted(agree, len(quote.figures))}
    about = f"{quote.claim} quotes the {quote.column} of {quote.table}"
    return _said(quote.table, ", ".join(quote.figures), quote.column, about, **found)


def _step_cost(table: str, model: str) -> Observation:
    """FLOPs of a training step that reads two exits over those of one that reads the last alone, in closed form."""
    shape, setting = _shape(table, model), setting_of(table)
    assert setting is not None
    network = accounting.NetworkSpec(shape.architecture, "looped", setting.spec, timed=False)
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
