"""The command line of every study: plan, check, sweep, collect, decide, write, print."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TextIO

import pandas as pd
import tyro

from eltbench import backends, studies
from eltbench.cli import budget, command_line
from eltbench.cli.ending import Ending, Finished
from eltbench.core import durations, terminal
from eltbench.core.atomic import check_writable
from eltbench.core.machine import processors
from eltbench.core.provenance import provenance
from eltbench.core.registry import allow_named, without_allowed
from eltbench.core.validation import check_name
from eltbench.evaluation.quality import pictures
from eltbench.evidence import claims, results, verdicts
from eltbench.evidence.publishing import lock, read_commands
from eltbench.execution import executors, torchrun
from eltbench.execution.collect import collect
from eltbench.execution.estimate import estimate
from eltbench.execution.progress import Reporter
from eltbench.execution.store import RunStore, set_aside
from eltbench.execution.sweep import Durations, Outcome, grouped, sweep, with_companions
from eltbench.execution.sweep import plan as plan_sweep
from eltbench.studies import recipes
from eltbench.studies.base import Study
from eltbench.studies.deciding import decide_all, publish
from eltbench.studies.presets import MOST_SEEDS, Preset, load_preset, presets_of
from eltbench.studies.untrained import Output, Prepared, UnmeasuredError, Untrained
from eltbench.training.job import Job
from eltbench.training.loop import check_vectorised
from eltbench.training.model import runs_root

FAILED = 1


@dataclass(frozen=True)
class StudyCommand(Output):
    """Train what is missing, measure it, decide the study's claims and write rows, summary, figure and provenance."""

    preset: str = "quick"
    """a packaged preset, or FILE.toml:NAME"""
    tasks: tuple[str, ...] = ()
    """only these tasks"""
    dataset: str = ""
    """this dataset in place of the preset's, in the first of its worlds whose task can learn it"""
    option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """an option of that dataset, such as dataset.path=puzzles.csv; give it again for each further one"""
    trainers: tuple[str, ...] = ()
    """only these trainers; +name adds a trainer that the preset does not have"""
    seeds: tuple[str, ...] = ()
    """these seeds: 0 1 2, or 0:5"""
    backend: str = ""
    """the preset's, or another: torch, jax"""
    device: str = ""
    """the preset's, or another: cpu, cuda"""
    devices: int = 0
    """the preset's, or another number of devices among which every batch is divided"""
    workers: int = 0
    """processes at a time; 0 means as many as the processors serve; a dask cluster has its own number"""
    engine: Literal["local", "dask"] = "local"
    """where the runs are made: on this machine, or on a dask cluster, which shares the run cache with it"""
    scheduler: str = ""
    """of engine dask: an address such as tcp://HOST:8786, or a TOML file that describes a cluster of dask-jobqueue"""
    vectorise_seeds: bool = False
    """train the seeds of one configuration together, as one program; the backend must be able to (jax)"""
    runs: Path | None = None
    """where trained runs are kept (default: $ELTBENCH_RUNS, else the user's cache folder)"""
    results: Path = Path("results")
    """where the study's folder is written"""
    dry_run: bool = False
    """list the runs, which are cached, and the estimated time; train nothing"""
    budget: str | None = None
    """make only what fits into this time (2h, 90m, 1h30m, 3600s), and say what is left out; cached runs take none"""
    force: bool = False
    """replace published rows that this command would otherwise refuse to remove"""


def main(study: str, arguments: Sequence[str] | None = None, called: str = "") -> int:
    """Run a study's command line; returns the exit code: 0, 1 when a run failed, else that of `terminal.answer`.

    called: the command's name in its help, where that is not `study NAME`.
    """

    def act() -> int:
        given = without_allowed(sys.argv[1:] if arguments is None else arguments, adding="--trainers")
        found = studies.create(study)
        kind: type[Any] = found.options if isinstance(found, Untrained) else StudyCommand
        options = command_line.read(kind, f"eltbench {called or f'study {study}'}", given, kind.__doc__)
        return execute_untrained(found, options) if isinstance(found, Untrained) else execute(study, options)

    return terminal.answer(act)


def execute_untrained(study: Untrained, options: Any) -> int:
    """Run a study that trains nothing: its rows are made at once, and replace earlier ones only with --force."""
    started = time.monotonic()
    asked = study.prepared(options)
    if asked.listing is not None:
        _say(asked.listing, to=sys.stdout)
        return 0
    folder = options.results / study.name / asked.folder
    try:
        found = finish_untrained(study, asked, folder, started)
    except UnmeasuredError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    Ending(study, asked.name, folder, found, study.said(found.rows), study.tables(found.rows)).tell(options)
    return FAILED if found.failures else 0


def finish_untrained(study: Untrained, asked: Prepared, folder: Path | None, started: float) -> Finished:
    """Make the rows, decide, and publish into the folder if there is one."""
    if folder is not None:
        check_writable(folder)
        if (folder / "rows.parquet").exists() and not asked.replaces:
            raise ValueError(
                f"{folder} holds an earlier run; repeat with --force to replace it, or choose another --results"
            )
    made = asked.make()
    rows = study.stamped(asked.name, made.rows)
    if folder is None:
        decisions = decide_all(study, rows, presets=None, smoke=asked.smoke)
        return Finished(rows, decisions, study.remarks(rows), made.failures)
    for name, table in made.tables.items():
        results.write_table(folder / f"{name}.parquet", table)
    seconds = round(time.monotonic() - started, 1)
    entry = {**provenance(), "wall_seconds": seconds, "presets": list(asked.presets), "runs": dict(made.runs)}
    with lock(folder):
        decisions = publish(folder, study, asked.name, rows, [entry], smoke=asked.smoke)
    return Finished(rows, decisions, study.remarks(rows), made.failures)


@dataclass(frozen=True)
class Planned:
    """What a command is to do: checked, and nothing of it begun."""

    command: StudyCommand
    study: Study
    presets: list[Preset]
    jobs: list[Job]
    warnings: dict[str, list[str]]  # as they are told beside the rows and in the last line, if there are any
    store: RunStore
    folder: Path | None  # none: nothing is published
    workers: int
    choice: budget.Choice | None = None


def execute(study_name: str, command: StudyCommand) -> int:
    """Run a study of trained models; a ValueError is a message for the user."""
    started = time.monotonic()
    planned = plan(study_name, command, command.results)
    if command.dry_run:
        return 0
    found, outcome = finish(planned, started)
    said = {**planned.warnings, **{f"runs_{how}": len(runs) for how, runs in asdict(outcome).items()}}
    assert planned.folder is not None
    Ending(planned.study, planned.presets[0].name, planned.folder, found, said).tell(command)
    return FAILED if outcome.failed else 0


def plan(study_name: str, command: StudyCommand, into: Path | None) -> Planned:
    """Plan and warn; raises ValueError where the command cannot be followed, before anything is begun.

    into: the folder of results in place of the command's; None where nothing is published.
    """
    if torchrun.launched():
        raise ValueError("a study starts its own processes, also for several devices: call it without torchrun")
    limit = durations.seconds("budget", command.budget) if command.budget is not None else None
    planned = _planned(study_name, command, into)
    return _estimated(planned, limit) if command.dry_run or limit is not None else planned


def finish(planned: Planned, started: float, progress: Reporter | None = None) -> tuple[Finished, Outcome]:
    """Make what is planned, decide, and publish it if it has a folder."""
    command = planned.command
    with executors.opened(command.engine, command.scheduler, planned.workers) as executor:
        outcome = sweep(
            planned.jobs, planned.store, progress=progress, vectorise_seeds=command.vectorise_seeds, executor=executor
        )
    rows, decisions = _published(planned, outcome, started)
    remarks = [] if rows.empty else planned.study.remarks(rows)
    if not planned.presets[0].smoke:
        remarks = [*verdicts.withheld(decisions), *remarks]
    failures = [f"run {run_id}: {message}" for run_id, message in outcome.failed.items()]
    return Finished(rows, decisions, remarks, failures), outcome


def _planned(study_name: str, command: StudyCommand, into: Path | None) -> Planned:
    study = studies.create(study_name)
    check_name("study", study.name.replace(":", "-").lstrip("_"))  # module:Class is the name of one that has none
    presets = _presets(study_name, command)
    jobs = [job for preset in presets for job in study.plan(preset)]
    recipes.check_worlds(study, presets)
    doubts = list(dict.fromkeys(doubt for job in jobs if not presets[0].smoke for doubt in job.run.optimisation.doubts))
    open_questions = [f"{claim} will stay open: {why}" for claim, why in study.open_questions(jobs).items()]
    _say([f"warning: {what}" for what in (*doubts, *open_questions)], to=sys.stderr)
    for run in {replace(job.run, seed=0) for job in jobs if command.vectorise_seeds}:
        try:
            check_vectorised(run)
        except ValueError as error:
            raise ValueError(f"--vectorise-seeds: {error}") from None
    if command.scheduler and command.engine != "dask":
        raise ValueError(f"--scheduler belongs to --engine dask, given {command.scheduler!r} with {command.engine!r}")
    store = RunStore(runs_root(command.runs))
    folder = None if into is None else into / study.name / presets[0].name
    if folder is not None and not command.dry_run:
        check_writable(folder)
    published = None if command.force or folder is None else _rows(folder / "rows.parquet", touch=not command.dry_run)
    if published is not None and folder is not None:
        results.refuse_superseded(published, jobs, study.cell)
        recipes.refuse_others(study, published, _commands(folder / "provenance.json", touch=False), presets)
    if command.workers < 0:
        raise ValueError(f"workers: give 1 or more, or 0 for as many as fit, given {command.workers}")
    workers = command.workers or max(1, processors() // (presets[0].threads * presets[0].devices))
    return Planned(command, study, presets, jobs, {"warnings": doubts} if doubts else {}, store, folder, workers)


def _estimated(planned: Planned, limit: float | None) -> Planned:
    """Estimate the time, keep what fits into `limit` seconds, and say what is left out; a dry run lists the rest."""
    store, dry = planned.store, planned.command.dry_run
    to_make = plan_sweep(every := with_companions(planned.jobs, store), store)
    groups = grouped(to_make.missing, store, planned.command.vectorise_seeds)
    expected = estimate(groups, Durations(store, every), planned.workers)
    if limit is not None:
        choice = budget.choose(planned.study, planned.jobs, expected.seconds, limit)
        planned = replace(planned, jobs=choice.jobs, choice=choice)
        _say(choice.told(), to=sys.stdout if dry else sys.stderr)
    if dry:
        _say(budget.listing(with_companions(planned.jobs, store), to_make, expected), to=sys.stdout)
    return planned


def _published(planned: Planned, outcome: Outcome, started: float) -> tuple[pd.DataFrame, Sequence[claims.Decision]]:
    """Write everything that a study leaves behind, if anywhere; gives the rows that are there then, and decisions."""
    study, preset, jobs, store, folder = planned.study, planned.presets[0], planned.jobs, planned.store, planned.folder
    new, force = collect(jobs, store, study.name, preset.name, study.columns), planned.command.force
    if folder is None:
        presets = presets_of([_entry(planned, outcome, started)])
        return new, [] if new.empty else decide_all(study, new, presets=presets, smoke=preset.smoke)
    with lock(folder):  # another command may have published here in the meantime
        published = None if force else _rows(folder / "rows.parquet", touch=True)
        earlier = [] if force else _commands(folder / "provenance.json", touch=True)
        if published is not None:
            recipes.refuse_others(study, published, earlier, planned.presets)
        rows = results.merge_published(published, new, jobs, study.cell, force)
        if rows.empty:
            print("error: no run left any rows", file=sys.stderr)
            return rows, []
        commands = still_told([*earlier, _entry(planned, outcome, started)], set(rows["run_id"]))
        decisions = publish(folder, study, preset.name, rows, commands, smoke=preset.smoke)
        if study.sample_pictures and not preset.smoke:
            there = [job for job in jobs if store.state(job.run_id) == "done"]
            pictures.write(folder, there, store.root, outcome.done)
    return rows, decisions


def _entry(planned: Planned, outcome: Outcome, started: float) -> dict[str, Any]:
    """What the provenance says of this command."""
    command, choice = planned.command, planned.choice
    records = map(planned.store.record, sorted({job.run_id for job in planned.jobs}))
    return {
        **provenance(),
        "wall_seconds": round(time.monotonic() - started, 1),
        "training_seconds": round(sum(record["seconds"] for record in records if record), 1),
        "engine": command.engine,
        "workers": planned.workers if command.engine == "local" else None,
        "presets": [preset.to_dict() for preset in planned.presets],
        **planned.warnings,
        **({} if choice is None else {"budget": {"asked": command.budget, **choice.lacks()}}),
        "runs": asdict(outcome),
    }


def _presets(study: str, command: StudyCommand) -> list[Preset]:
    """The preset as narrowed by the command line, once for every backend asked for."""
    for option in ("tasks", "trainers", "seeds"):
        if (given := getattr(command, option)) and not _split(given):
            raise ValueError(f"--{option}: give at least one, or leave the option out; given {' '.join(given)!r}")
    seeds = tuple(dict.fromkeys(seed for text in _split(command.seeds) for seed in _seeds(text)))
    preset = load_preset(study, command.preset)
    allow_named([command.dataset, *(name.removeprefix("+") for name in _split(command.trainers))])
    preset = preset.narrowed(_split(command.tasks), _split(command.trainers), seeds)
    if command.dataset or command.option:
        preset = preset.of_dataset(command.dataset, _dataset_options(command.option))
    preset = replace(preset, device=command.device or preset.device, devices=command.devices or preset.devices)
    asked = _split((command.backend or preset.backend,))
    if not asked:
        raise ValueError(f"--backend: name one of {', '.join(backends.names())}, given {command.backend!r}")
    for backend in asked:
        backends.registry.check(backend)
        if command.engine == "local" and (preset.device != "cpu" or preset.devices > 1):
            backends.get(backend).check_device(preset.device, preset.devices)
    return [replace(preset, backend=backend) for backend in asked]


def _dataset_options(given: Sequence[str]) -> dict[str, Any]:
    read = command_line.options(given)
    found: dict[str, Any] = read.pop("dataset_options")
    if any(read.values()):
        raise ValueError(f"--option: a study takes options of its --dataset alone, given {' '.join(given)}")
    return found


def _split(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for text in given for part in text.split(",") if part)


def _seeds(text: str) -> range:
    first, colon, end = text.partition(":")
    try:
        seeds = range(int(first), int(end) if colon else int(first) + 1)
    except ValueError:
        seeds = range(0)
    if seeds and seeds[-1] - seeds[0] >= MOST_SEEDS:
        raise ValueError(f"seeds: give at most {MOST_SEEDS:,}, given {text!r}")
    if not seeds or seeds[0] < 0:
        raise ValueError(f"seeds: give numbers or a range such as 0:5, given {text!r}")
    return seeds


def _rows(path: Path, *, touch: bool) -> pd.DataFrame | None:
    """The rows that are there; a damaged file is set aside if it may be touched."""
    if not path.exists():
        return None
    try:
        return results.read_published(path).to_pandas()
    except results.DamagedError as error:
        print(f"warning: {set_aside(path, str(error)) if touch else error}", file=sys.stderr)
        return None


def _commands(path: Path, *, touch: bool) -> list[dict[str, Any]]:
    """The commands that published here before; a damaged file is set aside if it may be touched."""
    if not path.exists():
        return []
    try:
        return read_commands(path)
    except ValueError as error:
        if touch:
            print(f"warning: {set_aside(path, str(error))}", file=sys.stderr)
        return []


def still_told(commands: Sequence[dict[str, Any]], published: set[str]) -> list[dict[str, Any]]:
    """The commands that made runs, the last one, and those that published runs which no later command lists."""
    kept, told = [], set(commands[-1]["runs"]["done"])
    for entry in reversed(commands):
        runs = entry["runs"]
        if entry is commands[-1] or runs["done"] or published & set(runs["cached"]) - told:
            kept.append(entry)
            told |= {*runs["done"], *runs["cached"]}
    return kept[::-1]


def _say(lines: Sequence[str], to: TextIO) -> None:
    if lines:
        print(*lines, sep="\n", file=to, flush=True)
