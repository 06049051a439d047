"""Rows and summary: ratios by hand, regimes by sizes, claims from quiet cells alone, and the plain sentence."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from made_up import CACHE, GROUP, Paper

from eltbench import studies
from eltbench.throughput import command, measuring, summary
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
    assert 4 < wide["predicted"] < 10  # the cache is ten times as fast as memory
    times = table[table["metric"] == "call_seconds"]
    timed = times[times["measure"].isin(["call", "self"])]
    looped = timed[timed["role"] != "unique-copy"]
    assert np.allclose(looped["achieved"], looped["predicted"] / looped["mean"])


def test_raw_timings_hold_every_burst_of_every_attempt():
    preset = preset_from_table("made-up", {"groups": [GROUP]})
    _, records = rows_of(preset, noisy={preset.cells[0].id: 1})
    table = timings(records)
    assert len(table) == 6 * 2 * 4  # five processes, one of them twice, two contenders, four rounds
    assert table.groupby("process")["attempt"].max().tolist() == [1, 0, 0, 0, 0]
    assert table[~table["last"]]["noisy"].all()


def test_a_row_without_a_value_says_why():
    preset = preset_from_table("made-up", {"groups": [{**GROUP, "widths": [32, 64]}], "processes": 2})
    first, second = preset.cells
    rows, _ = rows_of(preset, skipped=[first.id], broken=[second.id])
    skipped, failed = rows[rows["metric"] == "skipped_call"], rows[rows["metric"] == "failed_call"]
    assert skipped["value"].isna().all()
    assert skipped["reason"].tolist() == ["needs about 9 GiB of memory, 1 GiB are free"]
    assert failed["reason"].tolist() == ["process was killed by SIGKILL"] * 2
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


def test_a_noisy_cell_decides_nothing():
    spills = CLAIMED.cells[1]
    found = verdicts(lambda cell, process: wobble(process) * 1.5, noisy={spills.id: 99})
    assert found["throughput"] == "inconclusive"


def test_a_claim_needs_cells_that_fit_and_cells_that_spill():
    alone = preset_from_table("made-up", {"groups": [{**GROUP, "widths": [64], "pairs": [[1, 12]]}]})
    rows, _ = rows_of(alone)
    assert STUDY.evidence(rows)["throughput"] == {}
    rows, _ = rows_of(CLAIMED, cache=0)  # a system that does not say how large its cache is
    assert STUDY.evidence(rows)["throughput"] == {}


def test_the_crossing_lies_between_the_blocks_around_it():
    at = summary.crossing(np.array([1e6, 4e6, 16e6]), np.array([1.6, 1.3, 0.9]))
    assert at == pytest.approx(4e6 * 2.0, rel=1e-9)  # ratio 1.1 is half way from 1.3 to 0.9, on a logarithmic scale
    assert summary.crossing(np.array([1.0, 2.0]), np.array([1.5, 1.2])) is None
    assert summary.crossing(np.array([1.0, 2.0]), np.array([1.0, 1.05])) is None
    assert math.isnan(summary.crossing(np.array([1.0, 2.0]), np.array([1.0, 1.5])))


def test_the_sentence_names_the_machine_s_crossing():
    group = {**GROUP, "widths": [64], "pairs": [[1, 12], [3, 4], [6, 2]]}
    preset = preset_from_table("made-up", {"groups": [group]})
    ratio = {1: 1.9, 3: 1.3, 6: 0.9}
    (said,) = STUDY.remarks(rows_of(preset, ratio=lambda cell, process: ratio[cell.unique_layers])[0])
    sizes = [preset.cells[place].looped_bytes("looped") for place in (1, 2)]
    assert f"pays below about {math.sqrt(sizes[0] * sizes[1]) / 2**20:.3g} MB of block weights" in said
    assert "at batch 1 with 16 tokens (fp32, torch eager)" in said
    (said,) = STUDY.remarks(rows_of(preset, ratio=lambda cell, process: 1.5)[0])
    assert "pays at every block measured" in said
    (said,) = STUDY.remarks(rows_of(preset, ratio=lambda cell, process: 1.0)[0])
    assert "does not pay at any block measured" in said
    nearly = preset_from_table("made-up", {"groups": [{**GROUP, "widths": [56], "heads": 2, "pairs": [[1, 12]]}]})
    assert 1 < nearly.cells[0].looped_bytes("unique") / CACHE < 2  # a part of these layers fits: they say nothing
    assert STUDY.remarks(rows_of(nearly)[0]) == []


def test_rows_of_no_cell_give_an_empty_summary():
    assert summary.summary(pd.DataFrame({"measure": [], "metric": [], "run_id": [], "role": [], "value": []})).empty
