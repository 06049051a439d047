"""Rows and summary: ratios by hand, regimes by sizes, claims from quiet cells alone, and the plain sentence."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from made_up import CACHE, GROUP, Paper

from eltbench import studies
from eltbench.throughput import command, measuring, sentences, summary
from eltbench.throughput.cells import Cell
from eltbench.throughput.presets import preset_from_table
from eltbench.throughput.rows import all_rows, regime, timings

STUDY = studies.create("throughput")
DIT = {"block": "dit"}
GROUPS = [
    {**GROUP, "widths": [32, 64], "pairs": [[3, 4], [1, 12]]},
    {**GROUP, "measure": "self"},
    {**GROUP, "measure": "sampler", "sampling_steps": 2},
    {**GROUP, **DIT, "measure": "hoisting"},
    {**GROUP, **DIT, "measure": "step"},
    {**GROUP, **DIT, "measure": "memory"},
    {**GROUP, "measure": "peers"},
]


def rows_of(preset, **settings):
    ceilings, records = measuring.measure(preset, nursery=Paper(**settings))
    return command.stamped(STUDY, preset, all_rows(ceilings, records)), records


@pytest.fixture(scope="module")
def measured():
    return rows_of(preset_from_table("made-up", {"groups": GROUPS}), ratio=lambda cell, process: 2.0 + 0.01 * process)


def values(rows, metric, **columns):
    here = rows[rows["metric"] == metric]
    for name, value in columns.items():
        here = here[here[name] == value]
    return here["value"].tolist()


def test_every_ratio_says_what_it_is_a_ratio_of(measured):
    rows, _ = measured
    expected = pytest.approx([2.0, 2.01, 2.02, 2.03, 2.04])
    assert values(rows, "throughput_ratio", measure="sampler", role="looped over unique") == expected
    assert values(rows, "hoisting_gain", role="looped over unhoisted") == expected
    assert values(rows, "step_time_ratio_to_unique", role="elt over unique-depth") == expected
    assert values(rows, "peak_memory_ratio", role="elt over unique-depth") == expected
    assert values(rows, "speed_over_peer", role="torch.nn.TransformerEncoderLayer") == expected
    assert values(rows, "self_ratio") == [1.0] * 5
    assert values(rows, "block_share") == [1.0] * 5


def test_samples_per_second_count_the_batch():
    group = {**GROUP, "measure": "sampler", "sampling_steps": 2, "batches": [8]}
    rows, _ = rows_of(preset_from_table("made-up", {"groups": [group], "processes": 1}))
    assert values(rows, "samples_per_second", role="looped") == [8.0]
    assert values(rows, "samples_per_second", role="unique") == [4.0]
    assert values(rows, "sample_seconds", role="unique") == [2.0]


def test_the_regime_is_told_by_sizes_alone():
    def at(width, layers, loops, cache=CACHE):
        return regime(Cell("call", layers, loops, width, 2), cache)

    assert at(32, 3, 4) == "between"  # 12 layers of 49,152 bytes and biases: over half of the cache
    assert at(32, 3, 4, cache=2**21) == "fits"
    assert at(64, 1, 12) == "spills"
    assert at(64, 3, 4) == "between"  # the block takes over half of the cache
    assert at(128, 3, 4) == "neither"
    assert at(128, 3, 4, cache=None) is None


def test_the_roofline_stands_beside_every_time(measured):
    rows, _ = measured
    table = STUDY.summarise(rows)
    calls = table[table["metric"] == "throughput_ratio"]
    assert calls["predicted"].notna().all()
    wide = calls[(calls["width"] == 64) & (calls["measure"] == "call") & (calls["unique_layers"] == 1)].iloc[0]
    assert 4 < wide["predicted"] < 10  # but for attention, ten: a product with weights from the cache
    assert 4 < wide["roofline"] < 10  # and so is reading it
    times = table[table["metric"] == "call_seconds"]
    timed = times[times["measure"].isin(["call", "self"])]
    looped = timed[timed["role"] != "unique-copy"]
    assert np.allclose(looped["achieved"], looped["predicted"] / looped["mean"])


def test_raw_timings_hold_every_burst_of_every_attempt():
    preset = preset_from_table("made-up", {"groups": [GROUP]})
    _, records = rows_of(preset, noisy={preset.cells[0].id: 1})
    table = timings(records)
    assert len(table) == 6 * 2 * 5  # five processes, one of them twice, two contenders, five rounds
    assert table.groupby("process")["attempt"].max().tolist() == [1, 0, 0, 0, 0]
    assert table[~table["last"]]["noisy"].all()


def test_a_row_without_a_value_says_why():
    preset = preset_from_table("made-up", {"groups": [{**GROUP, "widths": [32, 64]}], "processes": 2})
    first, second = preset.cells
    rows, _ = rows_of(preset, skipped=[first.id], broken=[second.id])
    skipped, failed = rows[rows["metric"] == "skipped_call"], rows[rows["metric"] == "failed_call"]
    assert skipped["value"].isna().all()
    assert skipped["reason"].tolist() == ["needs about 9 GiB of memory, 1 GiB are free"]
    assert failed["reason"].tolist() == ["process ended with exit code 1"] * 2
    assert set(STUDY.summarise(rows)["reason"]) == {*skipped["reason"], *failed["reason"]}
    assert STUDY.remarks(rows) == []
    STUDY.figure(rows)


CLAIMED = preset_from_table(
    "made-up",
    {
        "groups": [
            {**GROUP, "widths": [16, 64], "pairs": [[1, 12]]},  # fits, spills
            {**GROUP, **DIT, "measure": "step"},
            {**GROUP, **DIT, "measure": "memory", "pairs": [[8, 4], [2, 4]]},
        ]
    },
)


def verdicts(ratio, **settings):
    rows, _ = rows_of(CLAIMED, ratio=ratio, **settings)
    return {each.claim.id: each.verdict for each in STUDY.decide(rows, smoke=False)}


def wobble(process):
    return 1 + 0.001 * (process - 2)


def test_claims_follow_from_the_ratios():
    def as_claimed(cell, process):
        return wobble(process) * {"step": 1.02, "memory": 0.7 if cell.unique_layers == 8 else 2.0}.get(
            cell.measure, 1.0 if cell.width == 16 else 1.5
        )

    found = verdicts(as_claimed)
    assert found == {
        "throughput": "supported",
        "step-cost": "supported",
        "train-memory": "supported",
        "operating-point": "inconclusive",
    }

    def otherwise(cell, process):
        return wobble(process) * {"step": 1.3, "memory": 0.95}.get(cell.measure, 1.0)

    found = verdicts(otherwise)
    assert [found[name] for name in ("throughput", "step-cost", "train-memory")] == ["contradicted"] * 3
    rows, _ = rows_of(CLAIMED, ratio=as_claimed)
    assert {each.verdict for each in STUDY.decide(rows, smoke=True)} == {"inconclusive"}


def decided(claim, preset, **settings):
    rows, _ = rows_of(preset, **settings)
    return next(each for each in STUDY.decide(rows, smoke=False) if each.claim.id == claim)


def test_every_cell_is_judged_by_itself_and_never_in_a_mean_with_others():
    group = {**GROUP, "widths": [16, 64, 68], "pairs": [[1, 12]]}
    preset = preset_from_table("made-up", {"groups": [group, {**GROUP, "widths": [40]}]})
    assert [regime(cell, CACHE) for cell in preset.cells] == ["fits", "spills", "spills", "between"]
    ratio = {16: 1.0, 64: 3.0, 68: 1.0, 40: 5.0}  # the geometric mean of those that spill is 1.7
    found = decided("throughput", preset, ratio=lambda cell, process: wobble(process) * ratio[cell.width])
    assert [(each.cell.dataset.split(", ")[1], each.verdict) for each in found.cells] == [
        ("width 16", "supported"),
        ("width 64", "supported"),
        ("width 68", "contradicted"),
    ]
    assert [len(each.conditions) for each in found.cells] == [1, 1, 1]
    assert (found.verdict, found.reason) == ("inconclusive", "of 3 cells: 1 contradicted, 2 supported")
    assert {each.conditions[0].primary.interval.n for each in found.cells} == {5}


@pytest.mark.parametrize(
    ("happened", "reason"),
    [
        ({"noisy": 99}, "noisy in 5 of 5 processes, also after repetition"),
        ({"skipped": ()}, "no value in process 0: needs about 9 GiB of memory, 1 GiB are free"),
        ({"broken": ()}, "no value in process 0, 1, 2, 3, 4: process ended with exit code 1"),
    ],
)
def test_a_cell_that_is_noisy_or_missing_gives_no_verdict_and_says_why(happened, reason):
    spills = CLAIMED.cells[1].id
    settings = {name: {spills: 99} if name == "noisy" else [spills] for name in happened}
    found = decided("throughput", CLAIMED, ratio=lambda cell, process: 1.0 if cell.width == 16 else 1.5, **settings)
    assert (found.verdict, found.reason) == ("inconclusive", "of 2 cells: 1 inconclusive, 1 supported")
    fits, missing = found.cells
    assert (fits.verdict, missing.verdict) == ("supported", "inconclusive")
    assert missing.reason == f"spills: {reason}"


def test_a_cell_that_lacks_one_process_gives_no_verdict():
    rows, _ = rows_of(CLAIMED, ratio=lambda cell, process: 1.0 if cell.width == 16 else 1.5)
    lost = (rows["run_id"] == CLAIMED.cells[1].id) & (rows["seed"] == 3) & (rows["metric"] == "throughput_ratio")
    reason = "process was killed"
    rows.loc[lost, ["metric", "value", "reason"]] = ["failed_call", float("nan"), reason]
    found = next(each for each in STUDY.decide(rows, smoke=False) if each.claim.id == "throughput")
    assert found.cells[1].reason == f"spills: no value in process 3: {reason}"
    assert found.cells[1].conditions[0].primary.interval.n == 4  # what there is, is shown


@pytest.mark.parametrize(
    ("group", "settings", "claim", "reason"),
    [
        ({"widths": [64], "pairs": [[1, 12]]}, {}, "throughput", r"\+100\.00 %.*; no cell speaks to fits"),
        ({"widths": [16], "pairs": [[1, 12]]}, {}, "throughput", "; no cell speaks to spills"),
        ({"widths": [40]}, {}, "throughput", "no cell has layers that fit into half of the cache"),
        ({}, {"cache": 0}, "throughput", "the system does not say how large its cache is"),
        ({}, {}, "step-cost", "no cell times training steps"),
        ({**DIT, "measure": "memory", "pairs": [[2, 4]]}, {}, "train-memory", "no cell trains 8N×4L against 32 layers"),
    ],
)
def test_a_claim_whose_cells_are_missing_is_inconclusive_and_says_which(group, settings, claim, reason):
    found = decided(claim, preset_from_table("made-up", {"groups": [{**GROUP, **group}]}), **settings)
    assert found.verdict == "inconclusive"
    assert re.search(reason, found.reason)


def test_every_crossing_is_found_and_whether_the_ratio_falls_there():
    def at(sizes, ratios):
        return sentences.crossings(np.array(sizes), np.array(ratios))

    ((size, falls),) = at([1e6, 4e6, 16e6], [1.6, 1.3, 0.9])
    assert size == pytest.approx(8e6)  # ratio 1.1 is half way from 1.3 to 0.9, on a logarithmic scale
    assert falls
    assert at([1.0, 2.0], [1.5, 1.2]) == at([1.0, 2.0], [1.0, 1.05]) == at([1.0], [1.5]) == []
    assert [falls for _, falls in at([1.0, 2.0], [1.0, 1.5])] == [False]
    assert [falls for _, falls in at([1.0, 2.0, 4.0, 8.0], [1.5, 1.0, 1.5, 1.0])] == [True, False, True]
    assert at([2.0, 2.0], [1.5, 1.0]) == [(2.0, True)]  # two cells of one block size


def where_it_pays(ratio, pairs=((1, 12), (3, 4), (6, 2)), **group):
    group = {**GROUP, "widths": [64], "pairs": [list(pair) for pair in pairs], **group}
    preset = preset_from_table("made-up", {"groups": [group]})
    return STUDY.remarks(rows_of(preset, ratio=lambda cell, process: ratio[cell.unique_layers])[0]), preset.cells


def test_the_sentence_names_the_machine_s_crossing():
    (said,), cells = where_it_pays({1: 1.9, 3: 1.3, 6: 0.9})
    sizes = [cells[place].looped_bytes("looped") for place in (1, 2)]
    assert f"pays below about {math.sqrt(sizes[0] * sizes[1]) / 2**20:.3g} MB of block weights" in said
    assert "at batch 1 with 16 tokens (bert, fp32, torch eager)" in said


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ({1: 1.5, 3: 1.5, 6: 1.5}, "pays at every block measured (no crossing within what was measured)"),
        ({1: 1.0, 3: 1.0, 6: 1.0}, "does not pay at any block measured (no crossing within what was measured)"),
        ({1: 1.0, 3: 1.5, 6: 1.5}, "pays above about 0."),
        (
            {1: 1.5, 3: 1.0, 6: 1.5},
            "pays at some blocks and not at others, with no one bound: the ratio crosses 1.10",
        ),
    ],
)
def test_ratios_that_do_not_fall_once_are_said_to_be_so(ratio, words):
    (said,), _ = where_it_pays(ratio)
    assert f"looping {words}" in said


@pytest.mark.parametrize(("ratio", "words"), [(1.5, "pays"), (1.0, "does not pay")])
def test_of_one_block_no_bound_is_said(ratio, words):
    (said,), _ = where_it_pays({1: ratio}, [(1, 12)])
    assert said.startswith(f"looping {words} at the one block measured at batch 1")


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
    assert STUDY.remarks(rows_of(nearly)[0]) == []


def test_noisy_cells_are_left_out_of_the_sentence_and_counted():
    group = {**GROUP, "widths": [64], "pairs": [[1, 12], [3, 4]]}
    preset = preset_from_table("made-up", {"groups": [group]})
    (said,) = STUDY.remarks(rows_of(preset, noisy={preset.cells[1].id: 99})[0])
    assert "noisy and left out: 1" in said
    (said,) = STUDY.remarks(rows_of(preset, noisy={cell.id: 99 for cell in preset.cells})[0])
    assert said.startswith("nothing can be said at batch 1")
    assert said.endswith("2 of 2 cells are noisy")


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
    assert said.startswith("the bare loops take 1.000 [1.000, 1.000] of the whole sampler's time, aim 0.95 (sampler")


def test_the_kernels_of_a_prediction_add_up_and_name_what_decides(measured):
    rows, _ = measured
    kernels = rows[rows["metric"] == "predicted_kernel_seconds"]
    hoisting = rows[rows["measure"] == "hoisting"]["run_id"].iloc[0]
    whole = rows[rows["metric"] == "predicted_seconds"].set_index(["run_id", "role"])["value"]
    summed = kernels.groupby(["run_id", "role"])["value"].sum()
    assert np.allclose(summed, whole.loc[summed.index])
    textbook = rows[rows["metric"] == "roofline_seconds"].set_index(["run_id", "role"])["value"]
    assert set(textbook.index) == set(whole.index)
    assert (textbook > 0).all()
    assert set(kernels["bound"]) <= {"compute", "memory", "launch"}
    again = kernels[(kernels["measure"] == "hoisting") & (kernels["part"] == "modulation")].set_index("role")["value"]
    assert again["unhoisted"] > again["looped"]
    table = STUDY.summarise(rows)
    assert not table["metric"].str.startswith(("predicted", "roofline")).any()
    gain = table[table["metric"] == "hoisting_gain"].iloc[0]
    assert gain["predicted"] == pytest.approx(whole[:, "unhoisted"].iloc[0] / whole[hoisting, "looped"])


def test_what_is_left_out_is_listed_with_its_reason():
    preset = preset_from_table("made-up", {"groups": [{**GROUP, "widths": [32, 64]}]})
    rows, _ = rows_of(preset, skipped=[preset.cells[0].id])
    (line,) = summary.left_out(STUDY.summarise(rows)).to_dict("records")
    assert line["name"] == preset.cells[0].name
    assert line["reason"].startswith("needs about 9 GiB")
    assert summary.left_out(summary.summary(rows[rows["measure"] == "ceiling"])).empty


def test_rows_of_no_cell_give_an_empty_summary():
    assert summary.summary(pd.DataFrame({"measure": [], "metric": [], "run_id": [], "role": [], "value": []})).empty
