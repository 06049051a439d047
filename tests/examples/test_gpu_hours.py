"""GPU-hours follow from parameters, tokens and steps, as a sheet of paper would have them."""

import re
import subprocess
import sys

import gpu_hours
import pytest
from gpu_hours import IMAGENET, Work, lines, of_paper, of_preset

from eltbench import studies
from eltbench.cli import main as cli
from eltbench.execution.step_cost import step_flops
from eltbench.studies.presets import load_preset
from eltbench.training.loop import parts


def by_model():
    return {work.model: work for work in of_paper()}


def test_training_is_six_times_weights_times_tokens_for_every_layer_that_is_run():
    """The rule of thumb that everybody knows, within what it leaves out: attention among tokens, modulation, head."""
    works = by_model()
    for model, layers, width, tokens, batch in (
        ("MaskGIT-L", 24, 1024, 257, 512),
        ("ELT-L 8Nx3L", 24, 1024, 257, 512),
        ("ELT 4Nx8L", 32, 2048, 256, 512),
    ):
        rule = 6 * layers * 12 * width**2 * tokens * batch * works[model].steps
        assert rule < works[model].training < 1.1 * rule


def test_a_looped_network_costs_what_its_depth_costs_not_what_its_weights_do():
    works = by_model()
    assert works["ELT 1Nx32L"].training == pytest.approx(works["DiT-32"].training, rel=0.01)
    assert works["DiT-32"].training == pytest.approx(2 * works["DiT-16"].training, rel=0.01)


def test_masked_networks_see_every_image_270_times():
    assert by_model()["MaskGIT-L"].steps * 512 == pytest.approx(270 * IMAGENET, rel=1e-5)


def test_the_sample_of_the_masked_network_costs_the_gigaflops_that_the_paper_prints_twice_for_guidance():
    assert by_model()["MaskGIT-L"].sampling / 50_000 == pytest.approx(2 * 3.7e12, rel=0.06)


def test_hours_are_flops_over_what_is_sustained_and_the_last_line_is_their_sum():
    works = [Work("a", "elt", 10, 3.6e18, 7.2e18), Work("b", "elt", 20, 7.2e18, 3.6e18)]
    shown = lines(works, tflops=100.0)
    assert [line[3:] for line in shown] == [("3.6", "10", "20"), ("7.2", "20", "10"), ("10.8", "30", "30")]
    assert [line[4] for line in lines(works, tflops=50.0)] == ["20", "40", "60"]


def test_a_preset_is_the_sum_of_its_runs():
    preset = load_preset("extrapolation", "smoke")
    jobs = studies.create("extrapolation").plan(preset)
    total = sum(step_flops(job.run, parts(job.run)) * job.run.optimisation.steps for job in jobs)
    assert sum(work.training for work in of_preset("extrapolation", "smoke")) == pytest.approx(total)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tflops", "0"], "must be above 0, given 0"),
        (["extrapolation", "--tflops", "1"], "name a preset of extrapolation too"),
        (["extrapolation", "smok", "--tflops", "1"], "did you mean 'smoke'?"),
        (["audit", "x", "--tflops", "1"], "unknown preset of audit 'x'"),
    ],
)
def test_what_cannot_be_counted_is_refused(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        gpu_hours.main(arguments)


def test_the_script_prints_a_line_a_network(capsys):
    assert gpu_hours.main(["--tflops", "400"]) == 0
    said = capsys.readouterr().out
    assert all(work.model in said for work in of_paper())


def test_the_script_runs_by_itself_and_is_no_command(capsys):
    command = [sys.executable, gpu_hours.__file__, "--tflops", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: --tflops: what one GPU sustains must be above 0, given 0" in done.stderr
    assert cli.main(["gpu-hours", "--tflops", "400"]) == 2
    assert "gpu-hours" not in cli.USAGE
    capsys.readouterr()
