"""A small convolutional digit classifier, whose early maps and logits are the features of sample quality."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase


class DigitsClassifier(nn.Module):
    """Three convolutions and a linear layer on (B, 1, 8, 8) images in [-1, 1]; logits (B, 10).

    The early maps are averaged to 2×2, so their features say which strokes are found and roughly where. Deeper layers
    are trained to forget all but the class: on the logits, images of independent pixels are as near as real ones.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32 * 4, 10)
        self.register_buffer("mean", torch.zeros(64))
        self.register_buffer("deviation", torch.ones(64))

    def early(self, images: Tensor) -> Tensor:
        """The maps of the second convolution, (B, 16, 8, 8)."""
        return F.relu(self.second(F.relu(self.first(images))))

    def features(self, maps: Tensor) -> Tensor:
        """Early maps averaged to 2×2, standardised by the training split, (B, 64)."""
        return (F.adaptive_avg_pool2d(maps, 2).flatten(1) - self.mean) / self.deviation

    def logits(self, maps: Tensor) -> Tensor:
        """Class scores of early maps, (B, 10)."""
        deep = F.relu(self.third(F.max_pool2d(maps, 2)))  # (B, 32, 4, 4)
        return self.head(F.max_pool2d(deep, 2).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.early(images))


def fit(images: Tensor, labels: Tensor, epochs: int, seed: int) -> DigitsClassifier:
    """Train on (n, 1, 8, 8) images in [-1, 1] and (n,) labels; the same weights at every call on one machine."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitsClassifier()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            optimiser.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch].long()).backward()
            optimiser.step()
    with torch.no_grad():
        features = network.features(network.early(images))
        network.mean.copy_(features.mean(0))
        network.deviation.copy_(features.std(0).clamp_min(1e-3))  # a map that never fires stays zero
    return network.eval()


class DigitsExtractor(FeatureExtractorBase):
    """The classifier in torch-fidelity's form: uint8 images (B, 3, 8, 8) in, the requested features out.

    Subclasses bind `weights`, a state dictionary of DigitsClassifier, for torch-fidelity creates extractors by name.
    """

    weights: ClassVar[dict[str, Tensor]]

    def __init__(self, name: str, features_list: list[str], **options: Any) -> None:
        super().__init__(name, features_list)
        self.network = DigitsClassifier()
        self.network.load_state_dict(self.weights)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("early", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "early"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """One tensor per requested feature, in that order."""
        maps = self.network.early(images[:, :1].float() / 127.5 - 1)  # grey images: three equal channels
        readings = {"early": self.network.features, "logits": self.network.logits}
        return tuple(readings[name](maps) for name in self.features_list)


class Images(Dataset[Tensor]):
    """uint8 images (n, 3, H, W) as a data set for torch-fidelity."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]
