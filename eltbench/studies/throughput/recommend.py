"""Which (N, L) to deploy on this device: quality from the rows of a study, speed measured here and now.

Every network of the rows is built again with random weights and called as it would be deployed, at every exit whose
held-out loss the rows hold; the best loss within the latency wins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table

from eltbench import studies
from eltbench.backends import speed
from eltbench.backends.speed import Body
from eltbench.core import tables
from eltbench.core.config import Run
from eltbench.core.machine import processors
from eltbench.evaluation.speed import stopwatch
from eltbench.evidence import publishing
from eltbench.evidence.intervals import Interval, log_ratio, pair_by_seed, paired_interval, percent
from eltbench.studies.presets import load_preset, preset_names, presets_of
from eltbench.studies.throughput.cells import counted
from eltbench.training.loop import parts

CANDIDATE = ["trainer", "role", "unique_layers", "max_loops", "width", "loops"]
HELD = 8  # networks in memory at a time
NOISY = 0.1  # quartile distance over median of its bursts above which a network is timed again
REPEATS = 3  # of a noisy timing, at the most
DEPTHS = ("looped", "unique", "universal")  # whose call is as long for every input


class Timing(NamedTuple):
    """Median seconds of one call, and whether its bursts scattered to the last."""

    seconds: float
    noisy: bool = False


class Candidate(NamedTuple):
    """A trained network read at one exit: where it stands, its losses by seed, and what a sample takes here."""

    trainer: str
    role: str
    unique_layers: int
    max_loops: int
    width: int
    loops: int
    losses: Mapping[int, float]
    seconds: float
    noisy: bool = False

    @property
    def loss(self) -> Interval:
        """The mean over seeds."""
        return paired_interval(list(self.losses.values()))

    @property
    def name(self) -> str:
        """For people: `elt 2N×4L at L = 3`."""
        role = "" if self.role == "main" else f" ({self.role})"
        return f"{self.trainer}{role} {self.unique_layers}N×{self.max_loops}L at L = {self.loops}"

    @property
    def taken(self) -> str:
        """The time of a sample, for people."""
        return f"{self.seconds * 1e3:.3g} ms{', a noisy timing' if self.noisy else ''}"

    def __str__(self) -> str:
        loss = self.loss
        over = f"[{loss.low:.4g}, {loss.high:.4g}] over {loss.n} seeds" if loss.n > 1 else "over one seed, no interval"
        return f"{self.name}: loss {loss.estimate:.4g} {over}, {self.taken}"


class Choice(NamedTuple):
    """The best candidate within the latency and the next best, if any, and the fastest of all."""

    best: Candidate | None
    runner_up: Candidate | None
    fastest: Candidate

    @property
    def difference(self) -> Interval | None:
        """The log-ratio of the runner-up's loss to the best's, paired by seed.

        None without a runner-up, below two seeds that both have, and where a loss is not above zero.
        """
        if self.best is None or self.runner_up is None:
            return None
        pairs = pair_by_seed(pd.Series(self.runner_up.losses), pd.Series(self.best.losses), allow_lone=True)
        if len(pairs.seeds) < 2 or min(*pairs.numerator, *pairs.denominator) <= 0:
            return None
        return paired_interval(log_ratio(pairs.numerator, pairs.denominator))

    @property
    def told_apart(self) -> bool:
        """Whether the interval of the difference lies above zero."""
        return self.difference is not None and self.difference.low > 0


def choose(candidates: Sequence[Candidate], latency: float) -> Choice:
    """The lowest mean loss among those that take `latency` seconds or less; of equals the faster.

    Raises ValueError without a candidate, and for a latency that is not above zero and finite.
    """
    if not 0 < latency < math.inf:
        raise ValueError(f"latency must be above 0 and finite, given {latency * 1e3:g} ms")
    if not candidates:
        raise ValueError("the rows hold no network with a finite held-out loss that can be timed")
    fits = [each for each in candidates if each.seconds <= latency]
    best, runner_up, *_ = [*sorted(fits, key=lambda it: (it.loss.estimate, it.seconds)), None, None]
    return Choice(best, runner_up, min(candidates, key=lambda it: it.seconds))


def worlds(rows: pd.DataFrame, part: str = "") -> list[str]:
    """The worlds of the rows, "task dataset", that are called so, or else those whose names hold the part.

    Raises ValueError for rows without losses, and where no world fits.
    """
    known = sorted(_losses(rows)["called"].unique())
    fits = [name for name in known if name == part] or [name for name in known if part in name]
    if not fits:
        raise ValueError(f"0 worlds fit {part!r}; the rows hold {_options(known)}")
    return fits


def _losses(rows: pd.DataFrame) -> pd.DataFrame:
    """The held-out losses, and by `called` of which world they are."""
    losses = rows[rows["metric"] == "heldout_loss"]
    if "stratum" in losses:
        losses = losses[losses["stratum"].isna()]
    if losses.empty:
        raise ValueError("the rows hold no heldout_loss; give the rows of depth_grid or extrapolation")
    return losses.assign(called=losses["task"] + " " + losses["world" if "world" in losses else "dataset"])


def _options(names: Sequence[str]) -> str:
    return ", ".join(f"--world {name!r}" for name in names)


def quality(rows: pd.DataFrame, world: str = "") -> pd.DataFrame:
    """Held-out loss of every network and exit of one world: CANDIDATE, run_id (of its first seed) and `losses`.

    losses: by seed. world: "task dataset" of the rows, or a part of it that fits one. What is not finite in every seed
    is left out. Raises ValueError for rows without losses, and for a world that is not there or not the only one.
    """
    fits = worlds(rows, world)
    if len(fits) != 1:
        problem = f"the rows hold {len(fits)} worlds, and a loss is comparable within one alone"
        raise ValueError(f"{problem}; choose one: {_options(fits)}")
    losses = _losses(rows)
    lines = []
    for key, its in losses[losses["called"] == fits[0]].groupby(CANDIDATE):
        by_seed = its.groupby("seed")["value"].mean()
        if np.isfinite(by_seed.to_numpy(float)).all():
            lines.append((*key, its["run_id"].iloc[0], by_seed.to_dict()))
    found = pd.DataFrame(lines, columns=[*CANDIDATE, "run_id", "losses"])
    return found.astype(dict.fromkeys(CANDIDATE[2:], int))


def planned_runs(path: Path, rows: pd.DataFrame) -> dict[str, Run]:
    """The runs behind the rows by run_id, from the provenance beside them or from the packaged preset they name.

    Raises ValueError where neither knows a run of the rows.
    """
    study, name = str(rows["study"].iloc[0]), str(rows["preset"].iloc[0])
    beside = path.with_name("provenance.json")
    presets = presets_of(publishing.read_commands(beside)) if beside.exists() else []
    if name in preset_names(study):
        presets.append(load_preset(study, name))
    runs = {job.run_id: job.run for preset in presets for job in studies.create(study).plan(preset)}
    if unknown := sorted(set(rows["run_id"]) - set(runs)):
        raise ValueError(
            f"the networks of {len(unknown)} runs of {path} are not known, for example {unknown[0]}: neither "
            f"{beside.name} beside it nor a packaged preset {name!r} of {study} plans them"
        )
    return runs


def measured_seconds(
    bodies: Mapping[tuple[Any, ...], Body], backend: str, device: str, threads: int, rounds: int = 5
) -> dict[tuple[Any, ...], Timing]:
    """What one call of each body takes on this device, in bursts that take turns.

    Equal bodies (of trainers whose networks differ in their weights alone) are timed once. At most HELD networks are in
    memory at a time, put together at random, so that a slower spell of the machine falls on no kind of network. Those
    whose bursts scatter are timed again when all have had their turn, up to REPEATS times; the last timing counts.
    """
    made, rng = speed.registry.get(backend)(device, threads), np.random.default_rng(0)
    due = list(dict.fromkeys(bodies.values()))
    found: dict[Body, Timing] = {}
    for _ in range(1 + REPEATS):
        due = [due[number] for number in rng.permutation(len(due))]
        for start in range(0, len(due), HELD):
            found |= _raced(due[start : start + HELD], made, rng, rounds)
        due = [body for body in due if found[body].noisy]
    return {key: found[body] for key, body in bodies.items()}


def _raced(group: Sequence[Body], made: speed.Speed, rng: np.random.Generator, rounds: int) -> dict[Body, Timing]:
    calls = {str(number): made.call(body) for number, body in enumerate(group)}
    bursts = stopwatch.race(calls, made.wait, rng, rounds=rounds, burst_seconds=0.02)
    seconds, spreads = stopwatch.seconds_per_call(bursts), stopwatch.spreads(bursts)
    return {body: Timing(seconds[name], spreads[name] > NOISY) for name, body in zip(calls, group, strict=True)}


def candidates(
    path: Path,
    rows: pd.DataFrame,
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
    """Every network and exit of one world of the rows, timed on this device; none whose calls differ in length.

    path: the file of the rows. calls: network calls of a sample, of which its seconds are made.
    Raises ValueError as `quality`, `planned_runs` and the backend do, for batch, calls or threads below 1, and for more
    threads than there are processors.
    """
    for name, value in (("batch", batch), ("calls", calls), ("threads", threads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, given {value}")
    if device == "cpu" and threads > (there := processors()):
        raise ValueError(f"threads must be at most {there}, the processors of this machine, given {threads}")
    table = quality(rows, world)
    runs = planned_runs(path, rows[rows["run_id"].isin(table["run_id"])])
    bodies: dict[tuple[Any, ...], Body] = {}
    losses: dict[tuple[Any, ...], Mapping[int, float]] = {}
    for *key, run_id, by_seed in table.itertuples(index=False, name=None):
        run = runs[run_id]
        network = parts(run).network
        if network.depth in DEPTHS:
            bodies[tuple(key)], losses[tuple(key)] = Body(network, key[-1], batch, precision, mode), by_seed
    timings = measured_seconds(bodies, backend, device, threads) if bodies else {}
    return [
        Candidate(**dict(zip(CANDIDATE, key, strict=True)), losses=losses[key], seconds=calls * seconds, noisy=noisy)
        for key, (seconds, noisy) in timings.items()
    ]


def answer(choice: Choice, latency: float) -> list[str]:
    """The recommendation in plain words."""
    limit = f"{latency * 1e3:g} ms"
    if choice.best is None:
        return [f"nothing fits {limit}: the fastest, {choice.fastest.name}, takes {choice.fastest.taken}"]
    if choice.runner_up is None:
        return [f"deploy {choice.best}", f"nothing else fits {limit}"]
    compared, higher = "paired by seed the two cannot be told apart", choice.difference
    if choice.told_apart and higher is not None:
        mean, low, high = (percent(value) for value in (higher.estimate, higher.low, higher.high))
        compared = f"its loss is {mean:.2f} % higher [{low:.2f}, {high:.2f}], paired by seed"
    return [f"deploy {choice.best}", f"runner-up: {choice.runner_up}; {compared}"]


def conditions(*, backend: str, device: str, threads: int, batch: int, calls: int, precision: str, mode: str) -> str:
    """What was timed, in plain words: the times of the table and of the answer are those of one sample's calls."""
    of_a_sample = f"{counted(calls, 'network call')} a sample (--calls)"
    return f"batch {batch}, {of_a_sample}, {precision}, {mode}, {device}, {counted(threads, 'thread')}, {backend}"


def table(candidates: Sequence[Candidate], latency: float) -> Table:
    """All candidates by loss, what does not fit in grey."""
    numbers = "width", "loss", "ms"
    shown = tables.terminal(("network", *numbers, "timing"), numbers=numbers)
    for each in sorted(candidates, key=lambda it: it.loss.estimate):
        cells = (escape(each.name), str(each.width), f"{each.loss.estimate:.4g}", f"{each.seconds * 1e3:.3g}")
        shown.add_row(*cells, "noisy" if each.noisy else "", style="" if each.seconds <= latency else "dim")
    return shown


def in_short(choice: Choice) -> dict[str, Any]:
    """The JSON line that ends the command's output."""

    def plain(each: Candidate | None) -> dict[str, Any] | None:
        if each is None:
            return None
        values, loss = each._asdict(), each.loss
        del values["losses"]
        bounds = {name: float(getattr(loss, name)) if loss.n > 1 else None for name in ("low", "high")}
        return {**values, "loss": loss.estimate, **bounds, "seeds": loss.n}

    return {name: plain(each) for name, each in choice._asdict().items()}
