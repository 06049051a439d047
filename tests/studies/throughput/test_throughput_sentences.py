"""Sentences and figure: where looping pays, the control, the loops' share; what is noisy is left out and said so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_up import CACHE, GROUP, GROUPS, STUDY, rows_of, wobble

from eltbench.studies.throughput import sentences
from eltbench.studies.throughput.cell_groups import preset_from_table


@pytest.fixture(scope="module")
def measured():
    return rows_of(preset_from_table("made-up", {"groups": GROUPS}), ratio=lambda cell, process: 2.0 + 0.01 * process)


def test_every_crossing_is_found_and_whether_the_ratio_falls_there():
    def at(sizes, ratios):
        return sentences.crossings(np.array(sizes), np.array(ratios))

    (one,) = at([1e6, 4e6, 16e6], [1.6, 1.3, 0.9])
    assert one == (pytest.approx(8e6), True, 4e6, 16e6)  # 1.1 is half way from 1.3 to 0.9, on a logarithmic scale
    assert at([1.0, 2.0], [1.5, 1.2]) == at([1.0, 2.0], [1.0, 1.05]) == at([1.0], [1.5]) == []
    assert [each.falls for each in at([1.0, 2.0], [1.0, 1.5])] == [False]
    assert [each.falls for each in at([1.0, 2.0, 4.0, 8.0], [1.5, 1.0, 1.5, 1.0])] == [True, False, True]
    assert at([2.0, 2.0], [1.5, 1.0]) == [(2.0, True, 2.0, 2.0)]  # two cells of one block size


def where_it_pays(ratio, pairs=((1, 12), (3, 4), (6, 2)), **group):
    group = {**GROUP, "widths": [64], "pairs": [list(pair) for pair in pairs], **group}
    preset = preset_from_table("made-up", {"groups": [group]})
    return STUDY.remarks(rows_of(preset, ratio=lambda cell, process: ratio[cell.unique_layers])[0]), preset.cells


def test_the_sentence_names_the_machine_s_crossing():
    (said,), cells = where_it_pays({1: 1.9, 3: 1.3, 6: 0.9})
    sizes = [cells[place].looped_bytes("looped") for place in (1, 2)]
    assert f"below about {math.sqrt(sizes[0] * sizes[1]) / 2**20:.3g} MiB of block weights" in said
    assert f"between the {sizes[0] / 2**20:.3g} MiB and {sizes[1] / 2**20:.3g} MiB measured" in said
    assert "for 12 layers of width 64 at batch 1 with 16 tokens (bert, fp32, torch eager)" in said
    assert f"1.90× at {cells[0].looped_bytes('looped') / 2**20:.3g} MiB, 1.30× at" in said


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ({1: 1.5, 3: 1.5, 6: 1.5}, "pays (by more than 10 %) at every block measured for"),
        ({1: 1.0, 3: 1.0, 6: 1.0}, "does not pay (by more than 10 %) at any block measured for"),
        ({1: 1.0, 3: 1.5, 6: 1.5}, "pays (by more than 10 %) above about 0."),
        (
            {1: 1.5, 3: 1.0, 6: 1.5},
            "pays (by more than 10 %) at some blocks and not at others, with no one bound: the ratio crosses 1.10",
        ),
    ],
)
def test_ratios_that_do_not_fall_once_are_said_to_be_so(ratio, words):
    (said,), _ = where_it_pays(ratio)
    assert f"looping {words}" in said


@pytest.mark.parametrize(("ratio", "words"), [(1.5, "pays"), (1.0, "does not pay")])
def test_of_one_block_no_bound_is_said(ratio, words):
    (said,), _ = where_it_pays({1: ratio}, [(1, 12)])
    assert said.startswith(f"looping {words} (by more than 10 %) at the one block measured for 12 layers of width 64")


def test_unlike_blocks_have_sentences_of_their_own():
    ratio = {1: 1.5}
    both = [where_it_pays(ratio, [(1, 12)], block=block)[0] for block in ("bert", "dit")]
    assert ["(bert, fp32" in both[0][0], "(dit, fp32" in both[1][0]] == [True, True]
    groups = [{**GROUP, "widths": [64], "pairs": [[1, 12]], "block": block} for block in ("bert", "dit")]
    said = STUDY.remarks(rows_of(preset_from_table("made-up", {"groups": groups}))[0])
    assert len(said) == 2


def test_layers_of_which_a_part_fits_say_nothing_of_where_looping_pays():
    nearly = preset_from_table("made-up", {"groups": [{**GROUP, "widths": [56], "heads": 2, "pairs": [[1, 12]]}]})
    assert 1 < nearly.cells[0].looped_bytes("unique") / CACHE < 2
    (said,) = STUDY.remarks(rows_of(nearly)[0])
    size = nearly.cells[0].looped_bytes("unique") / 2**20
    assert said.endswith(f"no layers ({size:.3g} MiB at most) exceed twice the cache (1 MiB)")
    (said,) = STUDY.remarks(rows_of(nearly, cache=0)[0])
    assert said.endswith("the system does not say how large its cache is")


def test_what_an_interval_leaves_open_is_not_said_to_pay():
    preset = preset_from_table("made-up", {"groups": [{**GROUP, "widths": [64], "pairs": [[1, 12]]}]})
    rows = rows_of(preset, ratio=lambda cell, process: 1.11 + 0.05 * (process - 2))[0]
    (said,) = STUDY.remarks(rows)
    assert said.startswith(
        "looping seems to pay (by more than 10 %) at the one block measured, though an interval holds"
    )


def test_noisy_cells_are_left_out_of_the_sentence_and_counted():
    group = {**GROUP, "widths": [64], "pairs": [[1, 12], [3, 4]]}
    preset = preset_from_table("made-up", {"groups": [group]})
    (said,) = STUDY.remarks(rows_of(preset, noisy={preset.cells[1].id: 99})[0])
    assert "; left out: 1 of 2 cells noisy" in said
    (said,) = STUDY.remarks(rows_of(preset, noisy={cell.id: 99 for cell in preset.cells})[0])
    assert said.startswith("nothing can be said of 12 layers of width 64 at batch 1")
    assert said.endswith("2 of 2 cells noisy")


def test_cells_that_lost_a_process_are_left_out_of_the_sentence_and_counted():
    preset = preset_from_table("made-up", {"groups": [{**GROUP, "widths": [64], "pairs": [[1, 12]]}]})
    rows, _ = rows_of(preset)
    ratios = rows["metric"] == "throughput_ratio"
    rows.loc[ratios & (rows["seed"] < 3), ["metric", "value", "reason"]] = ["failed_call", math.nan, "killed"]
    (said,) = STUDY.remarks(rows)
    assert said.startswith("nothing can be said of 12 layers of width 64")
    assert said.endswith(": 1 of 1 cell without a value in a process")


def test_the_figure_draws_noisy_cells_faint_and_only_those():
    group = {**GROUP, "widths": [64], "pairs": [[1, 12], [3, 4]]}
    preset = preset_from_table("made-up", {"groups": [group]})
    quiet, noisy = preset.cells
    drawn = STUDY.figure(rows_of(preset, noisy={noisy.id: 99})[0]).axes[0].containers
    at = {float(each[0].get_xdata()[0]): each[0].get_alpha() for each in drawn}
    assert at == {
        quiet.looped_bytes("looped") / CACHE: 1.0,
        noisy.looped_bytes("looped") / CACHE: pytest.approx(0.3),
    }


def test_a_cell_looks_alike_in_every_panel(measured):
    rows, _ = measured
    pays, predicted, achieved, _ = STUDY.figure(rows).axes
    legend = pays.get_legend()
    looks = {text.get_text(): handle for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)}
    drawn = {(line.get_color(), line.get_marker()) for line in predicted.get_lines() if line.get_marker() != "None"}
    marks = {(each.lines[0].get_color(), each.lines[0].get_marker()) for each in pays.containers}
    assert len(looks) == 2  # calls and samplers
    assert drawn == marks
    others = {(line.get_color(), line.get_marker()) for line in achieved.get_lines() if line.get_marker() != "None"}
    assert marks < others  # the control and what is not hoisted stand there too, in colours of their own


@pytest.mark.parametrize(("off", "words"), [(1.0, "which holds 1, as it should"), (1.2, "which does not hold 1")])
def test_the_control_says_whether_a_network_takes_as_long_as_its_copy(off, words):
    preset = preset_from_table("made-up", {"groups": [{**GROUP, "measure": "self"}]})
    rows, _ = rows_of(preset)
    of_ratio = rows["metric"] == "self_ratio"
    rows.loc[of_ratio, "value"] = [off * wobble(process) for process in range(5)]
    (said,) = STUDY.remarks(rows)
    assert words in said


def test_the_loops_share_of_a_sampler_is_said_beside_its_aim(measured):
    rows, _ = measured
    (said,) = (each for each in STUDY.remarks(rows) if each.startswith("the bare loops take"))
    assert said.startswith(
        "the bare loops take 1.000 [1.000, 1.000] of the whole sampler's time, aim 0.95: met (sampler of 2 steps"
    )


@pytest.mark.parametrize(("measure", "words"), [("self", "of the self ratio"), ("sampler", "of the block share")])
def test_of_a_noisy_control_or_sampler_nothing_is_said(measure, words):
    steps = {"sampling_steps": 1} if measure == "sampler" else {}
    preset = preset_from_table("made-up", {"groups": [{**GROUP, "measure": measure, **steps}]})
    (said,) = STUDY.remarks(rows_of(preset, noisy={preset.cells[0].id: 99})[0])
    assert f"nothing can be said {words}: noisy in 5 of 5" in said
