"""How long missing runs will take: recorded times of known configurations, else timings on this machine now."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eltbench import accounting
from eltbench.core.config import Run
from eltbench.execution import step_cost
from eltbench.execution.sweep import Durations, side_by_side
from eltbench.training.job import Job
from eltbench.training.loop import Parts, parts

START = 8.0  # seconds to start a process and load its libraries, where that was not timed


@dataclass(frozen=True)
class Estimate:
    """Seconds of one process for each missing run, and in words how they were obtained.

    groups: one for every process that a sweep starts, run_id → seconds of what it makes.
    """

    groups: Sequence[Mapping[str, float]]
    workers: int
    basis: str

    def seconds(self, run_ids: Collection[str]) -> float:
        """Seconds until these runs are made by `workers` processes at a time; one that is not missing takes none."""
        each = [sum(seconds for run_id, seconds in group.items() if run_id in run_ids) for group in self.groups]
        return side_by_side(each, self.workers)


def estimate(groups: Sequence[Mapping[str, Sequence[Job]]], known: Durations, workers: int) -> Estimate:
    """The time of every missing run (grouped by `sweep.grouped`): its training, and the network calls that measure it.

    Known configurations (up to the seed) reuse recorded times; for others, training steps are timed, in as many
    processes as will train. Held-out losses and samples are estimated from their FLOPs at the rate of training;
    diagnostics and scores are not counted. Seeds that are trained as one program are counted as if each were alone.
    """
    workers = min(workers, max(1, len(groups)))
    kinds = {replace(jobs[0].run, seed=0): jobs[0].run for group in groups for jobs in group.values()}
    seen = {kind: seconds for kind, run in kinds.items() if (seconds := known.training(run)) is not None}
    untimed = [kind for kind in kinds if kind not in seen]
    costs = step_cost.calibrate(untimed, workers) if untimed else {}
    made = {kind: parts(kind) for kind in kinds}

    def left(jobs: Sequence[Job]) -> float:
        kind = replace(jobs[0].run, seed=0)
        steps, cost = kind.optimisation.steps, costs.get(kind)
        start, training = (START, seen[kind]) if cost is None else (cost.start, cost.step * steps)
        calls = sum(measuring_flops(kind, made[kind], job.settings) for job in jobs)
        measuring = training * calls / (steps * step_cost.step_flops(kind, made[kind]))
        return start + measuring + known.to_train(jobs[0].run) * training

    basis = [f"{len(seen)} kinds of run take as long as here before"] if seen else []
    basis += [f"{len(untimed)} kinds were timed here just now ({step_cost.HOW})"] if untimed else []
    basis += ["network calls of measurements are added by their FLOPs"] if kinds else []
    expected = [{run_id: left(jobs) for run_id, jobs in group.items()} for group in groups]
    return Estimate(expected, workers, "; ".join(basis))


def measuring_flops(run: Run, made: Parts, settings: Mapping[str, Any]) -> float:
    """FLOPs of the held-out losses and the samples that a measurement asks for, by the names that its settings share.

    `exits` and `heldout_draws`, `training_steps` (each of which has a loss at all exits), `sample_loops`, `samples` and
    `sampling`, at L_max where no `sample_loops` are named. A measurement that says none of them counts nothing.
    """
    heldout = len(made.dataset.heldout().labels)
    flops = 0.0
    if settings.get("exits") and settings.get("heldout_draws"):
        losses = heldout * settings["heldout_draws"] * len(settings.get("training_steps", [0]))
        flops += losses * accounting.flops(made.network, max(settings["exits"]))
    if settings.get("samples") and settings.get("sampling"):
        steps, scale = settings["sampling"]["steps"], settings["sampling"]["guidance_scale"]
        each = [
            accounting.sample_flops(made.network, loops, steps, scale)
            for loops in settings.get("sample_loops", [run.architecture.max_loops])
        ]
        flops += min(settings["samples"], heldout) * sum(each)
    return flops
