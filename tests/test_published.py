"""What is published under results/ follows from its own rows, and relay's theorem holds in every one of them."""

import json
import math
from pathlib import Path

import pytest

import eltbench
from eltbench import studies
from eltbench.evidence import verdicts
from eltbench.evidence.report import published
from eltbench.studies import deciding
from eltbench.studies.presets import load_preset

RESULTS = Path(__file__).parents[1] / "results"
TRAINED = ("extrapolation", "depth_grid", "convergence", "disagreement")
FOLDERS = [folder for folder in published.folders(RESULTS) if folder.parent.name in TRAINED]
RELAY_HELDOUT, COLOURS = 512, 4


@pytest.fixture(params=FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def folder(request):
    return request.param


@pytest.mark.slow
def test_the_verdicts_are_those_of_the_rows(folder):
    decisions = deciding.decide_published(folder)
    content = verdicts.content(folder.parent.name, folder.name, decisions)
    assert (folder / "claims.json").read_text() == json.dumps(content, indent=1, allow_nan=False) + "\n"


@pytest.mark.slow
def test_every_run_of_the_preset_is_there_from_a_clean_commit_with_its_command(folder):
    rows = eltbench.load_rows(folder)
    study = studies.create(folder.parent.name)
    planned = study.plan(load_preset(study.name, folder.name))
    assert set(rows["run_id"]) == {job.run_id for job in planned}
    assert set(rows["measurement"]) == {job.digest for job in planned}
    assert rows["seed"].nunique() >= 5
    assert not rows["git_dirty"].any()
    commands = json.loads((folder / "provenance.json").read_text())["commands"]
    assert {run for command in commands for run in command["runs"]["done"]} == set(rows["run_id"])
    assert all(command["wall_seconds"] > 0 and not command["git_dirty"] for command in commands)
    assert all(command["command"].startswith("python") and "/" not in command["command"] for command in commands)


def test_no_network_on_relay_knows_what_it_cannot_know():
    rows = eltbench.load_rows(RESULTS / "extrapolation" / "relay")
    accuracy = rows[rows["metric"] == "token_accuracy"]
    distance = accuracy["stratum"].str.removeprefix("distance ").astype(int)
    beyond = accuracy[distance > accuracy["effective_depth"]]  # the preset's attention radius is one
    chance, deviation = 1 / COLOURS, math.sqrt((1 - 1 / COLOURS) / COLOURS / RELAY_HELDOUT)
    assert len(beyond) > 500
    assert (beyond["value"] - chance).abs().max() < 5 * deviation
    within = accuracy[(distance <= accuracy["effective_depth"]) & (distance <= 4) & (accuracy["loops"] <= 4)]
    assert within["value"].min() > 0.99  # and what can be known is known, so the staircase is no accident


@pytest.mark.parametrize(
    "folder", [path for path in FOLDERS if path.parent.name == "disagreement"], ids=lambda it: it.name
)
def test_loops_are_saved_of_those_that_were_trained_for(folder):
    rows = eltbench.load_rows(folder)
    guaranteed = rows[rows["guarantee"].notna()]
    assert len(guaranteed) > 100
    assert (guaranteed["loops"] == guaranteed["max_loops"]).all()
    saved = guaranteed[guaranteed["metric"] == "loops_saved"]
    assert (saved["value"] <= 1 - 1 / saved["max_loops"] + 1e-9).all()
