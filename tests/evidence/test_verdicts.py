"""Verdicts in the forms that people and programs read."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from synthetic_rows import frame, losses

from eltbench import studies
from eltbench.evidence import verdicts
from eltbench.evidence.claims import COVERS, Cell, Evidence, Witness, decide
from eltbench.studies import deciding

DIGITS, RELAY = Cell("diffusion", "digits", "torch"), Cell("masked", "relay", "torch")
CLAIMS = ("elastic", "vanilla-collapse", "vanilla-parity", "over-iteration", "modest-extrapolation", "update-norms")
FIVE = [0.301, 0.302, 0.299, 0.303, 0.3]


def decided(name, evidence, **settings):
    return decide(studies.claim(name), evidence, comparisons=6, **settings)


@pytest.fixture
def decisions():
    """One of everything: supported, contradicted, open, of one seed, not finite, and not measured."""
    second = Witness("kernel_distance", {"half": [0.9, 0.91, 0.92]}, 0.03)
    return [
        decided("elastic", {DIGITS: Evidence({"half": -np.array(FIVE)}, second), RELAY: Evidence({"half": FIVE})}),
        decided("vanilla-collapse", {DIGITS: Evidence({"half": FIVE, "double": [0.1, math.nan, 0.2]})}),
        decided("vanilla-parity", {}),
        decided("over-iteration", {RELAY: Evidence({"triple": [0.05]})}),
        decided("modest-extrapolation", {DIGITS: Evidence({"one-and-a-half": FIVE})}),
        decided("update-norms", {DIGITS: Evidence({"late-loops": []})}),
    ]


def printed(decisions, width):
    output = io.StringIO()
    Console(file=output, width=width).print(verdicts.table(decisions))
    return output.getvalue()


def cells(decisions, width=400):
    """The table's lines as lists of cells; the columns are found where the head has them."""
    head, _, *body = [line for line in printed(decisions, width).splitlines() if line.strip()]
    names = ("claim", "verdict", "measured", "effect, interval", "supported if", "n")
    starts = [head.index(name) for name in names]
    ends = [*starts[1:-1], len(head.rstrip()) - 3, None]  # the last column is set to the right
    starts[-1] = ends[-2]
    return [[line[start:end].strip() for start, end in zip(starts, ends, strict=True)] for line in body]


def test_in_brief_every_claim_is_one_line_with_the_effect_that_decides_it(decisions):
    output = io.StringIO()
    Console(file=output, width=80).print(verdicts.brief(decisions))
    elastic, collapse, parity, over, *_, norms = [line.rstrip() for line in output.getvalue().splitlines()]
    assert [cell.verdict for cell in decisions[0].cells] == ["inconclusive", "contradicted"]
    estimate = 100 * math.expm1(-np.mean(FIVE))
    assert elastic.startswith(
        f"? elastic              inconclusive {estimate:.2f} % ["
    )  # of the cell that leaves it open
    assert collapse.startswith("? vanilla-collapse     inconclusive")
    assert parity == "– vanilla-parity       inconclusive not measured"
    assert over == "? over-iteration       inconclusive +5.13 %; one seed gives no interval"
    assert norms.endswith("not measured")
    assert max(map(len, output.getvalue().splitlines())) <= 80


@pytest.mark.parametrize("width", [80, 100, 160, 400])
def test_the_table_fits_its_width_and_cuts_no_name_short(decisions, width):
    lines = printed(decisions, width).splitlines()
    assert max(map(len, lines)) <= width
    shown = {line.split()[0] for line in lines if line.strip()}
    assert set(CLAIMS) <= shown
    text = "\n".join(lines)
    assert "…" not in text
    for verdict in ("supported", "contradicted", "inconclusive"):
        assert verdict in text


def test_a_claim_stands_with_its_verdict_its_effect_its_interval_and_its_region(decisions):
    (*_, row, _) = cells(decisions)
    name, verdict, measured, effect, region, seeds = row
    assert (name, verdict, seeds) == ("modest-extrapolation", "contradicted", "5")
    assert measured == "diffusion digits torch: loss at 1.5·L_max over L_max, elt"
    interval = decisions[4].cells[0].conditions[0].primary.interval
    low, high = (100 * math.expm1(bound) for bound in (interval.low, interval.high))
    assert effect == f"{100 * math.expm1(0.301):+.2f} %, {low:+.2f} % to {high:+.2f} %"
    assert region == "below -0.50 %"


def test_several_results_of_a_claim_stand_below_its_verdict_on_all_of_them(decisions):
    table = cells(decisions)
    assert table[0][:3] == ["elastic", "inconclusive", "all 2 results together"]
    assert [row[:2] for row in table[1:4]] == [["", "inconclusive"], ["", "contradicted"], ["", "contradicted"]]
    assert [row[2].split(":")[0] for row in table[1:4]] == [
        "diffusion digits torch",
        "second witness",
        "masked relay torch",
    ]
    assert table[2][3].startswith("+0.91, ")
    assert table[2][4:] == ["below +0.03", "3"]


def test_one_seed_is_said_to_give_no_interval(decisions):
    (row,) = [row for row in cells(decisions) if row[0] == "over-iteration"]
    assert row[3] == f"{100 * math.expm1(0.05):+.2f} %; one seed gives no interval"
    assert "inf" not in printed(decisions, 400)


def test_what_was_not_measured_or_is_not_finite_is_said_in_words(decisions):
    table = cells(decisions)
    (absent,) = [row for row in table if row[0] == "vanilla-parity"]
    assert absent[1:3] == ["inconclusive", "not measured in this preset"]
    (empty,) = [row for row in table if row[0] == "update-norms"]
    assert (empty[3], empty[5]) == ("not measured", "0")
    (broken,) = [row for row in table if "2·L_max" in row[2]]
    assert broken[3] == "not a finite number in every seed"
    assert "nan" not in printed(decisions, 400)


def test_no_decisions_give_an_empty_table():
    assert "claim" in printed([], 80)


def test_the_file_of_claims_is_strict_json_down_to_every_witness(decisions):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = json.dumps(verdicts.content("extrapolation", "made-up", decisions))
    found = json.loads(text, parse_constant=refuse)
    assert (found["study"], found["preset"]) == ("extrapolation", "made-up")
    assert list(found["claims"]) == list(CLAIMS)
    elastic = found["claims"]["elastic"]
    assert elastic["verdict"] == "inconclusive"
    (condition,) = elastic["cells"][0]["conditions"]
    primary, second = condition["witnesses"]
    assert primary["estimate"] == pytest.approx(-np.mean(FIVE))
    assert primary["n"] == 5
    assert second["witness"] == "kernel_distance"
    lone = found["claims"]["over-iteration"]["cells"][0]["conditions"][0]["witnesses"][0]
    assert (lone["low"], lone["high"], lone["n"]) == (None, None, 1)
    assert found["claims"]["vanilla-parity"]["cells"] == []


def test_the_short_form_holds_the_verdict_of_every_claim_and_cell(decisions):
    short = json.loads(json.dumps(verdicts.in_short(decisions), allow_nan=False))
    assert list(short) == list(CLAIMS)
    assert short["elastic"] == {
        "verdict": "inconclusive",
        "cells": [
            {"task": "diffusion", "dataset": "digits", "backend": "torch", "verdict": "inconclusive"},
            {"task": "masked", "dataset": "relay", "backend": "torch", "verdict": "contradicted"},
        ],
    }
    assert short["vanilla-parity"] == {"verdict": "inconclusive", "cells": []}


def test_the_table_for_documents_says_that_one_seed_gives_no_interval():
    study = studies.create("extrapolation")
    decisions = deciding.decide_all(study, frame(losses({2: 0.2, 4: 0.1})), presets=None, smoke=False)
    shown = verdicts.markdown(verdicts.content(study.name, "x", decisions))
    (elastic,) = [line for line in shown.splitlines() if "`elastic`" in line]
    assert "+100.00 %; one seed gives no interval" in elastic
    assert "inf" not in elastic


def told(study, preset, decisions, cover=COVERS):
    found = json.loads(json.dumps(verdicts.content(study, preset, decisions)))
    for claim in found["claims"].values():
        claim["intervals_cover"] = cover
    return found


def test_the_overview_has_a_row_for_every_measured_claim_and_a_column_for_every_world(decisions):
    head, _, *lines = verdicts.overview([told("extrapolation", "a", decisions)]).splitlines()
    assert head == "| claim | diffusion digits | masked relay |"
    assert [line.split("`")[1] for line in lines] == [each.claim.id for each in decisions if each.cells]
    (elastic,) = (each for each in decisions if each.claim.id == "elastic")
    marks = {cell.cell.dataset: verdicts.MARKS[cell.verdict] for cell in elastic.cells}
    shown = lines[0].split(" | ")[1:]
    assert [each[0] for each in shown] == [marks["digits"], marks["relay"]]


def test_of_several_results_in_one_world_torch_s_is_shown_with_a_star_where_another_differs(decisions):
    torch, jax = told("extrapolation", "a", decisions), told("extrapolation", "b", decisions)
    for claim in jax["claims"].values():
        for cell in claim["cells"]:
            cell["backend"] = "jax"
    same = verdicts.overview([jax, torch]).splitlines()[2:]
    assert same == verdicts.overview([torch]).splitlines()[2:]
    jax["claims"]["elastic"]["cells"][0]["verdict"] = "supported"
    changed = verdicts.overview([jax, torch]).splitlines()[2:]
    assert changed[0] == same[0].replace(" |", "* |", 2).replace("* |", " |", 1)
    assert changed[1:] == same[1:]


def test_what_was_timed_on_a_machine_is_counted_in_a_column_of_its_own(decisions):
    results = told("throughput", "a", decisions, "fresh processes on this machine")
    (claim, *_) = (each for each in results["claims"].values() if each["cells"])
    given = ["inconclusive", "supported", "inconclusive", "contradicted", "inconclusive"]
    claim["cells"] = [{**claim["cells"][0], "verdict": verdict} for verdict in given]
    head, _, line, *_ = verdicts.overview([results]).splitlines()
    assert head == f"| claim | {verdicts.TIMED} |"
    assert line.endswith("| ? in 3 of 5 |")


@pytest.mark.slow
def test_the_frame_of_decisions_says_what_claims_json_says():
    folder = Path(__file__).parents[2] / "results" / "extrapolation" / "digits"
    decisions = deciding.decide_published(folder)
    shown = verdicts.frame(decisions).set_index(["claim", "task", "condition", "witness"])
    found = json.loads((folder / "claims.json").read_text())["claims"]
    lines = 0
    for id, told in found.items():
        for cell in told["cells"]:
            for condition in cell["conditions"]:
                for witness in condition["witnesses"]:
                    line = shown.loc[(id, cell["task"], condition["condition"], witness["witness"])]
                    lines += 1
                    assert line["cell_verdict"] == condition["verdict"]
                    for name in ("estimate", "low", "high", "n", "verdict"):
                        assert line[name] == witness[name]
                    bounds = [line["region_low"], line["region_high"]]
                    assert [None if math.isinf(bound) else bound for bound in bounds] == witness["region"]
    assert lines == len(shown)
