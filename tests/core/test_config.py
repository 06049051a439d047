"""Configuration: refused with what was given and what is allowed, and the same after a trip through JSON."""

import json
from dataclasses import FrozenInstanceError, asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eltbench.core.config import Architecture, Optimisation, Run, build, run_from_dict


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"width": 64, "heads": 5},
            "heads must divide width, given width 64 and heads 5; the nearest width that would work is 60",
        ),
        (
            {"width": 66, "heads": 2},
            "width must be a multiple of 4 .*, given 66; the nearest width that would work is 64",
        ),
        ({"min_loops": 5, "max_loops": 4}, "min_loops must not exceed max_loops, given 5 > 4"),
        ({"unique_layers": 0}, "unique_layers must be a positive integer, given 0"),
        ({"max_loops": -1}, "max_loops must be a positive integer, given -1"),
        ({"min_loops": 1.5}, "min_loops must be a positive integer, given 1.5"),
        ({"patch": "2"}, "patch must be a positive integer, given '2'"),
        ({"unique_layers": True}, "unique_layers must be a positive integer, given True"),
        (
            {"unique_layers": 1024, "width": 65_536},
            "unique_layers 1024, width 65536 and mlp_ratio 4 make 5.3e\\+13 weights, and at most 1e\\+12 are allowed",
        ),
        ({"max_loops": 10_000_000}, "max_loops must be at most 1024, given 10000000"),
        ({"unique_layers": 1_000_000}, "unique_layers must be at most 1024, given 1000000"),
        ({"width": 1 << 40}, "width must be at most 65536, given 1099511627776"),
        ({"block": "dti"}, r"block must be one of \('dit', 'bert'\), given 'dti'"),
        ({"norm": "none"}, r"norm must be one of \('pre', 'sandwich', 'post'\), given 'none'"),
        ({"norm": "post"}, "norm 'post' is of block 'bert'; a 'dit' modulates the norm before a layer"),
        ({"residual_scale": "loop"}, r"residual_scale must be one of \('none', 'loops', 'layers'\), given 'loop'"),
        ({"residual_scale": "loops", "residual_strength": 0}, "residual_strength must be above 0, given 0"),
        ({"residual_strength": 2.0}, "residual_strength 2 needs a residual_scale, which is 'none'"),
        ({"prelude": -1}, "prelude must be an integer from 0 on, given -1"),
        ({"coda": 1.0}, "coda must be an integer from 0 on, given 1.0"),
        ({"coda": True}, "coda must be an integer from 0 on, given True"),
        ({"prelude": 1023}, r"prelude \+ unique_layers \+ coda must be at most 1024, given 1023 \+ 2 \+ 0"),
        ({"recall": "inside"}, "recall 'inside' needs input_injection = true, given false"),
        ({"recall": "between"}, r"recall must be one of \('before', 'inside'\), given 'between'"),
        ({"positions": "learned"}, r"positions must be one of \('sinusoidal', 'rotary'\), given 'learned'"),
        ({"positions": "rotary", "heads": 32}, r"rotary positions need a multiple of 4 as width / heads .*, given 2"),
        ({"attention_radius": -1}, "attention_radius must be 0 or more, given -1"),
        ({"loop_adapter_rank": -1}, "loop_adapter_rank must be an integer from 0 to width, given -1 at width 64"),
        ({"loop_adapter_rank": 65}, "loop_adapter_rank must be an integer from 0 to width, given 65 at width 64"),
        ({"loop_adapter_rank": 2.0}, "loop_adapter_rank must be an integer from 0 to width, given 2.0 at width 64"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), given 1.0"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), given -0.1"),
        ({"dropout": float("nan")}, r"dropout must be in \[0, 1\), given nan"),
        ({"dropout": True}, r"dropout must be in \[0, 1\), given True"),
        ({"attention_radius": False}, "attention_radius must be a number, given False"),
    ],
)
def test_an_impossible_architecture_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"^architecture: {message}$"):
        Architecture(**fields)


@pytest.mark.parametrize("seed", [-1, True, 1.5, 2**63, "0"])
def test_a_seed_is_a_whole_number_that_a_row_can_hold(seed):
    with pytest.raises(ValueError, match=r"^run: seed must be a"):
        Run("elt", "diffusion", "digits", seed=seed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, given 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1, given 2.5"),
        ({"warmup_steps": -1}, "warmup_steps must be an integer of at least 0, given -1"),
        ({"schedule": "cosin"}, "schedule must be 'constant' or 'cosine', given 'cosin'"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), given 1.0"),
        ({"steps": True}, "steps must be a number, given True"),
        ({"learning_rate": True}, "learning_rate must be a number, given True"),
        ({"learning_rate": float("inf")}, "learning_rate must be finite, given inf"),
        ({"weight_decay": float("nan")}, "weight_decay must be finite, given nan"),
        ({"betas": (0.9, float("nan"))}, r"betas must be finite, given \(0.9, nan\)"),
        ({"label_dropout": 1.1}, r"label_dropout must be in \[0, 1\], given 1.1"),
        (
            {"steps": 10**12, "snapshot_every": 1},
            "snapshot_every 1 would keep 999999999999 snapshots, at most 10000 are kept; raise it",
        ),
    ],
)
def test_an_impossible_optimisation_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"^optimisation: {message}$"):
        Optimisation(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "fp16"}, "precision must be 'fp32' or 'bf16', given 'fp16'"),
        ({"threads": 0}, "threads must be at least 1, given 0"),
    ],
)
def test_an_impossible_run_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"^run: {message}$"):
        Run("elt", "masked", "digits-codes", **fields)


def test_a_run_says_what_it_is_and_every_unusual_setting():
    assert repr(Run("elt", "masked", "relay")) == "Run(elt masked relay 2N×4L seed 0)"
    shape, brief = Architecture(max_loops=6, width=32), Optimisation(steps=5, betas=(0.9, 0.95))
    run = Run("elt", "masked", "relay", 3, shape, brief, dataset_options=(("colours", 5),), backend="jax")
    changed = "width=32, steps=5, betas=(0.9, 0.95), dataset_options=(('colours', 5),), backend='jax'"
    assert repr(run) == f"Run(elt masked relay 2N×6L seed 3; {changed})"
    assert run._repr_html_().startswith("<p>Run: elt masked relay 2N×6L seed 3</p><table><tr><td>width</td><td>32</td>")


def test_a_run_of_a_stranger_is_shown_as_text():
    run = Run("<b>\x1b[2J", "masked", "relay", dataset_options=(("<i>", "<script>"),))
    assert repr(run).isprintable()
    shown = run._repr_html_()
    assert not any(tag in shown for tag in ("<b>", "<i>", "<script>", "\x1b["))
    assert "&lt;script&gt;" in shown


def test_the_edges_of_the_allowed_are_allowed():
    assert Architecture(min_loops=4, max_loops=4, attention_radius=0, heads=64).effective_depth == 8
    assert Architecture(prelude=3, coda=2, positions="rotary", heads=16).effective_depth == 3 + 2 * 4 + 2
    assert Optimisation(steps=1, warmup_steps=0, ema_decay=0, label_dropout=1).label_dropout == 1


def test_averages_that_mean_little_are_doubted():
    """0.995^300 = 22 %; the earliest average that is measured counts; a debiased one forgets the first weights."""
    assert Optimisation().doubts == ()
    (said,) = Optimisation(steps=300).doubts
    assert "the first weights 22 % of the average that is measured at step 300" in said
    assert "69 % of the average that is measured at step 75" in Optimisation(steps=1500, snapshot_every=75).doubts[0]
    assert Optimisation(steps=300, ema_debias=True).doubts == ()
    (said,) = Optimisation(steps=20, warmup_steps=20, ema_debias=True).doubts
    assert "warmup_steps = 20 of 20 steps" in said


def test_a_configuration_cannot_be_changed():
    run = Run("elt", "masked", "digits-codes")
    with pytest.raises(FrozenInstanceError):
        run.seed = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        run.architecture.width = 8  # type: ignore[misc]


@st.composite
def architectures(draw):
    heads = draw(st.sampled_from([1, 2, 4]))
    max_loops = draw(st.integers(1, 12))
    return Architecture(
        unique_layers=draw(st.integers(1, 24)),
        max_loops=max_loops,
        min_loops=draw(st.integers(1, max_loops)),
        width=4 * heads * draw(st.integers(1, 32)),
        heads=heads,
        block=draw(st.sampled_from(["dit", "bert"])),
        norm=draw(st.sampled_from(["pre", "sandwich"])),
        input_injection=draw(st.booleans()),
        attention_radius=draw(st.none() | st.integers(0, 9)),
        loop_adapter_rank=draw(st.integers(0, 4)),
    )


finite = st.floats(0, 1e3)
below_one = st.floats(0, 1, exclude_max=True)
optimisations = st.builds(
    Optimisation,
    steps=st.integers(1, 10**6),
    learning_rate=finite,
    betas=st.tuples(below_one, below_one),
    ema_decay=st.floats(0, 1, exclude_max=True),
)
values = st.none() | st.booleans() | st.integers() | finite | st.text(max_size=5)
options = st.dictionaries(st.text(min_size=1, max_size=5), values | st.lists(values | st.lists(values), max_size=3))
runs = st.builds(
    Run,
    trainer=st.text(),
    task=st.text(),
    dataset=st.text(),
    seed=st.integers(0, 2**63 - 1),
    architecture=architectures(),
    optimisation=optimisations,
    trainer_options=options,
    dataset_options=options,
    precision=st.sampled_from(["fp32", "bf16"]),
    compile=st.booleans(),
    threads=st.integers(1, 64),
)


@pytest.mark.slow
@given(runs)
@settings(deadline=None)
def test_a_run_survives_a_trip_through_json(run):
    assert run_from_dict(run.to_dict()) == run
    back = run_from_dict(json.loads(json.dumps(run.to_dict())))
    assert back == run
    assert hash(back) == hash(run)
    assert back.to_dict() == run.to_dict()


@given(options)
@settings(deadline=None)
def test_options_have_no_order_and_may_be_given_as_a_mapping_or_as_pairs(options):
    pairs = list(options.items())
    given_as = [options, tuple(pairs), tuple(reversed(pairs))]
    assert len({Run("elt", "masked", "relay", dataset_options=form) for form in given_as}) == 1


def test_whole_numbers_stand_for_their_floats():
    whole, decimal = Optimisation(gradient_clip=1, betas=(0, 0.5)), Optimisation(gradient_clip=1.0, betas=(0.0, 0.5))
    assert json.dumps(asdict(whole)) == json.dumps(asdict(decimal))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"traner": "elt"}, r"unknown run field 'traner'; did you mean 'trainer'\?"),
        ({"architecture": {"witdh": 64}}, r"unknown architecture field 'witdh'; did you mean 'width'\?"),
        (
            {"optimisation": {"learning_rat": 1}},
            r"unknown optimisation field 'learning_rat'; did you mean 'learning_rate",
        ),
        ({"architecture": {"heads": 3}}, "heads must divide width"),
    ],
)
def test_plain_values_that_are_no_run_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        run_from_dict({"trainer": "elt", "task": "masked", "dataset": "relay"} | change)


def test_a_missing_field_is_named():
    with pytest.raises(ValueError, match="run: task is missing, given trainer, dataset"):
        run_from_dict({"trainer": "elt", "dataset": "relay"})


def test_fields_left_out_take_their_defaults():
    assert build(Architecture, {"width": 32}) == Architecture(width=32)
