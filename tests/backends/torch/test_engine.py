from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from eltbench.backends.torch.adamw import AdamW
from eltbench.backends.torch.engine import TorchEngine
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.streams import stream
from eltbench.trainers.elt import ELT
from eltbench.training.loop import build_engine, fit, parts

SMALL = Architecture(unique_layers=1, max_loops=3, width=16, heads=2)
CHECKPOINT = "checkpoint.safetensors"


def small_run(steps: int = 10, **changes) -> Run:
    optimisation = Optimisation(steps=steps, batch_size=8, warmup_steps=3, log_every=4, checkpoint_every=5)
    return Run("elt", "diffusion", "digits", architecture=SMALL, optimisation=optimisation, **changes)


def batch_for(run: Run, step: int = 0):
    made = parts(run)
    clean = made.dataset.batch(stream(run.dataset, run.seed, "batch", step), run.optimisation.batch_size)
    return made.task.corrupt(clean, made.dataset.spec, stream(run.dataset, run.seed, "corruption", step))


def engine_after(run: Run, steps: int, rate: float = 1e-3) -> TorchEngine:
    engine = build_engine(run)
    for step in range(steps):
        engine.step(batch_for(run, step), (1, 3), 0.5, rate)
    return engine


def weights(engine: TorchEngine) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in engine.network.parameters()]


class StoppedError(Exception):
    pass


def fit_until(run: Run, directory, step: int) -> None:
    def stop(done, _):
        if done >= step:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(run, directory, stop)


# Checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "task", "dataset"),
    [("elt", "diffusion", "digits"), ("elt", "masked", "digits-codes"), ("random-loops", "diffusion", "digits")],
)
def test_a_run_resumed_in_its_middle_ends_bit_identical_to_an_uninterrupted_one(trainer, task, dataset, tmp_path):
    run = replace(small_run(steps=14), trainer=trainer, task=task, dataset=dataset)
    if trainer == "random-loops":  # some steps leave parts unused
        run = replace(run, architecture=replace(SMALL, input_injection=True, loop_adapter_rank=2))
    fit(run, tmp_path / "whole")
    fit_until(run, tmp_path / "resumed", 8)  # the checkpoint of step 5 is there, steps 6 to 8 are lost
    kept = load_file(tmp_path / "resumed" / CHECKPOINT)
    fit(run, tmp_path / "resumed")
    whole, resumed = (load_file(tmp_path / name / CHECKPOINT) for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    assert any(not torch.equal(tensor, whole[name]) for name, tensor in kept.items())


def test_a_loaded_checkpoint_predicts_and_trains_on_as_the_saved_engine_does(tmp_path):
    run = small_run()
    saved = engine_after(run, 4)
    saved.save(tmp_path, 4)
    loaded = build_engine(run)
    assert loaded.load(tmp_path) == 4
    batch = saved.upload(batch_for(run, 9))
    for engine in (saved, loaded):
        engine.step(batch_for(run, 4), (2, 3), 0.7, 1e-3)
    for ours, theirs in zip(saved.predict(batch, (1, 5)), loaded.predict(batch, (1, 5)), strict=True):
        assert torch.equal(ours.prediction, theirs.prediction)
    assert all(torch.equal(*pair) for pair in zip(weights(saved), weights(loaded), strict=True))


def test_saving_leaves_the_checkpoint_and_its_description_alone_in_the_folder(tmp_path):
    engine_after(small_run(), 1).save(tmp_path / "new" / "folder", 1)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["checkpoint.json", CHECKPOINT]


def test_a_save_that_dies_while_it_writes_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    run = small_run()
    engine = engine_after(run, 2)
    engine.save(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    written = Path.write_bytes

    def half(path, data):
        written(path, data[:5000])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="no space"):
        engine.save(tmp_path, 2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_a_truncated_checkpoint_is_refused_and_changes_nothing(kept, tmp_path):
    run = small_run()
    engine_after(run, 2).save(tmp_path, 2)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[:kept])
    engine = build_engine(run)
    before = weights(engine)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is damaged"):
        engine.load(tmp_path)
    assert all(torch.equal(*pair) for pair in zip(before, weights(engine), strict=True))


def test_a_checkpoint_of_another_network_is_refused_by_name_and_by_shape(tmp_path):
    run = small_run()
    engine_after(run, 1).save(tmp_path / "saved", 1)
    for other in (replace(SMALL, width=32), replace(SMALL, unique_layers=2), replace(SMALL, block="bert")):
        with pytest.raises(ValueError, match="does not fit this network"):
            build_engine(replace(run, architecture=other)).load(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / CHECKPOINT)
    shutil.copytree(tmp_path / "saved", tmp_path / "foreign")
    save_file(tensors, tmp_path / "foreign" / CHECKPOINT)  # without our metadata
    with pytest.raises(ValueError, match="not eltbench's"):
        build_engine(run).load(tmp_path / "foreign")


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="checkpoint"):
        build_engine(small_run()).load(tmp_path)


# The optimiser's step


def test_the_average_is_the_exponential_average_of_the_weights_after_each_step():
    """w̄_1 = w_1, w̄_k = d w̄_(k-1) + (1 - d) w_k."""
    run = small_run()
    run = replace(run, optimisation=replace(run.optimisation, ema_decay=0.8))
    engine, expected = build_engine(run), None
    for step in range(5):
        engine.step(batch_for(run, step), (1, 3), 0.5, 1e-2)
        now = weights(engine)
        expected = now if expected is None else [0.8 * e + 0.2 * n for e, n in zip(expected, now, strict=True)]
    average = [parameter.detach() for parameter in engine.average.module.parameters()]
    for ours, theirs in zip(average, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
    assert any(not torch.equal(ours, last) for ours, last in zip(average, weights(engine), strict=True))


def test_a_debiased_average_weighs_every_step_as_the_closed_form_does_also_after_a_checkpoint(tmp_path):
    """w̄_t = Σ_k d^(t-k) (1 - d) w_k / (1 - d^t): the first weights count no more than their share."""
    run = small_run()
    run = replace(run, optimisation=replace(run.optimisation, ema_decay=0.8, ema_debias=True))
    engine, seen = build_engine(run), []
    for step in range(6):
        if step == 3:
            engine.save(tmp_path, step)
            engine = build_engine(run)
            assert engine.load(tmp_path) == step
        engine.step(batch_for(run, step), (1, 3), 0.5, 1e-2)
        seen.append(weights(engine))
        share = [0.8 ** (step - k) * 0.2 / (1 - 0.8 ** (step + 1)) for k in range(step + 1)]
        for place, averaged in enumerate(engine.average.module.parameters()):
            expected = sum(part * then[place] for part, then in zip(share, seen, strict=True))
            assert torch.allclose(averaged.detach(), expected, rtol=0, atol=1e-6)


def test_predictions_come_from_the_averaged_weights():
    run = small_run()
    engine = engine_after(run, 3, rate=1e-2)
    batch = engine.upload(batch_for(run))
    before = engine.predict(batch, (2,))[0].prediction
    with torch.no_grad():
        for parameter in engine.network.parameters():
            parameter.fill_(float("nan"))
    assert torch.equal(engine.predict(batch, (2,))[0].prediction, before)
    with torch.no_grad():
        for parameter in engine.average.module.parameters():
            parameter.add_(0.1)
    assert not torch.equal(engine.predict(batch, (2,))[0].prediction, before)


def test_one_step_is_adamw_on_the_clipped_gradient():
    """The first AdamW step by hand: w(1 - lr·wd) - lr·g/(|g| + ε) after the norm of g is cut to the limit."""
    run = small_run()
    run = replace(run, optimisation=replace(run.optimisation, gradient_clip=1e-6, weight_decay=0.1))
    engine = build_engine(run)
    with torch.no_grad():
        for parameter in engine.network.parameters():
            parameter.add_(0.1)
    before = weights(engine)
    batch = engine.upload(batch_for(run))
    outputs = engine.network(batch.inputs, batch.labels, batch.context, batch.log_snr, (1, 3))
    loss = sum(engine.trainer.objective(outputs, batch, 0.5, engine.task, engine.ops).values())
    gradients = torch.autograd.grad(loss, list(engine.network.parameters()), allow_unused=True, materialize_grads=True)
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()

    values = engine.step(batch_for(run), (1, 3), 0.5, 1e-3)
    assert float(values["gradient_norm"]) == pytest.approx(float(norm), rel=1e-5)
    assert norm > 1e-3  # so that clipping has work to do
    for old, gradient, new in zip(before, gradients, weights(engine), strict=True):
        clipped = gradient * 1e-6 / (norm + 1e-6)
        expected = old * (1 - 1e-3 * 0.1) - 1e-3 * clipped / (clipped.abs() + 1e-8)
        assert torch.allclose(new, expected, rtol=0, atol=2e-6)


def test_steps_are_those_of_torchs_optimiser_to_the_bit():
    values = [torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    optimisation = Optimisation(weight_decay=0.1, betas=(0.8, 0.95))
    ours, theirs = ([torch.nn.Parameter(each.clone()) for each in values] for _ in range(2))
    mine = AdamW(ours, optimisation)
    known = torch.optim.AdamW(theirs, betas=(0.8, 0.95), weight_decay=0.1, fused=True)
    for step in range(5):
        for each in (*ours, *theirs):
            each.grad = torch.sin(each.detach() * (step + 1))
        rate = 0.1 / (step + 1)
        known.param_groups[0]["lr"] = rate
        mine.step(rate)
        known.step()
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def test_norms_and_biases_do_not_decay_where_matrices_alone_do():
    """Steps of torch's optimiser with the two kinds of weights in groups of their own, as usual (arXiv 1711.05101)."""
    shapes = [(5, 3), (3,), (2, 3, 4), ()]
    drawn = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=drawn) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(each.clone()) for each in values] for _ in range(2))
    mine = AdamW(ours, Optimisation(weight_decay=0.1, decayed="matrices"))
    groups = [
        {"params": [each for each in theirs if each.ndim > 1], "weight_decay": 0.1},
        {"params": [each for each in theirs if each.ndim <= 1], "weight_decay": 0.0},
    ]
    known = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.99), fused=True)
    for step in range(3):
        for each in (*ours, *theirs):
            each.grad = torch.sin(each.detach() * (step + 1))
        mine.step(0.05)
        known.step()
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def test_a_gradient_below_the_limit_is_left_alone():
    """AdamW's step does not depend on the gradient's scale, so clipping shows in its first moment."""
    run = small_run()
    loose, looser = (
        engine_after(replace(run, optimisation=replace(run.optimisation, gradient_clip=clip)), 1) for clip in (1e3, 1e6)
    )
    for ours, theirs in zip(*(each.optimiser.moments["exp_avg"] for each in (loose, looser)), strict=True):
        assert torch.equal(ours, theirs)


def test_a_part_that_a_step_does_not_use_takes_its_step_without_a_gradient():
    """AdamW's second step by hand, β = (.9, .99): moments decay, and their bias is corrected for two steps."""
    run = replace(small_run(), trainer="random-loops", architecture=replace(SMALL, input_injection=True))
    run = replace(run, optimisation=replace(run.optimisation, weight_decay=0.1))
    engine = build_engine(run)
    with torch.no_grad():
        for parameter in engine.network.parameters():
            parameter.add_(0.1)
    engine.step(batch_for(run), (3,), 0.5, 1e-3)
    injection = engine.network.injection.weight
    (place,) = [at for at, each in enumerate(engine.optimiser.parameters) if each is injection]
    mean, square = (moments[place].clone() for moments in engine.optimiser.moments.values())
    before = injection.detach().clone()
    engine.step(batch_for(run, 1), (1,), 0.5, 1e-3)  # the input is injected from the second loop on
    move = (0.9 * mean / (1 - 0.9**2)) / ((0.99 * square / (1 - 0.99**2)).sqrt() + 1e-8)
    assert torch.allclose(injection, before * (1 - 1e-3 * 0.1) - 1e-3 * move, rtol=0, atol=1e-7)
    assert move.abs().max() > 0.1


def test_a_learning_rate_of_zero_leaves_the_weights_alone():
    run = small_run()
    engine = build_engine(run)
    before = weights(engine)
    engine.step(batch_for(run), (1, 3), 0.5, 0.0)
    assert all(torch.equal(*pair) for pair in zip(before, weights(engine), strict=True))


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    first, again, other = (weights(build_engine(small_run(seed=seed))) for seed in (0, 0, 1))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_weights_do_not_depend_on_torchs_global_generator():
    torch.manual_seed(1)
    first = weights(build_engine(small_run()))
    torch.manual_seed(2)
    assert all(torch.equal(*pair) for pair in zip(first, weights(build_engine(small_run())), strict=True))


# Precision, devices, compilation


@dataclass(frozen=True)
class Watching(ELT):
    """ELT that remembers the types of what it is given and of what it returns."""

    def objective(self, outputs, batch, progress, task, ops):
        terms = super().objective(outputs, batch, progress, task, ops)
        seen.update(output.prediction.dtype for output in outputs)
        seen.update(term.dtype for term in terms.values())
        return terms


seen: set[torch.dtype] = set()


@pytest.mark.parametrize(("task", "dataset"), [("diffusion", "digits"), ("masked", "digits-codes")])
def test_bf16_computes_the_network_in_bf16_and_weights_and_losses_in_fp32(task, dataset):
    run = replace(small_run(precision="bf16"), task=task, dataset=dataset)
    made = parts(run)
    engine = TorchEngine(run, made.network, Watching(), made.task)
    products: set[torch.dtype] = set()
    engine.network.blocks[0].attention.qkv.register_forward_hook(lambda *call: products.add(call[2].dtype))
    seen.clear()
    for step in range(4):
        values = engine.step(batch_for(run, step), (2, 3), 0.5, 1e-3)
        assert all(value.isfinite() for value in values.values())
    assert products == {torch.bfloat16}
    assert seen == {torch.float32}
    assert all(parameter.dtype == torch.float32 for parameter in engine.network.parameters())
    (output,) = engine.predict(engine.upload(batch_for(run)), (5,))
    assert output.prediction.dtype == torch.float32
    assert output.prediction.isfinite().all()


def test_bf16_stays_near_fp32():
    run = small_run()
    losses = {}
    for precision in ("fp32", "bf16"):
        engine = engine_after(replace(run, precision=precision), 5)
        losses[precision] = float(engine.step(batch_for(run, 5), (1, 3), 0.5, 1e-3)["loss"])
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", "meta", ""])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(device):
    with pytest.raises(ValueError, match=r"known: cpu"):
        build_engine(small_run(device=device))


def test_arrays_survive_the_way_to_the_device_and_back():
    engine = build_engine(small_run())
    batch = batch_for(small_run())
    uploaded = engine.upload(batch)
    for host, there in zip(batch, uploaded, strict=True):
        if host is None:
            assert there is None
        else:
            back = engine.numpy(there)
            assert back.dtype == host.dtype
            assert np.array_equal(back, host)


def test_parameter_count_counts_every_trained_value_once():
    engine = build_engine(small_run())
    assert engine.parameter_count() == sum(value.numel() for value in engine.network.state_dict().values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's tracer raises it and hides it itself
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler on PATH")
def test_compiled_blocks_give_the_outputs_of_eager_ones_at_every_loop_count():
    run = small_run()
    eager, compiled = engine_after(run, 2), engine_after(replace(run, compile=True), 2)
    assert all(torch.allclose(*pair, rtol=0, atol=1e-4) for pair in zip(weights(eager), weights(compiled), strict=True))
    for ours, theirs in zip(eager.average.parameters(), compiled.average.parameters(), strict=True):
        theirs.data.copy_(ours.data)
    batch = eager.upload(batch_for(run))
    for exits in ((1,), (2, 3), (7,)):
        for ours, theirs in zip(eager.predict(batch, exits), compiled.predict(batch, exits), strict=True):
            assert torch.allclose(ours.prediction, theirs.prediction, rtol=1e-4, atol=1e-5)
