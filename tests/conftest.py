"""What all tests share."""

import os

from hypothesis import settings

# no test asserts wall-clock, hypothesis' own included; new examples are sought by people, not by CI
settings.register_profile("eltbench", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("eltbench")
