"""Claims of the throughput study: from quiet cells alone, one at a time, with the reason where there is no verdict."""

from __future__ import annotations

import re

import pytest
from made_up import CACHE, DIT, GROUP, STUDY, rows_of, wobble

from eltbench.studies import deciding
from eltbench.studies.throughput.cell_groups import preset_from_table
from eltbench.studies.throughput.rows import regime

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


def decisions_of(rows, *, smoke=False):
    return deciding.decide_all(STUDY, rows, presets=None, smoke=smoke)


def verdicts(ratio, **settings):
    rows, _ = rows_of(CLAIMED, ratio=ratio, **settings)
    return {each.claim.id: each.verdict for each in decisions_of(rows)}


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
    assert {each.verdict for each in decisions_of(rows, smoke=True)} == {"inconclusive"}


def decided(claim, preset, **settings):
    rows, _ = rows_of(preset, **settings)
    return next(each for each in decisions_of(rows) if each.claim.id == claim)


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
    found = decided(
        "throughput",
        CLAIMED,
        ratio=lambda cell, process: (1.0 if cell.width == 16 else 1.5) + process / 1000,
        **settings,
    )
    assert (found.verdict, found.reason) == ("inconclusive", "of 2 cells: 1 inconclusive, 1 supported")
    fits, missing = found.cells
    assert (fits.verdict, missing.verdict) == ("supported", "inconclusive")
    assert missing.reason == f"spills: {reason}"


def test_a_cell_that_lacks_one_process_gives_no_verdict():
    rows, _ = rows_of(CLAIMED, ratio=lambda cell, process: 1.0 if cell.width == 16 else 1.5)
    lost = (rows["run_id"] == CLAIMED.cells[1].id) & (rows["seed"] == 3) & (rows["metric"] == "throughput_ratio")
    reason = "process was killed"
    rows.loc[lost, ["metric", "value", "reason"]] = ["failed_call", float("nan"), reason]
    found = next(each for each in decisions_of(rows) if each.claim.id == "throughput")
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
