"""What a run is made of: an architecture, an optimisation, and the names of its parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from eltbench.core.validation import build, check_numbers, frozen, printable, require, whole

MOST_SNAPSHOTS = 10_000
Options = tuple[tuple[str, Any], ...]
FIRST_WEIGHTS = 0.05  # share of an average above which the weights before training are said to count
OPTIONS = ("trainer_options", "task_options", "dataset_options")
SIZES = {
    "unique_layers": 1024,
    "max_loops": 1024,
    "min_loops": 1024,
    "width": 65_536,
    "heads": 4096,
    "mlp_ratio": 256,
    "patch": 4096,
}
"""The sizes of an architecture and the largest of each: far beyond any use, and small enough to be listed and told."""
CHOICES = {
    "block": ("dit", "bert"),
    "norm": ("pre", "sandwich", "post"),
    "residual_scale": ("none", "loops", "layers"),
    "recall": ("before", "inside"),
    "positions": ("sinusoidal", "rotary"),
}
MOST_WEIGHTS = 1e12  # above the largest networks trained anywhere, below what NumPy can address


def added(default: Any) -> Any:
    """A field younger than the first published runs: its default is left out of an identity, so those keep theirs."""
    return field(default=default, metadata={"added": True})


def decisive(config: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """The plain values of a configuration without those added later that stand at their default."""
    kept = dict(plain)
    for each in fields(config):
        value = getattr(config, each.name)
        if each.metadata.get("added") and value == each.default:
            del kept[each.name]
        elif is_dataclass(value):
            kept[each.name] = decisive(value, kept[each.name])
    return kept


@dataclass(frozen=True)
class Architecture:
    """The network's shape; the depth scheme (looped, unique, universal, equilibrium, recursive) is the trainer's.

    Where the paper (arXiv 2604.09168) is silent the default is its plainest reading: no input injection, no loop
    embedding, pre-norm, and a condition that enters every loop in the same way.

    Prelude and coda as in Huginn (arXiv 2502.05171), whose noise as first state is left out: exits count loops, the
    injected input is what the prelude gives, and at unique depth both are refused. `recall` is internal recall
    (arXiv 2604.15259), of which only the abstract was at hand: it names a placement of its own for blocks of one layer;
    here the input is added between attention and MLP of every layer of the block, in the first loop too.
    """

    unique_layers: int = 2  # N
    max_loops: int = 4  # L_max
    min_loops: int = 1  # L_min
    width: int = 64
    heads: int = 4
    mlp_ratio: int = 4
    block: Literal["dit", "bert"] = "dit"  # adaLN-Zero, or a plain transformer block with a condition token
    patch: int = 2  # side of a patch of a continuous input, in pixels
    norm: Literal["pre", "sandwich", "post"] = "pre"  # post: behind the addition, as in BERT; block "bert" only
    input_injection: bool = False  # the embedded input is added again before every loop
    loop_embedding: bool = False  # a sinusoidal embedding of the loop index is added before every loop
    loop_conditioning: bool = False  # the loop index also enters the condition of the block
    attention_radius: int | None = None  # tokens farther apart on the grid (Chebyshev) do not see each other
    loop_adapter_rank: int = added(0)  # of each loop's own update of the block's linear maps; 0: none
    dropout: float = added(0.0)  # share left out of what attention and MLP add, the same in every loop of a pass
    residual_scale: Literal["none", "loops", "layers"] = added("none")  # of what a layer adds; see `residual_factor`
    residual_strength: float = added(1.0)  # λ of the residual scale
    loop_norm: bool = added(False)  # the state is normed at the end of every loop, without weights
    prelude: int = added(0)  # P, layers before the loop that run once a call (arXiv 2502.05171)
    coda: int = added(0)  # C, layers behind the loop that run at the exits that are read, before the head
    recall: Literal["before", "inside"] = added("before")  # where the injected input enters: every loop, or its layers
    positions: Literal["sinusoidal", "rotary"] = added("sinusoidal")  # of the tokens: added, or by turning the queries

    def __post_init__(self) -> None:
        for name, most in SIZES.items():
            value = getattr(self, name)
            positive = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            require(positive, f"architecture: {name} must be a positive integer, given {value!r}")
            require(value <= most, f"architecture: {name} must be at most {most}, given {value}")
        common = math.lcm(self.heads, 4)
        nearest = f"the nearest width that would work is {max(1, round(self.width / common)) * common}"
        given = f"given width {self.width} and heads {self.heads}"
        require(self.width % self.heads == 0, f"architecture: heads must divide width, {given}; {nearest}")
        given = f"given {self.width}"
        require(self.width % 4 == 0, f"architecture: width must be a multiple of 4 (2-D positions), {given}; {nearest}")
        given = f"given {self.min_loops} > {self.max_loops}"
        require(self.min_loops <= self.max_loops, f"architecture: min_loops must not exceed max_loops, {given}")
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            require(value in allowed, f"architecture: {name} must be one of {allowed}, given {value!r}")
        plain = self.norm != "post" or self.block == "bert"
        require(plain, "architecture: norm 'post' is of block 'bert'; a 'dit' modulates the norm before a layer")
        given = f"given {self.residual_strength!r}"
        require(0 < self.residual_strength < math.inf, f"architecture: residual_strength must be above 0, {given}")
        scaled = self.residual_scale != "none" or self.residual_strength == 1
        given = f"residual_strength {self.residual_strength:g} needs a residual_scale, which is 'none'"
        require(scaled, f"architecture: {given}")
        recalls = self.input_injection or self.recall == "before"
        require(recalls, "architecture: recall 'inside' needs input_injection = true, given false")
        for name in ("prelude", "coda"):
            value = getattr(self, name)
            require(whole(value) and value >= 0, f"architecture: {name} must be an integer from 0 on, given {value!r}")
        most, given = SIZES["unique_layers"], f"given {self.prelude} + {self.unique_layers} + {self.coda}"
        require(self.layers <= most, f"architecture: prelude + unique_layers + coda must be at most {most}, {given}")
        turns = self.positions != "rotary" or self.width // self.heads % 4 == 0
        given = f"given {self.width // self.heads}"
        require(turns, f"architecture: rotary positions need a multiple of 4 as width / heads (2 axes), {given}")
        radius, rank = self.attention_radius, self.loop_adapter_rank
        require(radius is None or radius >= 0, f"architecture: attention_radius must be 0 or more, given {radius}")
        require(
            isinstance(rank, int) and 0 <= rank <= self.width,
            f"architecture: loop_adapter_rank must be an integer from 0 to width, given {rank!r} at width {self.width}",
        )
        share = not isinstance(self.dropout, bool) and 0 <= self.dropout < 1
        require(share, f"architecture: dropout must be in [0, 1), given {self.dropout!r}")
        check_numbers(Architecture, vars(self), "architecture")
        weights = 2 * self.layers * self.width**2 * (2 + self.mlp_ratio)  # those of attention and MLP alone
        require(
            weights <= MOST_WEIGHTS,
            f"architecture: unique_layers {self.unique_layers}, width {self.width} and mlp_ratio {self.mlp_ratio} make "
            f"{weights:.1e} weights, and at most {MOST_WEIGHTS:.0e} are allowed",
        )
        for name in ("dropout", "residual_strength"):
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def layers(self) -> int:
        """M = P + N + C, the layers that have weights of their own."""
        return self.prelude + self.unique_layers + self.coda

    def depth_at(self, loops: int) -> int:
        """P + N·L + C, the layers that an exit's output has passed through."""
        return self.prelude + self.unique_layers * loops + self.coda

    @property
    def effective_depth(self) -> int:
        """D, the depth at L_max: N·L_max without prelude and coda."""
        return self.depth_at(self.max_loops)

    @property
    def residual_factor(self) -> float:
        """ε of x + ε f(x): what attention and MLP add is multiplied by it (arXiv 2606.18524).

        "loops": λ / (L_max √M), since the updates of one block that is looped are correlated. "layers": λ / √M, as for
        independent layers. At unique depth (L_max = 1) the two are the same. The paper loops all layers, M = N; here
        every layer of a prelude or coda counts under the root as one more, and takes λ / √M itself (see `unlooped`).
        """
        if self.residual_scale == "none":
            return 1.0
        loops = self.max_loops if self.residual_scale == "loops" else 1
        return self.residual_strength / (loops * math.sqrt(self.layers))

    @property
    def unlooped(self) -> Architecture:
        """The form of the layers of prelude and coda: those of M independent layers that run once."""
        return replace(self, unique_layers=self.layers, prelude=0, coda=0, max_loops=1, min_loops=1)


def check_settings(architecture: Architecture, needed: Mapping[str, Any], reason: str) -> None:
    """Raise ValueError, with the reason, for the first field of an architecture that is not as needed."""
    for name, value in needed.items():
        if (given := getattr(architecture, name)) != value:
            raise ValueError(
                f"architecture: {reason}: expected {name} = {str(value).lower()}, given {str(given).lower()}"
            )


@dataclass(frozen=True)
class Optimisation:
    """How the weights are fitted: AdamW with warm-up, a constant or cosine rate, clipping, and averaged weights."""

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    schedule: Literal["constant", "cosine"] = "constant"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    gradient_clip: float = 1.0  # largest norm of the gradient
    ema_decay: float = 0.995
    label_dropout: float = 0.1
    log_every: int = 50
    checkpoint_every: int = 500
    ema_debias: bool = added(False)  # the average of step t over 1 - ema_decay^t, so that first weights count no more
    decayed: Literal["all", "matrices"] = added("all")  # weights that decay; matrices: not norms and biases
    snapshot_every: int = added(0)  # the averaged weights are kept after so many steps each; 0: at the end alone

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "warmup_steps", "snapshot_every"):
            value, least = getattr(self, name), 0 if name in ("warmup_steps", "snapshot_every") else 1
            enough = isinstance(value, int) and value >= least
            require(enough, f"optimisation: {name} must be an integer of at least {least}, given {value!r}")
        check_numbers(Optimisation, vars(self), "optimisation")
        for each in fields(self):
            if each.type == "float":  # 1 and 1.0 are one setting and have one identity
                object.__setattr__(self, each.name, float(getattr(self, each.name)))
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))
        two_shares = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        for name, sound, expected in (
            ("schedule", self.schedule in ("constant", "cosine"), "'constant' or 'cosine'"),
            ("decayed", self.decayed in ("all", "matrices"), "'all' or 'matrices'"),
            ("learning_rate", self.learning_rate >= 0, "0 or more"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("gradient_clip", self.gradient_clip > 0, "above 0"),
            ("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)"),
            ("label_dropout", 0 <= self.label_dropout <= 1, "in [0, 1]"),
            ("betas", two_shares, "two numbers in [0, 1)"),
        ):
            require(sound, f"optimisation: {name} must be {expected}, given {getattr(self, name)!r}")
        kept = (self.steps - 1) // self.snapshot_every if self.snapshot_every else 0
        require(
            kept <= MOST_SNAPSHOTS,
            f"optimisation: snapshot_every {self.snapshot_every} would keep {kept} snapshots, at most "
            f"{MOST_SNAPSHOTS} are kept; raise it",
        )

    def decay_of(self, axes: int) -> float:
        """The weight decay of a parameter with so many axes."""
        return self.weight_decay if self.decayed == "all" or axes > 1 else 0.0

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The steps before the last after which a snapshot of the averaged weights is kept."""
        return tuple(range(self.snapshot_every, self.steps, self.snapshot_every)) if self.snapshot_every else ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons why the averaged weights say little of the training; empty for usual settings."""
        found, first = [], min(self.snapshots, default=self.steps)
        if not self.ema_debias and (left := self.ema_decay**first) > FIRST_WEIGHTS:
            found.append(
                f"ema_decay = {self.ema_decay:g} leaves the first weights {100 * left:.0f} % of the average that is "
                f"measured at step {first}; set ema_debias = true, or a smaller ema_decay"
            )
        if self.warmup_steps >= self.steps:
            found.append(
                f"warmup_steps = {self.warmup_steps} of {self.steps} steps: the learning rate never reaches "
                f"{self.learning_rate:g}, and the average is of weights that have hardly moved; give fewer"
            )
        return tuple(found)


@dataclass(frozen=True)
class Run:
    """One model to be trained: everything that decides its weights, and nothing about where it is trained."""

    trainer: str
    task: str
    dataset: str
    seed: int = 0
    architecture: Architecture = Architecture()
    optimisation: Optimisation = Optimisation()
    trainer_options: Options = ()
    task_options: Options = ()
    dataset_options: Options = ()
    backend: str = "torch"
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    threads: int = 1
    devices: int = added(1)  # among which every batch is divided
    validation: bool = added(False)  # part of the training items is held back and measured, the held-out are not seen

    def __post_init__(self) -> None:
        check_numbers(Run, vars(self), "run")
        given = f"given batch_size {self.optimisation.batch_size} and devices {self.devices}"
        for name, sound, expected in (
            ("seed", whole(self.seed) and 0 <= self.seed < 2**63, "a whole number from 0 to 2^63 - 1"),
            ("precision", self.precision in ("fp32", "bf16"), "'fp32' or 'bf16'"),
            ("threads", self.threads >= 1, "at least 1"),
            ("devices", self.devices >= 1, "at least 1"),
        ):
            require(sound, f"run: {name} must be {expected}, given {getattr(self, name)!r}")
        require(self.optimisation.batch_size % self.devices == 0, f"run: devices must divide batch_size, {given}")
        for name in OPTIONS:
            pairs = getattr(self, name)
            pairs = pairs.items() if isinstance(pairs, dict) else pairs
            object.__setattr__(self, name, tuple(sorted((key, frozen(value)) for key, value in pairs)))

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self._unusual())
        return f"Run({self.about}{'; ' if settings else ''}{settings})"

    def _repr_html_(self) -> str:
        from eltbench.core import tables

        return tables.html(f"Run: {self.about}", [(name, repr(value)) for name, value in self._unusual()])

    @property
    def about(self) -> str:
        """Its parts, size and seed in words."""
        size = f"{self.architecture.unique_layers}N×{self.architecture.max_loops}L"
        return printable(f"{self.trainer} {self.task} {self.dataset} {size} seed {self.seed}")

    def _unusual(self) -> list[tuple[str, Any]]:
        """Every setting that `about` does not say and that is not at its default."""
        said = {"seed", "architecture", "optimisation", "unique_layers", "max_loops"}
        settings = [
            (each, getattr(config, each.name))
            for config in (self.architecture, self.optimisation, self)
            for each in fields(config)
            if each.name not in said and each.default is not MISSING
        ]
        return [(each.name, value) for each, value in settings if value != each.default]

    def to_dict(self) -> dict[str, Any]:
        """The run as plain JSON values; `run_from_dict` is the inverse."""
        plain = asdict(self)
        for name in OPTIONS:
            plain[name] = dict(plain[name])
        return plain


def run_from_dict(values: dict[str, Any]) -> Run:
    """The run that `Run.to_dict` wrote; an unknown or missing field raises ValueError."""
    values = dict(values)
    values["architecture"] = build(Architecture, values.get("architecture", {}))
    values["optimisation"] = build(Optimisation, values.get("optimisation", {}))
    for name in OPTIONS:
        values[name] = tuple(dict(values.get(name, {})).items())
    return build(Run, values)
