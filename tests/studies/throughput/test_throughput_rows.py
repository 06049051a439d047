"""Rows and summary: ratios by hand, regimes by sizes, predictions kernel by kernel, and why something is missing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_up import CACHE, GROUP, GROUPS, STUDY, rows_of

from eltbench.accounting import NetworkSpec, step_flops
from eltbench.data.base import DataSpec
from eltbench.studies.throughput import summary
from eltbench.studies.throughput.cell_groups import preset_from_table
from eltbench.studies.throughput.cells import Cell
from eltbench.studies.throughput.rows import regime, timings


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
    assert wide["roofline"] == pytest.approx(10)  # and so is reading it, and what attention reads
    times = table[table["metric"] == "call_seconds"]
    timed = times[times["measure"].isin(["call", "self"])]
    looped = timed[timed["role"] != "unique-copy"]
    assert np.allclose(looped["achieved"], looped["roofline"] / looped["mean"])


def test_copies_and_the_loops_share_are_foretold(measured):
    rows, _ = measured
    table = STUDY.summarise(rows).set_index("metric")
    assert (table.loc["self_ratio", "predicted"], table.loc["self_ratio", "roofline"]) == (1.0, 1.0)
    sampler = rows[(rows["measure"] == "sampler") & (rows["role"] == "looped")]
    parts = sampler[sampler["metric"] == "predicted_kernel_seconds"].groupby("part")["value"].sum()
    assert table.loc["block_share", "predicted"] == pytest.approx(1 - parts["head"] / parts.sum())
    assert 0 < table.loc["block_share", "roofline"] < 1


def test_training_is_foretold_by_its_flops_and_bytes(measured):
    rows, _ = measured
    table = STUDY.summarise(rows).set_index("metric")["roofline"]
    cell = Cell("step", 3, 4, 32, 2, block="dit")
    read = {"elt": ("looped", 4, 2), "no-ilsd": ("looped", 4, 1), "unique-depth": ("unique", 1, 1)}
    digits = DataSpec("continuous", (8, 8), channels=1, classes=10)
    flops = {
        trainer: sum(
            step_flops(
                NetworkSpec(cell.run(trainer, "cpu", 1).architecture, depth, digits, True), loops, exits
            ).values()
        )
        for trainer, (depth, loops, exits) in read.items()
    }
    assert table["step_time_ratio"] == pytest.approx(flops["elt"] / flops["no-ilsd"])
    assert table["step_time_ratio_to_unique"] == pytest.approx(flops["elt"] / flops["unique-depth"])
    elt, unique = (cell.training_bytes(trainer) for trainer in ("elt", "unique-depth"))
    assert table["peak_memory_ratio"] == pytest.approx(elt / unique)
    nine_layers = 9 * 18 * 32**2  # and their biases
    assert unique - elt == pytest.approx(5 * 4 * nine_layers, rel=0.05)  # each weight five times in float32


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
