"""A batch divided over two and four devices: the losses, checkpoints and compilations of one device."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from two_backends import small_run

from eltbench.backends.jax.engine import JaxEngine
from eltbench.training.loop import build_engine

FLAG = "--xla_force_host_platform_device_count"


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    """What one device and several said of a trainer's runs, for both tasks, in a process with four devices."""

    @functools.cache
    def ask(trainer: str) -> list[dict]:
        script, folder = Path(__file__).parents[2] / "support" / "divided.py", tmp_path_factory.mktemp("divided")
        process = subprocess.run(
            [sys.executable, "-W", "error", script, folder, trainer],
            env={**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {FLAG}=4"},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert process.returncode == 0, process.stderr
        found = [json.loads(line) for line in process.stdout.splitlines()]
        assert [each["task"] for each in found] == ["diffusion", "masked"]
        assert {each["devices"] for each in found} == {2, 4}
        return found

    return ask


@pytest.fixture(params=["elt", "universal-transformer"])
def compared(request, compare):
    return compare(request.param)


@pytest.mark.slow
class TestSeveralDevices:
    def test_every_step_says_what_one_device_says_also_from_the_others_checkpoint(self, compared):
        """Loss, terms, the gradient's norm; also the mean over masked tokens, of which items hold unequally many."""
        for each in compared:
            one, several = each["said"]
            assert len(one) == 5
            for ours, theirs in zip(one, several, strict=True):
                assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-6 * ours["loss"])

    def test_the_step_is_compiled_once(self, compared):
        for each in compared:
            assert each["compiled"] == [[1, 0, 0, 0, 0]] * 2

    def test_every_device_has_its_share_of_the_batch_and_of_the_work_and_all_weights(self, compared):
        for each in compared:
            devices, (whole, share) = each["devices"], each["work"]
            assert each["items"] == [4 // devices] * devices
            assert share < whole * (1 / devices + 0.2)  # the optimiser's part is not divided
            assert all(each["whole"])

    def test_predictions_are_those_of_one_device(self, compare):
        ours, theirs = compare("elt")[1]["predictions"]
        assert theirs == pytest.approx(ours, abs=1e-5)


def test_more_devices_than_there_are_are_refused_with_their_number_and_the_flag():
    here = len(jax.devices("cpu"))
    message = f"jax has {here} of device 'cpu' here, given devices = {here + 1}; XLA_FLAGS={FLAG}={here + 1} makes"
    run = small_run()
    run = replace(run, backend="jax", optimisation=replace(run.optimisation, batch_size=here + 1), devices=here + 1)
    for ask in (lambda: JaxEngine.check_device("cpu", here + 1), lambda: build_engine(run)):
        with pytest.raises(ValueError, match=message):
            ask()
    JaxEngine.check_device("cpu", here)
