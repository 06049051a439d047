"""The tables of the study disagreement that documents show, from its committed summary."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from eltbench.core import tables
from eltbench.evaluation.signals.per_sample import ERRORS
from eltbench.evaluation.solving import AS_TRAINED, HARDER
from eltbench.evaluation.stopping.equal_solving import SCOPE
from eltbench.studies.curves import CELL

FAMILIES = ("disagreement", "convergence", "probe_logistic", "probe_boosted", "ensemble", "unique_depth", "dropout")
RULES = ("fixed", "entropy", "kl", "prediction-change", "latent-difference", "learned-gate")
SHOWN_RULES = {"elt": RULES, "universal-transformer": ("fixed", "halting")}
SHOWN_LEVEL = 0.05
SAMPLING_LEVEL = 0.2  # half of some two hundred samples certify hardly less
BY_BATCH, OVER_FIXED = "loops_saved_by_batch", "loops_saved_over_fixed"
SOLVING = (
    *("where", "rule at equal solving", "items solved", "above all loops", "loops saved", "FLOPs saved"),
    *("over a fixed depth", "loops on items as trained", "on harder ones", "rank correlation with difficulty"),
)
BOUNDS = ["mean", "low", "high"]
SUMMED = ("entropy", "variance_bound", "kl_to_previous", "squared_change_to_previous", "state_turn", "update_turn")
TARGETS = {"model_error": "the model's own error", **dict.fromkeys(ERRORS, "the error")}


def markdown(summary: pd.DataFrame) -> str:
    """What families add to the best cheap baseline, what rules save, on puzzles too, and what choosing samples gains.

    Means over seeds with the 95 % interval, not widened over claims; additions are in AUROC within strata, rules are
    under learn-then-test, those of elt and the halting of universal-transformer. What was not measured has no table and
    no column; what could not be, says why.
    """
    heads = ("where", "model", "foreseen", "best cheap baseline", *(name.replace("_", " ") for name in FAMILIES))
    within = summary["scope"] == "sampling"
    parts = [tables.markdown(heads, _gains(summary)), _rules(summary[~within], "rule", SHOWN_LEVEL)]
    inside = summary[within & summary["guarantee"].notna()]
    if BY_BATCH in set(inside["metric"]) or inside["reason"].notna().any():
        parts.append(_rules(inside, "rule inside sampling", SAMPLING_LEVEL))
    if solved := list(_solving(summary)):
        parts.append(tables.markdown(SOLVING, solved))
    if drawn := list(_drawn(summary)):
        judges = "where", "error of a sample", "signal", "AUROC", "selection gain", "of the oracle's"
        parts.append(tables.markdown(judges, drawn))
    return "\n".join(parts)


def _gains(summary: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """One line a model and target: the AUROC within strata of the cheap baselines chosen, and what the families add."""
    found = summary[(summary["metric"] == "auroc_gain") & summary["target"].isin(list(TARGETS))]
    scores = summary[(summary["metric"] == "auroc") & (summary["scope"] == "within")]
    model = [*CELL, "trainer", "role", "target"]
    for key, here in found.groupby(model):
        told = here["reason"].str.split("; ").explode().str.split(" over ").str[1].dropna()
        baselines = told.drop_duplicates().tolist()
        mine = scores[(scores[model] == list(key)).all(axis=1)].set_index("signal")["mean"]
        shown = ", ".join(f"{name.replace('_', ' ')} {mine[name]:.3f}" for name in baselines)
        task, dataset, backend, trainer, role, target = map(str, key)
        cells = [_effect(here[here["signal"] == family]) for family in FAMILIES]
        name = trainer if role == "main" else f"{trainer} ({role})"
        yield f"{task} {dataset} {backend}", name, TARGETS[target], shown, *cells


def _rules(summary: pd.DataFrame, heading: str, level: float) -> str:
    """The table of rules under learn-then-test, with what they save over a fixed depth where that was measured."""
    held = summary[(summary["guarantee"] == "learn then test") & (summary["alpha"] == level)]
    held = held[held["role"] == "main"]
    head = ["where", f"{heading}, α = {level}", "risk", "violations", "loops saved a sample", "loops saved by batches"]
    head += ["a sample, over a fixed depth"] if OVER_FIXED in set(held["metric"]) else []
    return tables.markdown(head, [line[: len(head)] for line in _held(held)])


def _held(held: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """One line a rule: those of elt, then halting beside a fixed depth of universal-transformer."""
    for key, here in held.groupby(CELL):
        for trainer, rules in SHOWN_RULES.items():
            mine, where = here[here["trainer"] == trainer], " ".join(map(str, key))
            if trainer != "elt":
                mine = mine if "halting" in set(mine["rule"]) else mine[:0]
                where += f", {trainer}"
            for rule in rules:
                of_rule = mine[mine["rule"] == rule]
                if len(of_rule):
                    by = {str(metric): found for metric, found in of_rule.groupby("metric")}
                    yield where, f"`{rule}`", *_cells(by)


def _cells(by: dict[str, pd.DataFrame]) -> Iterator[str]:
    """Risk, violations, both savings, and what is saved over a fixed depth with what its interval decides."""
    nothing = by["loops_saved"][:0]
    for metric in ("risk", "violations"):
        yield f"{by[metric]['mean'].iloc[0]:.3f}" if _known(by.get(metric, nothing)) else "–"
    for metric in ("loops_saved", BY_BATCH):
        yield _percent(by.get(metric, nothing))
    yield _over(by.get(OVER_FIXED, nothing))


def _over(over: pd.DataFrame) -> str:
    """What is saved over a fixed depth, with what its interval decides."""
    if over.empty or not np.isfinite(over[BOUNDS].to_numpy(float)).all():
        return _percent(over)
    _, low, high = over[BOUNDS].iloc[0]
    return f"{_percent(over)}: " + ("**more**" if low > 0 else "**less**" if high < 0 else "undecided")


def _solving(summary: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """One line a rule of elt on puzzles: what it saves at equal solving, and the loops of easier and harder items."""
    found = summary[(summary["scope"] == SCOPE) & (summary["trainer"] == "elt") & (summary["role"] == "main")]
    for key, here in found.groupby([*CELL, "loops"]):
        *where, loops = key
        for rule in RULES:
            mine = here[here["rule"] == rule]
            by = {str(metric): of for metric, of in mine[mine["stratum"].isna()].groupby("metric")}
            if by:
                ran = mine[mine["metric"] == "loops_run"].set_index("stratum")["mean"]
                steps = (f"{ran[group]:.1f}" if group in ran else "–" for group in (AS_TRAINED, HARDER))
                shares = (_percent(by[metric]) for metric in ("loops_saved", "flops_saved"))
                told = f"{by['solved']['mean'].iloc[0]:.3f}", _effect(by["solved_over_full"]), *shares
                over = _over(by.get(OVER_FIXED, mine[:0]))
                rank = _effect(by.get("loops_by_difficulty", mine[:0]))
                yield f"{' '.join(map(str, where))}, {loops:.0f} loops", f"`{rule}`", *told, over, *steps, rank


def _drawn(summary: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """One line a judge of elt's samples and signal: its AUROC, and what keeping the best quarter by it gains."""
    drawn = summary[(summary["trainer"] == "elt") & (summary["role"] == "main") & (summary["scope"] == "sampling")]
    for key, here in drawn[drawn["signal"].notna()].groupby([*CELL, "target"]):
        gains = here[here["metric"] == "selection_gain"]
        oracle = float(gains[gains["signal"] == "oracle"]["mean"].iloc[0])
        *where, target = map(str, key)
        for signal in SUMMED:
            told = here[(here["metric"] == "auroc") & (here["signal"] == signal)]
            if len(told):
                gained = gains[gains["signal"] == signal]
                share = f"{100 * gained['mean'].iloc[0] / oracle:.0f} %" if len(gained) and oracle > 0 else "–"
                auroc = f"{told['mean'].iloc[0]:.3f}" if _known(told) else _missing(told)
                named = (name.replace("_", " ") for name in (target, signal))
                yield " ".join(where), *named, auroc, _effect(gained), share


def _known(found: pd.DataFrame) -> bool:
    """Whether the one line of a summary is there and has a value."""
    return not found.empty and bool(np.isfinite(found["mean"].iloc[0]))


def _missing(found: pd.DataFrame) -> str:
    """A dash, with the reason where one is given."""
    reasons = found["reason"].dropna()
    return f"– ({reasons.iloc[0]})" if len(reasons) else "–"


def _effect(found: pd.DataFrame) -> str:
    if not _known(found):
        return _missing(found)
    mean, low, high = found[BOUNDS].iloc[0]
    return f"{mean:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if np.isfinite(low) else "")


def _percent(found: pd.DataFrame) -> str:
    if not _known(found):
        return _missing(found)
    mean, low, high = 100 * found[BOUNDS].iloc[0]
    return f"{mean:.0f} %" + (f" [{low:.0f}, {high:.0f}]" if np.isfinite(low) else "")
