"""Sampling settings are finite numbers and steps that somebody takes, however they are made."""

import math

import pytest

from eltbench.core.validation import build
from eltbench.tasks.diffusion import DiffusionSampling
from eltbench.tasks.masked import MaskedSampling


@pytest.mark.parametrize("settings", [DiffusionSampling, MaskedSampling])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"guidance_scale": math.nan}, "guidance_scale must be finite, given nan"),
        ({"guidance_scale": math.inf}, "guidance_scale must be finite, given inf"),
        ({"guidance_scale": True}, "guidance_scale must be a number, given True"),
        ({"steps": True}, "steps must be a number, given True"),
        ({"steps": 0}, "steps must be at least 1, given 0"),
        ({"steps": 10**8}, "a sampler takes at most 100,000 steps, given 100,000,000"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, given, message):
    for make in (lambda: settings(**given), lambda: build(settings, given, "sampling")):
        with pytest.raises(ValueError, match=f"^sampling: {message}$"):
            make()


def test_half_a_step_is_no_step():
    with pytest.raises(ValueError, match=r"^sampling: steps must be at least 1, given 1\.5"):
        DiffusionSampling(steps=1.5)
