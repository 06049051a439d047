"""Checkpoints as files: modes of the umask, and a refusal of what no training writes."""

import os
import stat

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from eltbench.backends import checkpoint

SHAPES = {"weight": (2, 3), "bias": (3,)}


def parts(names=checkpoint.PARTS):
    return {part: {name: np.full(shape, 0.5, np.float32) for name, shape in SHAPES.items()} for part in names}


@pytest.fixture
def written(tmp_path):
    """A checkpoint and a snapshot of step 7."""
    checkpoint.write(tmp_path, 7, {"trainer": "elt"}, parts())
    checkpoint.write_snapshot(tmp_path, 7, parts(["average"])["average"])
    return tmp_path


def altered(path, step="7", **changes):
    """Write some tensors of a file otherwise; `step` is what it says of its step."""
    tensors = {**load_file(path), **{name.replace("__", "."): value for name, value in changes.items()}}
    save_file(tensors, path, metadata=None if step is None else {"step": step, "format": "eltbench-1"})


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_checkpoints_and_snapshots_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        checkpoint.write(tmp_path, 7, {}, parts())
        checkpoint.write_snapshot(tmp_path, 7, parts(["average"])["average"])
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {mode}


def test_what_was_written_is_read(written):
    step, read = checkpoint.read(written, SHAPES)
    assert step == 7
    assert set(read) == set(checkpoint.PARTS)
    assert (checkpoint.read_snapshot(written, 7, SHAPES)["weight"] == 0.5).all()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.full((2, 3), np.nan, np.float32), "not finite"),
        (np.full((2, 3), -np.inf, np.float32), "not finite"),
        (np.ones((2, 3), np.int64), "values of I64, not F32"),
        (np.ones((2, 3), bool), "values of BOOL, not F32"),
        (np.ones((2, 3), np.float16), "values of F16, not F32"),
        (np.ones((2, 3), np.float64), "values of F64, not F32"),
        (np.ones((3, 2), np.float32), "does not fit this network"),
    ],
)
def test_values_that_no_training_writes_are_refused(written, value, words):
    altered(written / "checkpoint.safetensors", average__weight=value)
    with pytest.raises(ValueError, match=f"checkpoint.safetensors is damaged or not eltbench's: .*{words}"):
        checkpoint.read(written, SHAPES)
    altered(written / "snapshot-7.safetensors", average__weight=value)
    with pytest.raises(ValueError, match=f"snapshot-7.safetensors is damaged or not eltbench's: .*{words}"):
        checkpoint.read_snapshot(written, 7, SHAPES)


def test_a_mean_of_squares_below_zero_is_refused_and_a_mean_below_zero_is_not(written):
    below = np.full((2, 3), -0.5, np.float32)
    altered(written / "checkpoint.safetensors", exp_avg__weight=below)
    checkpoint.read(written, SHAPES)
    altered(written / "checkpoint.safetensors", exp_avg_sq__weight=below)
    with pytest.raises(ValueError, match=r"exp_avg_sq.weight, means of squares, holds values below 0"):
        checkpoint.read(written, SHAPES)


@pytest.mark.parametrize("step", [None, "-1", "1.5", "seven", "٣", "9" * 5000])
def test_a_file_that_says_no_step_is_refused(written, step):
    altered(written / "checkpoint.safetensors", step)
    with pytest.raises(ValueError, match="says no step of a training"):
        checkpoint.read(written, SHAPES)


def test_what_the_system_refuses_is_not_called_damage(written, monkeypatch):
    def refuse(path, *arguments, **named):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoint.Path, "open", refuse)
    with pytest.raises(PermissionError):
        checkpoint.read(written, SHAPES)


@pytest.mark.parametrize("parameters", [8, 10, 10**15])
def test_a_network_of_another_size_is_refused_before_any_is_built(written, parameters):
    checkpoint.check_size(written, 9)
    with pytest.raises(ValueError, match=rf"asks for {16 * parameters} bytes of values, the file holds 144"):
        checkpoint.check_size(written, parameters)
