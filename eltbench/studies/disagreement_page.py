"""The tables of the study disagreement that documents show, from its committed summary."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from eltbench import tables
from eltbench.evaluation.per_sample import ERRORS
from eltbench.studies.curves import CELL

FAMILIES = ("disagreement", "convergence", "probe_logistic", "probe_boosted", "ensemble", "unique_depth", "dropout")
RULES = ("fixed", "entropy", "kl", "prediction-change", "latent-difference", "learned-gate")
SHOWN_LEVEL = 0.05
BOUNDS = ["mean", "low", "high"]
SUMMED = ("entropy", "variance_bound", "kl_to_previous", "squared_change_to_previous", "state_turn", "update_turn")
TARGETS = {"model_error": "the model's own error", **dict.fromkeys(ERRORS, "the error")}


def markdown(summary: pd.DataFrame) -> str:
    """What families add to the best cheap baseline, what elt's rules save, and what choosing its samples gains.

    Means over seeds with the 95 % interval, not widened over claims; additions are in AUROC within strata, rules are
    under learn-then-test. The table of samples is left out where none were drawn.
    """
    gains = list(_gains(summary))
    held = list(_held(summary))
    heads = ("where", "model", "foreseen", "best cheap baseline", *(name.replace("_", " ") for name in FAMILIES))
    rules = (
        "where",
        f"rule, α = {SHOWN_LEVEL}",
        "risk",
        "violations",
        "loops saved a sample",
        "loops saved by batches",
    )
    parts = [tables.markdown(heads, gains), tables.markdown(rules, held)]
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


def _held(summary: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """One line a rule of elt on held-out items."""
    held = summary[(summary["guarantee"] == "learn then test") & (summary["alpha"] == SHOWN_LEVEL)]
    held = held[(held["trainer"] == "elt") & (held["role"] == "main") & (held["scope"] != "sampling")]
    for key, here in held.groupby(CELL):
        for rule in RULES:
            of_rule = here[here["rule"] == rule]
            if len(of_rule):
                by = {str(metric): found for metric, found in of_rule.groupby("metric")}
                risk, violations = (f"{float(by[metric]['mean'].iloc[0]):.3f}" for metric in ("risk", "violations"))
                saved = [_percent(by[metric]) for metric in ("loops_saved", "loops_saved_by_batch")]
                yield " ".join(map(str, key)), f"`{rule}`", risk, violations, *saved


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
                share = "–" if oracle <= 0 else f"{100 * float(gained['mean'].iloc[0]) / oracle:.0f} %"
                auroc, gain = f"{float(told['mean'].iloc[0]):.3f}", _effect(gained)
                yield " ".join(where), target.replace("_", " "), signal.replace("_", " "), auroc, gain, share


def _effect(found: pd.DataFrame) -> str:
    """The one line of a summary that is there, or a dash."""
    if found.empty:
        return "–"
    mean, low, high = found[BOUNDS].iloc[0]
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _percent(found: pd.DataFrame) -> str:
    mean, low, high = 100 * found[BOUNDS].iloc[0]
    return f"{mean:.0f} % [{low:.0f}, {high:.0f}]"
