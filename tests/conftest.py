"""What all tests share."""

from hypothesis import settings

settings.register_profile("eltbench", deadline=None)  # no test asserts wall-clock, hypothesis' own included
settings.load_profile("eltbench")
