"""Disagreement: do the exits of a looped model tell where it is wrong, and can it stop early with a guarantee?

Every signal stands beside honest baselines: what one exit says of itself, the corruption level alone, an ensemble of
the other seeds and the unique-depth model of equal compute. Corruption explains most of an error, so every score is
given over all items and within strata of it. Models are those of the study extrapolation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from eltbench.backends import check_exits
from eltbench.core.config import Run, decisive
from eltbench.core.streams import stream
from eltbench.core.validation import build
from eltbench.data.latin import Latin
from eltbench.evaluation.signals import signal_scores
from eltbench.evaluation.signals.per_sample import ERRORS, PerSample, observe
from eltbench.evaluation.stopping import early_exits, equal_solving, generation_scores
from eltbench.evaluation.stopping.guarantees import smallest_learn_then_test
from eltbench.evidence.claims import Cell, Evidence
from eltbench.studies import register
from eltbench.studies.base import Measured, Study
from eltbench.studies.disagreement import tables as disagreement_tables
from eltbench.studies.disagreement.claims import CLAIMS, OF_PUZZLES, STOPPING
from eltbench.studies.heldout_rows import check_repeats
from eltbench.studies.presets import Arm, Preset, World
from eltbench.training.loop import Parts, parts
from eltbench.training.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS, DELTA = (0.05, 0.1, 0.2), 0.1  # of the guarantees: risk α, and how often learn-then-test may miss it
CLAIMED_LEVEL = 0.05
CLAIMED_RULES = ("kl", "prediction-change")  # the disagreement of consecutive exits, of tokens and of values


@dataclass(frozen=True)
class Measurement:
    """What a preset's table `measurement` may say."""

    heldout_draws: int = 8  # corruptions of every held-out item
    strata: int = 24  # of the corruption level, of equal frequency; within one it should tell little
    reach: int = 1  # exits are read up to this multiple of L_max
    unit: Literal["item", "token"] = "item"  # what signals are scored on; tokens where a world corrupts all items alike
    ensemble: int = 5  # the seeds 0, 1, … whose models are one ensemble; 0: none
    unique_depth: bool = False  # whether the unique-depth model of equal compute is asked too, for tokens
    dropout_passes: int = 8  # with dropout left on, of a model that was trained with it
    splits: int = 200  # random calibration sets on which a guarantee is tried
    samples: int = 0  # how many are generated, at most as many as held-out items; 0: none
    sampling: Mapping[str, Any] = field(default_factory=dict)  # options of the task's sampler

    def __post_init__(self) -> None:
        for name in ("heldout_draws", "strata", "reach", "ensemble", "dropout_passes", "splits", "samples"):
            if getattr(self, name) < (least := int(name not in ("ensemble", "samples"))):
                raise ValueError(f"measurement: {name} must be at least {least}, given {getattr(self, name)}")
        check_repeats(self, "heldout_draws", "strata", "ensemble", "dropout_passes", "splits")


@register("disagreement", version=3)
class Disagreement(Study):
    """Signals against errors, stopping rules as quality against compute, and stopping with a guarantee."""

    columns: ClassVar = {
        "role": pa.string(),  # main, or which control
        "signal": pa.string(),  # a signal, a probe, or the family of one that was chosen
        "target": pa.string(),  # the error that is to be foreseen, or that stopping costs
        "scope": pa.string(),  # pooled over all items, within strata of corruption, one, tokens, sampling, and
        # "equal solving": the threshold that calibration chose on puzzles
        "stratum": pa.string(),  # level 0 is the cleanest; of puzzles difficulty 3, or harder than trained
        "rule": pa.string(),  # stopping rule
        "setting": pa.int64(),  # of a rule's grid of thresholds; 0 never stops early
        "threshold": pa.float64(),  # of that setting
        "saved": pa.float64(),  # share of the loops that a rule is compared at
        "coverage": pa.float64(),  # share of the items that a risk is the mean error of, the surest first
        "loops_per_sample": pa.float64(),  # mean loops where stopped items leave the batch
        "loops_per_batch": pa.float64(),  # mean loops where a batch of 64 runs on until its last item stops
        "guarantee": pa.string(),  # conformal risk control, or learn then test
        "alpha": pa.float64(),  # the risk that is guaranteed
        "delta": pa.float64(),  # how often it may be missed
        "sampler": pa.string(),
        "sampling_steps": pa.int64(),
        "sampling_step": pa.int64(),  # of them, from 1, where a row is about one
        "noise": pa.float64(),  # mean corruption there, or in a stratum: -log-SNR, or the share of masked tokens
        "guidance_scale": pa.float64(),
        "reason": pa.string(),  # why a value is missing, or what was chosen
    }
    claims = CLAIMS + OF_PUZZLES

    def settings(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        asked, run = self._asked(preset, world), preset.run(world, arm, seed=0)
        made = parts(run)
        looped, heldout = made.trainer.depth != "unique", made.dataset.heldout()
        if asked.unit == "token" and heldout.hidden is None:
            raise ValueError(
                f"measurement: unit 'token' is for worlds that corrupt all items alike; {world.dataset!r} does not say "
                "what its items hide: leave it out"
            )
        if heldout.hidden is not None and (empty := np.flatnonzero(~heldout.hidden.any(axis=1))).size:
            raise ValueError(
                f"measurement: signals are of hidden tokens, held-out item {empty[0]} of {world.dataset!r} hides none"
            )
        if looped:
            _check_size(len(heldout.labels), world.dataset)
        if asked.samples:
            _check_samples(asked, made)
        deepest = run.architecture.max_loops if looped else 1
        settings = asdict(asked)
        for name in ("reach", "ensemble", "unique_depth"):
            del settings[name]
        sampling = made.task.sampling(**asked.sampling)  # refuses unknown options
        settings["sampling"] = decisive(sampling, asdict(sampling))
        settings["dropout_passes"] *= run.architecture.dropout > 0
        exits = list(check_exits(range(1, asked.reach * deepest + 1))) if looped else [1]
        if made.dataset.solvable and looped and made.dataset.difficulty(heldout) is not None:
            settings["solving"] = True
        return {**settings, "exits": exits, "deepest": deepest, "levels": list(LEVELS), "delta": DELTA}

    def companions(self, preset: Preset, world: World, arm: Arm, seed: int) -> dict[str, tuple[Run, ...]]:
        """The other seeds of the ensemble, and the unique-depth model as deep as this one at L_max.

        They follow from the measurement alone, so that a command narrowed to some arms or seeds measures the same.
        """
        asked, run = self._asked(preset, world), preset.run(world, arm, seed)
        others = tuple(preset.run(world, arm, other) for other in range(asked.ensemble) if other != seed)
        found = {"ensemble": others} if others else {}
        made = parts(run)
        if asked.unique_depth and made.dataset.spec.kind == "tokens" and made.trainer.depth != "unique":
            depth = run.architecture.effective_depth
            layers: dict[str, Any] = {"unique_layers": depth, "max_loops": 1, "prelude": 0, "coda": 0}
            if run.architecture.residual_scale != "none":
                layers["residual_scale"] = "layers"  # its own, as of the arm of equal compute
            found["unique-depth"] = (preset.run(world, Arm("unique-depth", architecture=layers), seed),)
        return found

    def measure(self, model: Model, run: Run, settings: Mapping[str, Any]) -> Measured:
        named = settings.get("companions", {})
        members = {source: [model.companion(each) for each in ids] for source, ids in named.items()}
        exits, deepest, draws = settings["exits"], settings["deepest"], settings["heldout_draws"]
        further = [deepest] if len(exits) > 1 else []
        by_token = settings["unit"] == "token"
        asked = {"members": members, "further": further, "dropout_passes": settings["dropout_passes"]}
        observed = observe(model, exits, draws, **asked, by_token=by_token)
        rows = signal_scores.score(observed, self._parted(model, observed, settings), deepest)
        if model.spec.kind == "tokens":
            tokens = observed if by_token else observe(model, [deepest], draws, by_token=True)
            rows += signal_scores.of_tokens(tokens, self._parted(model, tokens, settings), deepest)
        tables = {"tokens" if by_token else "samples": observed.table()}
        if len(exits) > 1:
            items = observe(model, exits, draws) if by_token else observed
            rows += self._stopping(model, items.up_to(deepest), settings)  # early is before L_max
            tables["samples"] = items.table()
            for reach in dict.fromkeys((deepest, exits[-1])) if settings.get("solving") else ():
                rows += self._solving(model, items.up_to(reach), settings)
        measured = Measured(rows, tables)
        if not settings["samples"]:
            return measured
        known = {**settings, "exits": exits[: exits.index(deepest) + 1]}
        rng = stream(model.run.dataset, 0, "calibration trajectories")
        return measured.with_part("samples", lambda: generation_scores.score(model, known, settings["splits"], rng))

    def _stopping(self, model: Model, items: PerSample, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        parted = self._parted(model, items, settings)
        rules = early_exits.signals_of_rules(items, parted)
        rng = stream(model.run.dataset, 0, "calibration sets")
        limits = settings["levels"], settings["delta"], rng, settings["splits"]
        curves = early_exits.curves(items, parted, rules) + early_exits.by_level(items, parted, rules)
        return curves + early_exits.guaranteed(items, parted, rules, *limits)

    def _solving(self, model: Model, items: PerSample, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rules as what they do to solving: items lost by loops run, and what is saved where none are."""
        parted = self._parted(model, items, settings)
        rules = early_exits.signals_of_rules(items, parted)
        lost = early_exits.curves(equal_solving.unsolved(items), parted, rules)
        rng = stream(model.run.dataset, 0, "calibration puzzles")
        return lost + equal_solving.rows(model, items, parted, rules, rng, settings["splits"])

    def _parted(self, model: Model, observed: PerSample, settings: Mapping[str, Any]) -> signal_scores.Parted:
        return signal_scores.part(observed, settings["strata"], stream(model.run.dataset, 0, "three sets"))

    def _asked(self, preset: Preset, world: World) -> Measurement:
        return build(Measurement, {**preset.measurement, **world.measurement})

    def final_losses(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The mean error of all test items: risk at full coverage, which is the same whatever the signal."""
        risks = rows[(rows["metric"] == "risk_at_coverage") & (rows["coverage"] == 1) & (rows["signal"] == "oracle")]
        return risks[(risks["scope"] == "pooled") & (risks["loops"] == risks["max_loops"])]

    def evidence(self, rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
        found: dict[str, dict[Cell, Evidence]] = {claim.id: {} for claim in self.claims}
        elt = rows[(rows["trainer"] == "elt") & (rows["role"] == "main")]
        for where, here in self.cells(elt):
            seeds = set(here["seed"])
            gains = here[(here["metric"] == "auroc_gain") & here["target"].isin(ERRORS)]
            for claim, family in (("exit-disagreement", "disagreement"), ("exit-convergence", "convergence")):
                found[claim][where] = _evidence({"auroc": gains[gains["signal"] == family]}, seeds)
            held = here[(here["guarantee"] == "learn then test") & (here["alpha"] == CLAIMED_LEVEL)]
            held = held[held["rule"].isin(CLAIMED_RULES) & (held["scope"] != "sampling")]
            sides = {"valid": "violations", "saved": "loops_saved"}
            measured = {name: held[held["metric"] == metric] for name, metric in sides.items()}
            found["calibrated-stopping"][where] = replace(_evidence(measured, seeds), counts=tuple(measured))
            if len(puzzles := here[(here["scope"] == equal_solving.SCOPE) & (here["loops"] == here["max_loops"])]):
                solved = bool((puzzles[puzzles["metric"] == "solved"]["value"] > 0).any())
                for claim, measured in _of_puzzles(puzzles).items():
                    without = {} if solved else dict.fromkeys(measured, "no item is solved at any exit")
                    shown = _evidence(measured, seeds)
                    found[claim][where] = replace(shown, counts=tuple(measured), without=without)
        return found

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        return disagreement_tables.summary(rows)

    def figure(self, rows: pd.DataFrame) -> Figure:
        from eltbench.studies.disagreement import figure as disagreement_figure

        return disagreement_figure.figure(rows)


def _check_size(items: int, dataset: str) -> None:
    """Refuse a world too small to calibrate at the smallest of `LEVELS`."""
    shares, smallest = signal_scores.SHARES, smallest_learn_then_test(min(LEVELS), DELTA)
    if (left := int(items * (1 - shares[0]) / 2)) < smallest:
        raise ValueError(
            f"{dataset!r} holds out {items} items, of which {left} calibrate a guarantee at alpha = {min(LEVELS)} and "
            f"delta = {DELTA}; that takes at least {smallest}, so {math.ceil(2 * smallest / (1 - shares[0]))} held out"
        )


def _check_samples(asked: Measurement, made: Parts) -> None:
    """Refuse samples that nobody can judge, or that could not be drawn."""
    heldout, name = made.dataset.heldout(), made.dataset.name
    if made.dataset.images(heldout.values[:1]) is None and not isinstance(made.dataset, Latin):
        raise ValueError(
            f"measurement: nobody can judge samples of {name!r}; leave samples at 0, given {asked.samples}"
        )
    if asked.samples > len(heldout.labels):
        raise ValueError(
            f"measurement: samples is at most the {len(heldout.labels)} held-out items of {name!r}, whose labels they "
            f"have; given {asked.samples}"
        )
    if (scale := made.task.sampling(**asked.sampling).guidance_scale) != 1.0:
        raise ValueError(f"measurement: signals are of one prediction a step, so guidance_scale is 1, given {scale}")


def _of_puzzles(rows: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """The rows behind each condition of the claims on puzzles."""

    def of(rule: str, metric: str) -> pd.DataFrame:
        return rows[(rows["rule"] == rule) & (rows["metric"] == metric)]

    later = {name: of(rule, "loops_by_difficulty") for name, rule in STOPPING.items()}
    sides = {"solved": "solved_over_full", "saved": "loops_saved", "over-fixed": "loops_saved_over_fixed"}
    saved = {name: of(STOPPING["disagreement"], metric) for name, metric in sides.items()}
    return {"later-on-harder": later, "saved-at-equal-solving": saved}


def _evidence(conditions: Mapping[str, pd.DataFrame], seeds: set[int]) -> Evidence:
    effects = {name: rows.set_index("seed")["value"].sort_index() for name, rows in conditions.items()}
    absent = {name: sorted(seeds - set(effect.index)) for name, effect in effects.items()}
    return Evidence({name: effect.to_numpy(float) for name, effect in effects.items()}, absent=absent)
