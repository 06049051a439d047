"""The conventions by which the paper (arXiv 2604.09168) may have counted, as data; it states none.

They were written down after a first look at the tables. With this many of them some fit to a single row says little;
what says something is whether one convention fits all rows of a table.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from eltbench.data.base import DataSpec


@dataclass(frozen=True)
class Setting:
    """What the set-up of the paper says of a table's models beyond the rows; `assumed` is what it does not say."""

    table: str
    task: str
    dataset: str
    spec: DataSpec
    patch: int = 1
    width: int | None = None  # where the rows give none
    calls: tuple[int, ...] = ()  # network calls a sampling step may have been counted with; none: no GFLOPs printed
    assumed: str = ""


SETTINGS = (
    Setting(
        "imagenet256_masked",
        task="masked",
        dataset="imagenet256",
        spec=DataSpec("tokens", (16, 16), vocabulary=1024, classes=1000),
        calls=(1, 2),  # guided, and the table does not say whether it counts both calls
    ),
    Setting(
        "imagenet256_diffusion",
        task="diffusion",
        dataset="imagenet256",
        spec=DataSpec("continuous", (32, 32), channels=4, classes=1000),
        patch=2,
        assumed="patches of 2 x 2 and an MLP of 4 widths, as in DiT",
    ),
    Setting(
        "ucf101_masked",
        task="masked",
        dataset="ucf101",
        spec=DataSpec("tokens", (4, 16 * 16), vocabulary=1024, classes=101),
        width=1024,
        calls=(1,),  # no guidance
        assumed="width 1024 and an MLP of 4 widths, the paper's scale L: the table gives no width",
    ),
)

SCALES = {"B": 12, "L": 24, "XL": 28, "H": 32}
"""Layers of the unique-depth model of each scale, which the rows of the throughput table must reach as N·L."""


@dataclass(frozen=True)
class Layer:
    """The weights of one layer: attention and MLP (12 d² where the MLP is 4 widths), and `squares` d² more.

    Its biases and norms are those of the linear maps of attention and MLP, and `lines` d more.
    """

    name: str
    squares: int
    lines: int


LAYERS = (
    Layer("12d²", 0, 4),  # a transformer layer with affine norms
    Layer("16d²", 4, 4),  # what the paper's diffusion rows come to; its block is not described
    Layer("18d²", 6, 6),  # adaLN-Zero of DiT (arXiv 2212.09748): modulation from the condition, plain norms
)

EMBEDDINGS: dict[str, tuple[str, ...]] = {
    "no embeddings": (),
    "tokens": ("tokens",),
    "tokens, classes": ("tokens", "classes"),
    "all": ("tokens", "classes", "rest"),
}
"""Which tables are counted beside the layers.

tokens: codes and mask, the head sharing them; in diffusion the linear maps from and to patches. classes: labels and
the null label. rest: positions and a head of its own; in diffusion DiT's timestep MLP and the modulation of the head.
"""


@dataclass(frozen=True)
class ParameterConvention:
    """What is counted as a parameter."""

    layer: Layer
    biases: bool  # and norms
    embeddings: str  # a key of EMBEDDINGS

    @property
    def name(self) -> str:
        return f"{self.layer.name}{' + biases' if self.biases else ''}, {self.embeddings}"


@dataclass(frozen=True)
class ComputeConvention:
    """What is counted as a GFLOP of one sample."""

    unit: Literal["FLOP", "MAC"]
    calls: int  # of the network a sampling step: 2 counts guidance
    attention: bool  # its products among tokens; its linear maps are always counted
    head: bool
    condition_token: bool  # one token beside those of the image

    @property
    def name(self) -> str:
        calls = f"{self.unit}s of both guided calls" if self.calls == 2 else f"{self.unit}s"
        parts = {"attention": self.attention, "condition token": self.condition_token, "head": self.head}
        return ", ".join([calls, *(f"{part} {'in' if counted else 'out'}" for part, counted in parts.items())])


PARAMETERS = tuple(itertools.starmap(ParameterConvention, itertools.product(LAYERS, (False, True), EMBEDDINGS)))
UNITS: tuple[Literal["FLOP", "MAC"], ...] = ("FLOP", "MAC")
COMPUTE = tuple(
    itertools.starmap(ComputeConvention, itertools.product(UNITS, (1, 2), (False, True), (False, True), (True, False)))
)

NOT_RECOMPUTABLE = {
    "fid": "a quality of trained models: it takes their weights or samples, and neither is published",
    "fvd": "a quality of trained models: it takes their weights or samples, and neither is published",
    "inception_score": "a quality of trained models: it takes their weights or samples, and neither is published",
    "throughput_ratio_vs_same_scale_baseline": "a time on a TPU v6e: it takes that machine and the program",
}
"""Columns that hold measurements of things that were not published, with the reason."""

QUANTITIES = {
    "imagenet256_masked": ("params_m", "gflops_k", "fid", "inception_score"),
    "imagenet256_diffusion": ("params_m", "gflops_k", "effective_depth", "fid"),
    "ucf101_masked": ("params_m", "gflops_k", "fvd", "inception_score"),
    "throughput_tpu_v6e": ("params_m", "gflops_k", "effective_depth", "throughput_ratio_vs_same_scale_baseline"),
}
"""What is asked of every table; its other columns are the set-up (shape, steps) or the spread of a figure."""
