"""From the rows of a study to its verdicts: when they are published, and whenever they are read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from eltbench import studies
from eltbench.core.atomic import replacing, write_json, write_text
from eltbench.evidence import claims, publishing, results, verdicts
from eltbench.evidence.claims import Decision
from eltbench.evidence.report.published import MODEL, Published
from eltbench.evidence.schema import checked
from eltbench.studies import learned
from eltbench.studies.base import Study
from eltbench.studies.presets import Preset, presets_of

LEVEL = 0.95
MOST_ROWS = 500_000  # that are decided anew when a folder is read: a quarter of a minute, less than a GiB in all


def decide_all(study: Study, rows: pd.DataFrame, *, presets: Sequence[Preset] | None, smoke: bool) -> list[Decision]:
    """One decision per claim of the study, intervals widened over all of its family, decided or not.

    A family of which these rows measure nothing is left out, but for the nameless one.

    presets: those that the rows were made by, so that models which have not learned get no verdict (`studies.learned`);
    None where nothing is known of them, as of effects that are made up.
    """
    evidence = study.evidence(rows)
    if presets is not None and study.trained:
        evidence = learned.withheld(study, rows, presets, evidence)
    families, found = Counter(claim.family for claim in study.claims), []
    measured = {"", *(claim.family for claim in study.claims if evidence.get(claim.id))}
    for claim in (claim for claim in study.claims if claim.family in measured):
        comparisons = families[claim.family]
        if claim.undecidable:
            found.append(Decision(claim, "inconclusive", claim.undecidable, LEVEL, comparisons, ()))
            continue
        cells = evidence.get(claim.id, {})
        decision = claims.decide(claim, cells, comparisons=comparisons, level=LEVEL, preset_is_smoke=smoke)
        absent = "" if decision.cells else study.why_nothing(rows, claim)
        found.append(replace(decision, reason=absent or decision.reason))
    return found


def decide_published(folder: Path) -> list[Decision]:
    """The decisions that the rows and commands of a results folder lead to, whatever its claims.json says.

    Raises ValueError where its rows or provenance.json cannot be read.
    """
    rows, commands = results.load_rows(folder / "rows.parquet"), publishing.read_commands(folder / "provenance.json")
    return _decided(studies.create(rows["study"].iloc[0]), rows, commands)


def _decided(study: Study, rows: pd.DataFrame, commands: Sequence[dict[str, Any]]) -> list[Decision]:
    """smoke: whether the last command's preset was one that judges nothing."""
    smoke = any(preset.get("smoke") is True for command in commands[-1:] for preset in command["presets"][:1])
    return decide_all(study, rows, presets=presets_of(commands), smoke=smoke)


def publish(
    folder: Path, study: Study, preset: str, rows: pd.DataFrame, commands: list[dict[str, Any]], *, smoke: bool
) -> list[Decision]:
    """Decide a study's claims, and write rows, summary, figure, claims and provenance, each file whole.

    All that is derived from the rows is made before they replace the published ones, and the provenance holds their
    checksum, so that files of two states are noticed.
    """
    from eltbench.evidence import figures

    decisions = decide_all(study, rows, presets=presets_of(commands), smoke=smoke)
    with replacing(folder / "rows.parquet") as temporary:
        results.write_rows(temporary, rows, study.schema())
        with replacing(folder / "summary.csv") as summary:
            study.summarise(rows).to_csv(summary, index=False, float_format="%.6g")
        with figures.plain():
            figures.save(study.figure(rows), folder / "figure")
        content = _content(study, preset, decisions, rows)
        write_text(folder / "claims.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
        *earlier, last = ({key: it for key, it in each.items() if key != results.CHECKSUM} for each in commands)
        made = [*earlier, {**last, results.CHECKSUM: results.checksum(temporary)}]
        write_json(folder / "provenance.json", {"commands": made}, indent=1)
    return decisions


def _content(study: Study, preset: str, decisions: Sequence[Decision], rows: pd.DataFrame) -> dict[str, Any]:
    return {**verdicts.content(study.name, preset, decisions, study.covers), **study.told(rows)}


@dataclass(frozen=True)
class Retold:
    """A folder of results as its rows have it, and a note on every file that has it otherwise."""

    content: dict[str, Any]  # of claims.json
    rows: pd.DataFrame  # all columns, or those of `models` where they are too many
    notes: tuple[str, ...]
    summary: pd.DataFrame | None = None  # of a study without claims, whose verdicts stand there


def retell(
    folder: Path, commands: Sequence[dict[str, Any]], models: Sequence[str] = (), most: float = MOST_ROWS
) -> Retold:
    """Read a folder and decide its claims anew where its study is known here.

    commands: of its provenance.json. models: the columns that are read of more rows than `most`, which are not decided
    anew. Raises ValueError for rows and claims that cannot be read or decided.
    """
    path = folder / "rows.parquet"
    notes = list(filter(None, [results.of_two_states(path)]))
    found = publishing.read_json(folder / "claims.json")
    if not isinstance(found, dict) or not isinstance(found.get("claims"), dict):
        raise ValueError(f"{folder / 'claims.json'} cannot be read: it holds no claims")
    if (count := results.count(path)) > most:
        kept = "verdicts are those of claims.json"
        notes.append(f"its {count} rows were not decided anew, since they are more than {most}: {kept}")
        return Retold(found, results.read_columns(path, models), tuple(notes))
    table = results.read_published(path)  # read once: it is the greatest part of what a report holds
    names, presets = (sorted(table[name].unique().to_pylist()) for name in ("study", "preset"))
    if len(names) != 1:
        raise ValueError(f"{path} holds rows of the studies {names}: keep them apart")
    if names[0] not in studies.names():
        notes.append(f"study {names[0]!r} is not registered here: verdicts are those of claims.json, not decided anew")
        return Retold(found, table.to_pandas(), tuple(notes))
    study = studies.create(names[0])
    name = presets[0] if len(presets) == 1 else str(found.get("preset"))
    try:
        checked(table, study.columns)
        rows = results.slim(table)
        del table
        decisions = _decided(study, rows, commands) if study.claims else []
        content = json.loads(json.dumps(_content(study, name, decisions, rows)))
    except Exception as error:  # rows may fit the schema and yet be of no models that the study can compare
        raise ValueError(f"{path} gives no verdicts: {type(error).__name__}: {error}") from error
    if content != found:
        notes.append("claims.json does not follow from the rows; what is shown was decided from the rows anew")
    return Retold(content, rows, tuple(notes), None if study.claims else study.summarise(rows))


def read_folder(folder: Path) -> Published:
    """The results in a folder, its verdicts decided anew; raises ValueError naming what is missing, damaged or odd."""
    commands = publishing.read_commands(folder / "provenance.json")
    told = retell(folder, commands, (*MODEL, "study", "preset"))
    models = told.rows[[name for name in MODEL if name in told.rows]]
    models = models.dropna(subset="run_id").drop_duplicates(ignore_index=True)
    try:
        about = told.content["study"], told.content["preset"], told.content["claims"], commands
        summary = pd.read_csv(folder / "summary.csv") if told.summary is None else told.summary
        return Published(folder, *about, summary, models, len(told.rows), told.content, told.notes)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} cannot be read: {type(error).__name__}: {error}") from None
