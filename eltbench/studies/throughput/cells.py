"""The cells of the throughput study: what is timed against what, and about how long it takes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

from eltbench import accounting
from eltbench.accounting import Depth, NetworkSpec, weight_bytes
from eltbench.backends.speed import Body
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.data.base import DataSpec
from eltbench.evaluation.speed.roofline import Shape, block_bytes, kernels

Measure = Literal["call", "self", "sampler", "hoisting", "step", "memory", "peers"]
MODES = {"eager": "torch", "compiled": "torch", "cuda-graph": "torch", "scan": "jax", "unrolled": "jax"}
NOT_RUN = {  # modes in which a measure would silently run as something else
    "sampler": {"cuda-graph": "its steps are not captured; 'compiled' compiles the block"},
    "step": {"cuda-graph": "training steps are not captured; 'compiled' compiles the block"},
    "memory": dict.fromkeys(("compiled", "cuda-graph"), "what a compiler holds would be counted"),
    "peers": dict.fromkeys(("compiled", "cuda-graph"), "blocks of others run as their packages run them"),
}
FEWEST_ROUNDS = 5  # with fewer bursts of a contender one outlier moves their quartiles
LABELS = ("rounds", "scale", "assumed")  # of a cell, that do not change what is compared
CODES, CLASSES = 1024, 1000  # of the tokens that a masked network predicts: the paper's tokenizer, ImageNet's labels
LATENT = 4  # channels of a diffusion network's input: the paper's latents
TRAINED = ("step", "memory")  # the measures of training
CONTENDERS = {  # whose calls are timed in turns; of peers it is known only where they are installed
    "call": ("looped", "unique"),
    "self": ("unique", "unique-copy"),
    "sampler": ("looped", "unique", "blocks"),
    "hoisting": ("looped", "unhoisted"),
    "step": ("elt", "no-ilsd", "unique-depth"),
    "memory": ("elt", "unique-depth"),
    "peers": ("ours",),
}
DIGITS_TOKENS = (16, 64)
DIGITS = DataSpec("continuous", (8, 8), channels=1, classes=10)
ADAM = 5  # weights, their average, gradient and two moments, in float32 each
NOMINAL = {  # FLOP/s of few vectors, bytes/s of weights read, and built, seconds of a layer's launches, of a start
    "cpu": (6e10, 2.2e10, 1.5e9, 5e-5, 0.8),
    "cuda": (2e14, 2e12, 1e10, 5e-5, 2.0),
}
"""Figures of no machine in particular, by which `--dry-run` estimates; nothing measured rests on them."""


def counted(number: int, what: str) -> str:
    """A number and its noun: 1 token, 16 tokens."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@dataclass(frozen=True)
class Cell:
    """One comparison at one size: N unique layers in L loops against N·L unique layers (or as `measure` says)."""

    measure: Measure
    unique_layers: int
    loops: int
    width: int
    heads: int
    block: Literal["bert", "dit"] = "bert"
    tokens: int = 16
    batch: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    mode: str = "eager"
    sampling_steps: int = 0
    guidance_scale: float = 1.0
    rounds: int = FEWEST_ROUNDS
    scale: str = ""  # the paper's name of this size
    assumed: str = ""  # what the paper does not say of it

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"cell: mode must be one of {', '.join(MODES)}, given {self.mode!r}")
        if round(self.tokens**0.5) ** 2 != self.tokens:
            raise ValueError(f"cell: tokens must be a square number, given {self.tokens}")
        if self.measure in ("peers", "hoisting", *TRAINED) and self.backend != "torch":
            raise ValueError(f"cell: {self.measure} is measured in torch alone, given mode {self.mode!r}")
        if self.measure == "hoisting" and self.block != "dit":
            raise ValueError(f"cell: hoisting moves the modulation of a 'dit' block, given block {self.block!r}")
        if why := NOT_RUN.get(self.measure, {}).get(self.mode):
            raise ValueError(f"cell: {self.measure} does not run in mode {self.mode!r} ({why}); give 'eager'")
        if self.rounds < FEWEST_ROUNDS:
            raise ValueError(f"cell: rounds must be at least {FEWEST_ROUNDS}, to see noise by, given {self.rounds}")
        if self.batch < 1 or self.loops < 1:
            raise ValueError(f"cell: batch and loops must be at least 1, given {self}")
        if (self.measure == "sampler") != (self.sampling_steps > 0):
            raise ValueError(f"cell: a sampler, and nothing else, has sampling_steps, given {self.sampling_steps}")
        if self.measure != "sampler" and self.guidance_scale != 1:
            raise ValueError(f"cell: a sampler alone is guided, given guidance_scale {self.guidance_scale:g}")
        if self.measure in TRAINED and self.tokens not in DIGITS_TOKENS:
            raise ValueError(f"cell: {self.measure} trains on digits of 16 or 64 tokens, given {self.tokens}")
        self.architecture("looped")  # refuses widths and heads that do not fit

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits that name what is compared; cells that differ in LABELS alone share them."""
        text = json.dumps({name: value for name, value in asdict(self).items() if name not in LABELS}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def backend(self) -> str:
        return MODES[self.mode]

    @property
    def task(self) -> str:
        """What the network would be trained on: tokens for a BERT-style block, latents for a DiT."""
        return "masked" if self.block == "bert" else "diffusion"

    @property
    def depth(self) -> int:
        """D = N·L, the layers of the unique-depth network."""
        return self.unique_layers * self.loops

    @property
    def name(self) -> str:
        """For people: `call 2N×6L against 12, width 384, batch 1, 16 tokens, fp32, eager`."""
        scale = f"{self.scale}: " if self.scale else ""
        shape = f"{self.unique_layers}N×{self.loops}L against {self.depth}, width {self.width}, batch {self.batch}"
        steps = f" of {counted(self.sampling_steps, 'step')}" if self.sampling_steps else ""
        guided = f", guidance {self.guidance_scale:g}" if self.guidance_scale != 1 else ""
        how = f"{counted(self.tokens, 'token')}, {self.block}, {self.precision}, {self.mode}"
        return f"{scale}{self.measure}{steps} {shape}{guided}, {how}"

    @property
    def spec(self) -> DataSpec:
        """The form of the items: a square grid of codes, or of latents of which each is a token."""
        side = round(self.tokens**0.5)
        if self.block == "bert":
            return DataSpec("tokens", (side, side), vocabulary=CODES, classes=CLASSES)
        return DataSpec("continuous", (side, side), channels=LATENT, classes=CLASSES)

    def architecture(self, contender: str) -> Architecture:
        """The network's shape: `looped`, or D layers of their own."""
        layers, loops = (self.unique_layers, self.loops) if contender == "looped" else (self.depth, 1)
        return Architecture(layers, loops, width=self.width, heads=self.heads, block=self.block, patch=1)

    def body(self, contender: str) -> Body:
        """What is run for `looped` or `unique`."""
        depth: Depth = "looped" if contender == "looped" else "unique"
        network = NetworkSpec(self.architecture(contender), depth, self.spec, timed=self.task == "diffusion")
        return Body(network, network.architecture.max_loops, self.batch, self.precision, self.mode)

    def run(self, trainer: str, device: str, threads: int) -> Run:
        """The run whose training steps are timed: diffusion on digits, its 8×8 pixels as 16 or 64 tokens."""
        shape = self.architecture("unique" if trainer == "unique-depth" else "looped")
        return Run(
            trainer,
            "diffusion",
            "digits",
            architecture=replace(shape, block="dit", patch=2 if self.tokens == 16 else 1),
            optimisation=Optimisation(batch_size=self.batch),
            device=device,
            precision=self.precision,
            compile=self.mode == "compiled",
            threads=threads,
        )

    @property
    def contenders(self) -> tuple[str, ...]:
        return CONTENDERS[self.measure]

    @property
    def shapes(self) -> set[Shape]:
        """The products whose rates the roofline needs."""
        if self.measure not in ("call", "self", "sampler", "hoisting"):
            return set()
        bodies = [self.body(name) for name in ("looped", "unique")]
        return {each.shape for it in bodies for each in kernels(it.network, it.loops, self.items)}

    def weight_bytes(self, contender: str) -> int:
        """All weights of a network, in the precision of its products."""
        return weight_bytes(self.body(contender).network, self.precision)

    def looped_bytes(self, contender: str) -> int:
        """The weights that every loop reads, or all layers read once: what a cache would have to hold."""
        return block_bytes(self.architecture(contender), self.precision)

    @property
    def items(self) -> int:
        """Of a network call: guidance doubles the batch."""
        return self.batch * (1 if self.guidance_scale == 1 else 2)

    def needed_bytes(self) -> int:
        """Memory that a process of this cell needs, roughly: weights and activations."""
        if self.measure in TRAINED:
            largest = max(map(self.training_bytes, self.contenders))
            return largest * (len(self.contenders) if self.measure == "step" else 1)
        built = {
            "sampler": ("looped", "looped", "unique"),
            "hoisting": ("looped", "looped"),
            "self": ("unique", "unique"),
        }
        bodies = [self.body(name) for name in built.get(self.measure, ("looped", "unique"))]
        drawn = 2 if self.backend == "jax" else 1  # on the host in float32, then moved
        precision = "fp32" if self.backend == "jax" else self.precision
        held = sum(drawn * weight_bytes(body.network, precision) for body in bodies)
        return held + sum(accounting.peak_bytes(body.network, body.loops, self.items) for body in bodies)

    def training_bytes(self, trainer: str) -> int:
        """What training holds: weights, their average, gradients, moments, and activations kept for a step."""
        network, loops, exits = self._trained(trainer)
        kept = accounting.activation_bytes(network, loops, exits, self.batch)
        return ADAM * weight_bytes(network) + sum(kept.values())

    def step_flops(self, trainer: str) -> int:
        """FLOPs of a training step, forward and backward."""
        network, loops, exits = self._trained(trainer)
        return self.batch * sum(accounting.step_flops(network, loops, exits).values())

    def _trained(self, trainer: str) -> tuple[NetworkSpec, int, int]:
        """The network that a trainer trains on digits, its loops, and the exits that a step reads."""
        depth: Depth = "unique" if trainer == "unique-depth" else "looped"
        architecture = self.run(trainer, "cpu", 1).architecture
        loops, network = architecture.max_loops, NetworkSpec(architecture, depth, DIGITS, timed=True)
        return network, loops, min(2, loops) if trainer == "elt" else 1

    def seconds(self, processes: int, device: str = "cpu", burst_seconds: float = 0.05) -> float:
        """About how long all processes of the cell take, on nominal figures; for `--dry-run` alone."""
        rate, bandwidth, building, launches, start = NOMINAL["cpu" if device == "cpu" else "cuda"]
        if self.measure == "memory":
            return processes * len(self.contenders) * (start + 1.5)
        held = self.weight_bytes("unique")
        looped = self.body("looped")
        flops = self.batch * accounting.flops(looped.network, looped.loops)
        call = flops / rate + held / bandwidth + self.depth * launches
        each = {"step": 3.0, "sampler": float(self.sampling_steps)}.get(self.measure, 1.0) * call
        racing = 3 if self.measure in ("step", "sampler", "peers") else 2
        bursts = self.rounds * racing * max(12 * each, 2 * each + burst_seconds)
        loading = {"compiled": 5.0, "unrolled": 3.0, "scan": 2.0}.get(self.mode, 1.5 if self.measure == "step" else 0)
        return processes * (start + loading + held / building + bursts)
