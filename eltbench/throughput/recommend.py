"""Which (N, L) to deploy on this device: quality from the rows of a study, speed measured here and now.

Every network of the rows is built again with random weights and called as it would be deployed, at every exit whose
held-out loss the rows hold; the best loss within the latency wins. What the paper leaves to every deployment (its
claim operating-point: the best (N, L) depends on scale and hardware) is so answered where the question arises.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.table import Table

from eltbench import results, studies, tables
from eltbench.backends import speed
from eltbench.backends.speed import Body
from eltbench.config import Run
from eltbench.evaluation import stopwatch
from eltbench.evaluation.processors import processors
from eltbench.statistics import Interval, NonFiniteError, paired_interval
from eltbench.studies.presets import load_preset, preset_from_dict, preset_names
from eltbench.training import parts

CANDIDATE = ["trainer", "role", "unique_layers", "max_loops", "width", "loops"]
HELD = 8  # networks in memory at a time
DEPTHS = ("looped", "unique", "universal")  # whose call is as long for every input


class Candidate(NamedTuple):
    """A trained network read at one exit: where it stands, its loss over seeds, and what a sample takes here."""

    trainer: str
    role: str
    unique_layers: int
    max_loops: int
    width: int
    loops: int
    loss: Interval
    seconds: float

    @property
    def name(self) -> str:
        """For people: `elt 2N×4L at L = 3`."""
        role = "" if self.role == "main" else f" ({self.role})"
        return f"{self.trainer}{role} {self.unique_layers}N×{self.max_loops}L at L = {self.loops}"


@dataclass(frozen=True)
class Choice:
    """The best candidate within the latency and the next best, if any, and the fastest of all."""

    best: Candidate | None
    runner_up: Candidate | None
    fastest: Candidate

    @property
    def told_apart(self) -> bool:
        """Whether the intervals of the two best losses do not overlap."""
        two = self.best is not None and self.runner_up is not None
        return two and self.best.loss.high < self.runner_up.loss.low  # type: ignore[union-attr]


def choose(candidates: Sequence[Candidate], latency: float) -> Choice:
    """The lowest mean loss among those that take `latency` seconds or less; of equals the faster.

    Raises ValueError without a candidate, and for a latency that is not above zero.
    """
    if not latency > 0:
        raise ValueError(f"latency must be above 0, given {latency * 1e3:g} ms")
    if not candidates:
        raise ValueError("the rows hold no network with a finite held-out loss that can be timed")
    fits = sorted(
        (each for each in candidates if each.seconds <= latency), key=lambda it: (it.loss.estimate, it.seconds)
    )
    best, runner_up = [*fits, None, None][:2]
    return Choice(best, runner_up, min(candidates, key=lambda it: it.seconds))


def worlds(rows: pd.DataFrame, part: str = "") -> list[str]:
    """The worlds of the rows, "task dataset", that are called so, or else those whose names hold the part.

    Raises ValueError for rows without losses, and where no world fits.
    """
    known = sorted(_world_names(_losses(rows)).unique())
    fits = [name for name in known if name == part] or [name for name in known if part in name]
    if not fits:
        quoted = ", ".join(f"--world {name!r}" for name in known)
        raise ValueError(f"0 worlds fit {part!r}; the rows hold {quoted}")
    return fits


def _losses(rows: pd.DataFrame) -> pd.DataFrame:
    losses = rows[rows["metric"] == "heldout_loss"]
    if "stratum" in losses:
        losses = losses[losses["stratum"].isna()]
    if losses.empty:
        raise ValueError("the rows hold no heldout_loss; give the rows of depth_grid or extrapolation")
    return losses


def _world_names(losses: pd.DataFrame) -> pd.Series:
    return losses["task"] + " " + losses["world" if "world" in losses else "dataset"]


def quality(rows: pd.DataFrame, world: str = "") -> pd.DataFrame:
    """Held-out loss of every network and exit of one world: CANDIDATE, run_id (of its first seed) and `loss`.

    world: "task dataset" of the rows, or a part of it that fits one. Losses that are not finite in every seed are left
    out. Raises ValueError for rows without losses, and for a world that is not there or not the only one.
    """
    losses = _losses(rows)
    fits = worlds(rows, world)
    if len(fits) != 1:
        problem = f"{len(fits)} worlds fit {world!r}" if world else f"the rows hold {len(fits)} worlds"
        quoted = ", ".join(f"--world {name!r}" for name in fits)
        raise ValueError(f"{problem}, and a loss is comparable within one alone; choose one: {quoted}")
    names = _world_names(losses)
    lines = []
    for key, its in losses[names == fits[0]].groupby(CANDIDATE):
        try:
            loss = paired_interval(its.groupby("seed")["value"].mean().to_numpy(float))
        except NonFiniteError:
            continue
        lines.append({**dict(zip(CANDIDATE, key, strict=True)), "run_id": its["run_id"].iloc[0], "loss": loss})
    return pd.DataFrame(lines, columns=[*CANDIDATE, "run_id", "loss"])


def planned_runs(path: Path, rows: pd.DataFrame) -> dict[str, Run]:
    """The runs behind the rows by run_id, from the provenance beside them or from the packaged preset they name.

    Raises ValueError where neither knows a run of the rows.
    """
    study, name = str(rows["study"].iloc[0]), str(rows["preset"].iloc[0])
    presets = []
    beside = path.with_name("provenance.json")
    if beside.exists():
        commands = json.loads(beside.read_text(encoding="utf-8"))["commands"]
        presets = [preset_from_dict(values) for command in commands for values in command["presets"]]
    if name in preset_names(study):
        presets.append(load_preset(study, name))
    runs = {job.run_id: job.run for preset in presets for job in studies.create(study).plan(preset)}
    unknown = sorted(set(rows["run_id"]) - set(runs))
    if unknown:
        raise ValueError(
            f"the networks of {len(unknown)} runs of {path} are not known, for example {unknown[0]}: neither "
            f"{beside.name} beside it nor a packaged preset {name!r} of {study} plans them"
        )
    return runs


def measured_seconds(
    bodies: Mapping[tuple[Any, ...], Body], backend: str, device: str, threads: int, rounds: int = 5
) -> dict[tuple[Any, ...], float]:
    """Median seconds of one call of each body on this device, in bursts that take turns.

    Equal bodies (of trainers whose networks differ in their weights alone) are timed once. At most HELD networks are in
    memory at a time, put together at random, so that a slower spell of the machine falls on no kind of network.
    """
    made, rng = speed.registry.get(backend)(device, threads), np.random.default_rng(0)
    different = list(dict.fromkeys(bodies.values()))
    order = rng.permutation(len(different))
    found: dict[Body, float] = {}
    for start in range(0, len(order), HELD):
        calls = {str(number): made.call(different[number]) for number in order[start : start + HELD]}
        bursts = stopwatch.race(calls, made.wait, rng, rounds=rounds, burst_seconds=0.02)
        found |= {different[int(name)]: seconds for name, seconds in stopwatch.seconds_per_call(bursts).items()}
    return {key: found[body] for key, body in bodies.items()}


def body(run: Run, loops: int, batch: int, precision: str, mode: str) -> Body | None:
    """What a run's network is asked at one exit; None where its call is not of one length (equilibrium depth)."""
    made = parts(run)
    depth = made.trainer.depth
    if depth not in DEPTHS:
        return None
    return Body(run.architecture, depth, made.dataset.spec, made.task.timed, loops, batch, precision, mode)


def candidates(
    path: Path,
    world: str,
    *,
    backend: str = "torch",
    device: str = "cpu",
    threads: int = 1,
    batch: int = 1,
    calls: int = 1,
    precision: str = "fp32",
    mode: str = "eager",
) -> list[Candidate]:
    """Every network and exit of one world of the rows at `path`, timed on this device.

    path: the rows, or the folder that holds them. calls: network calls of a sample, of which its seconds are made.
    Raises ValueError as `quality`, `planned_runs` and the backend do, for batch, calls or threads below 1, and for more
    threads than there are processors.
    """
    for name, value in (("batch", batch), ("calls", calls), ("threads", threads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, given {value}")
    if device == "cpu" and threads > (there := processors()):
        raise ValueError(f"threads must be at most {there}, the processors of this machine, given {threads}")
    path = path / "rows.parquet" if path.is_dir() else path
    rows = results.load_rows(path)
    table = quality(rows, world)
    runs = planned_runs(path, rows[rows["run_id"].isin(table["run_id"])])
    bodies: dict[tuple[Any, ...], Body] = {}
    losses: dict[tuple[Any, ...], Any] = {}
    for line in table.itertuples(index=False):
        key = tuple(getattr(line, name) for name in CANDIDATE[:2])
        key += tuple(int(getattr(line, name)) for name in CANDIDATE[2:])
        asked = body(runs[str(line.run_id)], int(line.loops), batch, precision, mode)  # type: ignore[arg-type]
        if asked is not None:
            bodies[key], losses[key] = asked, line.loss
    seconds = measured_seconds(bodies, backend, device, threads) if bodies else {}
    return [
        Candidate(**dict(zip(CANDIDATE, key, strict=True)), loss=losses[key], seconds=calls * taken)
        for key, taken in seconds.items()
    ]


def answer(choice: Choice, latency: float) -> list[str]:
    """The recommendation in plain words."""
    limit = f"{latency * 1e3:g} ms"
    if choice.best is None:
        fastest = choice.fastest
        return [f"nothing fits {limit}: the fastest, {fastest.name}, takes {fastest.seconds * 1e3:.3g} ms"]
    said = [f"deploy {described(choice.best)}"]
    if choice.runner_up is None:
        return [*said, f"nothing else fits {limit}"]
    apart = "" if choice.told_apart else "; the intervals of the two overlap"
    return [*said, f"runner-up: {described(choice.runner_up)}{apart}"]


def described(candidate: Candidate) -> str:
    """One candidate with its loss, interval and time."""
    loss = candidate.loss
    seeds = f"{loss.n} seeds" if loss.n > 1 else "one seed, no interval"
    interval = f" [{loss.low:.4g}, {loss.high:.4g}]" if loss.n > 1 else ""
    return f"{candidate.name}: loss {loss.estimate:.4g}{interval} over {seeds}, {candidate.seconds * 1e3:.3g} ms"


def table(candidates: Sequence[Candidate], latency: float) -> Table:
    """All candidates by loss, what does not fit in grey."""
    numbers = "width", "loss", "ms"
    shown = tables.terminal(("network", *numbers), numbers=numbers)
    for each in sorted(candidates, key=lambda it: it.loss.estimate):
        style = "" if each.seconds <= latency else "dim"
        cells = (each.name, str(each.width), f"{each.loss.estimate:.4g}", f"{each.seconds * 1e3:.3g}")
        shown.add_row(*cells, style=style)
    return shown


def in_short(choice: Choice) -> dict[str, Any]:
    """The JSON line that ends the command's output."""

    def plain(each: Candidate | None) -> dict[str, Any] | None:
        if each is None:
            return None
        values = each._asdict()
        loss = values.pop("loss")
        bounds = {name: float(getattr(loss, name)) if loss.n > 1 else None for name in ("low", "high")}
        return {**values, "loss": loss.estimate, **bounds, "seeds": loss.n}

    return {name: plain(getattr(choice, name)) for name in ("best", "runner_up", "fastest")}
