"""The `Ops` of NumPy, enough to run every task without a backend."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special


class NumpyOps:
    def cross_entropy(self, logits, targets):
        return -np.take_along_axis(special.log_softmax(logits, axis=-1), targets[..., None], axis=-1)[..., 0]

    def log_softmax(self, logits):
        return special.log_softmax(logits, axis=-1)

    def stop_gradient(self, array):
        return array

    def asarray(self, array):
        return np.array(array)


@pytest.fixture(scope="session")
def numpy_ops() -> NumpyOps:
    return NumpyOps()
