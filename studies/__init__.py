"""The presets of every study; installed as `eltbench.presets`, so that the wheel carries them."""
