"""Cells and presets: what is declared is what is timed, and what cannot be is refused before any process starts."""

from __future__ import annotations

import math

import pytest
from made_up import GROUP

from eltbench import accounting
from eltbench.studies.presets import load_table, preset_names
from eltbench.studies.throughput.cell_groups import preset_from_table
from eltbench.studies.throughput.cells import Cell
from eltbench.studies.throughput.rows import regime


def preset(**table):
    return preset_from_table("made-up", {"groups": [GROUP], **table})


def test_a_group_stands_for_every_combination_of_its_lists():
    group = {**GROUP, "pairs": [[3, 4], [6, 2]], "widths": [64, 128], "heads": 0, "batches": [1, 8], "modes": ["eager"]}
    cells = preset(groups=[group]).cells
    assert len(cells) == len({cell.id for cell in cells}) == 8
    assert {(cell.unique_layers, cell.loops, cell.depth) for cell in cells} == {(3, 4, 12), (6, 2, 12)}
    assert {(cell.width, cell.heads) for cell in cells} == {(64, 1), (128, 2)}


def test_both_networks_of_a_cell_do_the_same_work_with_other_weights():
    cell = Cell("call", 3, 4, 64, 2, block="dit")
    looped, unique = cell.body("looped"), cell.body("unique")
    parts = [accounting.macs_by_part(body.network, body.loops) for body in (looped, unique)]
    assert parts[0].pop("modulation") < parts[1].pop("modulation")  # made once for every layer that there is
    assert parts[0] == parts[1]
    assert 4 * cell.looped_bytes("looped") == cell.looped_bytes("unique")


@pytest.mark.parametrize("name", ["smoke", "cpu", "cpu-scales", "gpu"])
def test_packaged_presets_are_sound(name):
    found = preset_from_table(*load_table("throughput", name))
    assert found.smoke == (name == "smoke")
    assert found.smoke or found.processes >= 5
    assert found.device == ("cuda" if name == "gpu" else "cpu")
    for cell in found.cells:
        assert cell.needed_bytes() > 0
        assert cell.seconds(1, found.device) > 0


def test_the_presets_hold_what_the_study_is_about():
    names = ["smoke", "cpu", "cpu-scales", "gpu"]
    assert preset_names("throughput") == names
    of = {name: preset_from_table(*load_table("throughput", name)).cells for name in names}
    for name in ("cpu-scales", "gpu"):
        cells = of[name]
        scales = {cell.scale: (cell.unique_layers, cell.loops, cell.width) for cell in cells if cell.scale}
        assert scales == {"B": (6, 2, 768), "L": (8, 3, 1024), "XL": (7, 4, 1152), "H": (8, 4, 1280)}
        assert {cell.scale for cell in cells if cell.assumed} == {"B", "H"}
    for cells in (of["cpu"] + of["cpu-scales"], of["gpu"]):
        assert {cell.measure for cell in cells} == {"call", "self", "sampler", "hoisting", "step", "memory", "peers"}
        assert {1, 8} <= {cell.batch for cell in cells}


def test_the_presets_take_minutes_by_their_own_estimate():
    assert preset_from_table(*load_table("throughput", "cpu")).seconds < 10 * 60
    assert preset_from_table(*load_table("throughput", "gpu")).seconds < 9 * 60
    for name in ("cpu", "cpu-scales"):
        preset = preset_from_table(*load_table("throughput", name))
        assert preset.seconds < preset.patience, "an idle machine leaves time to repeat what was noisy"


@pytest.mark.parametrize(("name", "mebibytes"), [("cpu", 32), ("gpu", 40), ("gpu", 50), ("gpu", 126)])
def test_the_presets_straddle_the_last_cache(name, mebibytes):
    cells = [cell for cell in preset_from_table(*load_table("throughput", name)).cells if cell.measure == "call"]
    assert {"fits", "spills", "neither"} <= {regime(cell, mebibytes * 2**20) for cell in cells}


def test_cells_that_differ_in_rounds_alone_are_one():
    with pytest.raises(ValueError, match="names 1 cells twice"):
        preset(groups=[GROUP, {**GROUP, "rounds": 9}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modes": ["fast"]}, "mode must be one of eager, compiled, cuda-graph, scan, unrolled, given 'fast'"),
        ({"tokens": [15]}, "tokens must be a square number, given 15"),
        ({"measure": "hoisting"}, "hoisting moves the modulation of a 'dit' block, given block 'bert'"),
        ({"measure": "step", "modes": ["scan"]}, "step is measured in torch alone, given mode 'scan'"),
        ({"measure": "sampler"}, "a sampler, and nothing else, has sampling_steps, given 0"),
        ({"sampling_steps": 3}, "a sampler, and nothing else, has sampling_steps, given 3"),
        ({"widths": [30]}, "width must be a multiple of 4"),
        ({"heads": 5}, "heads must divide width"),
        ({"pairs": [[3, 0]]}, "loops must be at least 1"),
        ({"rounds": 4}, "rounds must be at least 5, to see noise by, given 4"),
        ({"batches": [0]}, "batch and loops must be at least 1"),
        ({"guidance_scale": 3.0}, "a sampler alone is guided, given guidance_scale 3"),
        (
            {"measure": "sampler", "sampling_steps": 2, "modes": ["cuda-graph"]},
            "sampler does not run in mode 'cuda-graph'",
        ),
        ({"measure": "step", "modes": ["cuda-graph"]}, "step does not run in mode 'cuda-graph'"),
        ({"measure": "memory", "modes": ["compiled"]}, "memory does not run in mode 'compiled'"),
        ({"measure": "peers", "modes": ["compiled"]}, "peers does not run in mode 'compiled'"),
        ({"modes": ["cuda-graph"]}, "mode 'cuda-graph' needs a CUDA device, given 'cpu'"),
        ({"widths": [32, 32]}, "names 1 cells twice"),
        ({"width": 32}, "unknown group field 'width'; did you mean 'widths'?"),
        ({"measure": "speed"}, "measure is given as 'speed'"),
    ],
)
def test_what_cannot_be_timed_is_refused(change, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        preset(groups=[{**GROUP, **change}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"processes": 0}, "processes must be at least 1, given 0"),
        ({"calls": 9}, "calls must be at least 10, given 9"),
        ({"spread": 0.0}, "spread must be finite and above 0"),
        ({"limit_seconds": 0.0}, "limit_seconds must be finite and above 0, given 0.0"),
        ({"largest_set": -1}, "largest_set must be finite and not below 0, given -1"),
        ({"patience": math.inf}, "patience must be finite and above 0, given inf"),
        ({"spread": math.nan}, "spread must be finite and above 0, given nan"),
        ({"groups": []}, "has no cells"),
        ({"groups": "all"}, "groups must be a list of tables"),
        ({"threds": 2}, "unknown preset field 'threds'; did you mean 'threads'"),
    ],
)
def test_a_preset_that_says_nonsense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        preset(**change)


def test_only_digits_are_trained_on():
    with pytest.raises(ValueError, match="step trains on digits of 16 or 64 tokens, given 256"):
        Cell("step", 2, 4, 64, 4, tokens=256)
    assert Cell("step", 2, 4, 64, 4, tokens=64).run("elt", "cpu", 1).architecture.patch == 1
    assert Cell("step", 2, 4, 64, 4).run("unique-depth", "cpu", 1).architecture.unique_layers == 8
