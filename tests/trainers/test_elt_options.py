"""The options of elt for ablations: schedules of λ, and terms that are switched off."""

from __future__ import annotations

import itertools
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from eltbench import trainers
from eltbench.backends.torch.ops import TorchOps
from eltbench.tasks.base import Batch, ExitOutput
from eltbench.trainers.elt import DECAYS, ELT, trust_in_labels

PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)
QUARTER = 2**-0.5 / 2  # cos(π/4) / 2
BY_HAND = {
    "linear": (1, 0.75, 0.5, 0.25, 0),  # the paper's
    "cosine": (1, 0.5 + QUARTER, 0.5, 0.5 - QUARTER, 0),
    "step": (1, 1, 0, 0, 0),
    "early-only": (1, 0.5, 0, 0, 0),
    "constant-1": (1, 1, 1, 1, 1),
    "constant-0": (0, 0, 0, 0, 0),
}


def test_every_schedule_has_a_hand_worked_row():
    assert BY_HAND.keys() == DECAYS.keys() == set(get_args(get_type_hints(ELT)["decay"]))


@pytest.mark.parametrize("decay", BY_HAND)
def test_a_schedule_has_its_hand_worked_values_in_every_library(decay):
    traced = jax.jit(lambda progress: jnp.float32(trust_in_labels(decay, progress)))
    for progress, expected in zip(PROGRESS, BY_HAND[decay], strict=True):
        number = trust_in_labels(decay, progress)
        assert type(number) is float
        assert number == pytest.approx(expected, abs=1e-15)
        for scalar in (np.float32(progress), torch.tensor(progress)):
            assert float(trust_in_labels(decay, scalar)) == pytest.approx(expected, abs=1e-7)
        assert float(traced(progress)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("decay", DECAYS)
def test_trust_stays_between_none_and_full_and_never_grows(decay):
    trust = [trust_in_labels(decay, step / 1000) for step in range(1001)]
    assert 0 <= min(trust) <= max(trust) <= 1
    assert all(later <= earlier for earlier, later in itertools.pairwise(trust))


def test_the_linear_schedule_is_the_papers_to_the_last_digit():
    assert [trust_in_labels("linear", step / 1499) for step in range(1500)] == [1 - step / 1499 for step in range(1500)]


class Marked:
    """A task whose losses are numbers of their own, so that every term shows its factor."""

    def loss(self, output, batch, ops):
        return output.prediction.sum()  # 3 for the student, 5 for the teacher

    def distillation(self, student, teacher, batch, ops):
        return 0 * student.prediction.sum() + 7


def terms(progress=0.25, **options):
    outputs = [ExitOutput(torch.tensor([3.0])), ExitOutput(torch.tensor([5.0]))]
    found = trainers.create("elt", **options).objective(outputs, Batch(*[None] * 6), progress, Marked(), TorchOps())
    return {name: float(term) for name, term in found.items()}


@pytest.mark.parametrize("decay", DECAYS)
def test_the_schedule_weighs_labels_against_the_teacher(decay):
    trust = trust_in_labels(decay, 0.25)
    assert terms(decay=decay) == pytest.approx({"teacher": 5, "student": trust * 3, "distillation": (1 - trust) * 7})


def test_without_options_the_objective_is_the_papers():
    assert terms() == {"teacher": 5, "student": 0.75 * 3, "distillation": 0.25 * 7}


@pytest.mark.parametrize("name", ["teacher", "student", "distillation"])
def test_each_term_can_be_left_out_without_touching_the_others(name):
    expected = terms()
    del expected[name]
    assert terms(**{name: False}) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"teacher": False, "student": False},
        {"teacher": False, "student": False, "distillation": False},
        {"teacher": False, "decay": "constant-0"},
    ],
    ids=str,
)
def test_a_loss_that_never_sees_the_labels_is_refused(options):
    with pytest.raises(ValueError, match=r"trainer 'elt': no term reads the labels .*switch on the teacher's term"):
        trainers.create("elt", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "cosin"}, "decay is given as 'cosin'"),
        ({"decay": 1}, "decay is given as 1"),
        ({"techer": False}, "unknown trainer 'elt' field 'techer'; did you mean 'teacher'?"),
        ({"student": 0.5}, "student is given as 0.5"),
    ],
    ids=str,
)
def test_options_that_elt_does_not_have_are_refused(options, message):
    with pytest.raises(ValueError, match=r".") as refusal:
        trainers.create("elt", **options)
    assert message in str(refusal.value)
