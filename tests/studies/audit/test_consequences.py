"""What follows from the rows is what the printed figures say."""

import pytest

from eltbench import studies
from eltbench.studies.audit.paper import statements
from eltbench.studies.audit.paper.consequences import consequences
from eltbench.studies.audit.paper.recount import recount


@pytest.fixture(scope="module")
def found():
    return list(consequences(list(recount())))


def lines(found, **wanted):
    return [it for it in found if all(it.get(name) == value for name, value in wanted.items())]


def test_inception_score_is_below_the_baselines_in_four_rows(found):
    scores = {it["model"]: it["fits"] for it in lines(found, metric="inception_score")}
    assert scores == {
        "ELT-L 8Nx3L": False,
        "ELT-L 12Nx2L": True,
        "ELT-XL 7Nx4L": False,
        "ELT 6Nx4L": False,
        "ELT 6Nx6L": False,
    }


def test_distances_are_at_most_the_baselines_but_for_small_blocks(found):
    worse = {it["model"] for metric in ("fid", "fvd") for it in lines(found, metric=metric, fits=False)}
    assert worse == {"ELT-L 8Nx3L", "ELT 1Nx32L", "ELT 4Nx8L"}


def test_the_printed_spreads_of_the_video_figures_are_weighed(found):
    """By hand: 76 - 72.8 = 3.2 over sqrt(2.5² + 2²) = 3.2."""
    (line,) = lines(found, metric="fvd", model="ELT 6Nx4L")
    assert line["reason"] == "1.0 times both printed spreads in quadrature"
    (line,) = lines(found, metric="fvd", model="ELT 6Nx4L at L=6")  # prints no spread
    assert line["reason"] is None


def test_stated_parameter_ratios_hold(found):
    stated = lines(found, metric="stated params ratio")
    assert {it["claim"]: round(it["value"], 2) for it in stated} == {"iso-compute": 4.02, "iso-compute-gain": 1.91}
    assert all(it["fits"] for it in stated)


def test_parameters_fall_by_less_than_the_layers_where_embeddings_weigh(found):
    failing = {it["model"] for it in lines(found, metric="params ratio", fits=False)}
    assert failing == {"ELT 1Nx32L", "ELT 4Nx8L", "ELT 8Nx4L"}


def test_only_the_deeper_video_model_takes_more_compute_than_its_baseline(found):
    (line,) = lines(found, metric="gflops ratio", fits=False)
    assert line["model"] == "ELT 6Nx6L"
    assert line["value"] == pytest.approx(13 / 4.3)


def test_the_two_masked_tables_do_not_share_a_flop_convention(found):
    both = {it["table"]: it for it in lines(found, metric="gflops_k", model="all rows")}
    assert both["ucf101_masked"]["fits"]
    assert "MACs, attention in" in both["ucf101_masked"]["convention"]
    for table, rows in (("imagenet256_masked", 5), ("imagenet256_masked and ucf101_masked", 8)):
        assert (both[table]["value"], both[table]["reported"], both[table]["fits"]) == (3, rows, False)


def test_a_diffusion_layer_is_of_sixteen_squares_and_a_masked_one_of_twelve(found):
    layers = {(it["table"], it["layer"]): it["fits"] for it in found if it.get("layer")}
    assert {name for name, fits in layers.items() if fits} == {
        ("imagenet256_masked", "12d²"),
        ("imagenet256_diffusion", "16d²"),
        ("ucf101_masked", "12d²"),
    }
    assert len(layers) == 9


@pytest.mark.parametrize("quote", statements.QUOTES, ids=lambda quote: f"{quote.claim} {quote.column}")
def test_quoted_figures_stand_in_the_claims_reference_and_agree_with_the_table(quote, found):
    reference = studies.claim(quote.claim).reference
    assert all(figure in reference for figure in quote.figures.values())
    assert all(it["fits"] for it in lines(found, claim=quote.claim, metric=quote.column))


def test_ilsds_second_exit_costs_less_than_half_a_percent_of_a_step(found):
    """By hand for 8N×3L: a head of 1024² beside 24 layers of 12·1024², attention of 2·257·1024 and the first head."""
    (line,) = lines(found, metric="step flops ratio", model="ELT-L 8Nx3L")
    head = 256 * 1024**2
    assert line["value"] == pytest.approx(1 + head / (24 * (257 * 12 * 1024**2 + 2 * 257**2 * 1024) + head))
    assert all(it["value"] < 1.005 for it in lines(found, metric="step flops ratio"))


def test_what_cannot_be_recomputed_names_its_claim_and_why(found):
    open_lines = lines(found, table="claims")
    every = [claim for its in studies.claims().values() for claim in its if claim.paper_section]
    without = {claim.id for claim in every if claim.reference in statements.WITHOUT_FIGURE}
    assert {it["claim"] for it in open_lines} == {"convergence", "train-memory"} | without
    assert len(without) == 11
    assert all(it["reason"] and "value" not in it for it in open_lines)
