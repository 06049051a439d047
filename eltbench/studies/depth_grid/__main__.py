"""`python -m eltbench.studies.depth_grid` is the command `eltbench study depth_grid`."""

import sys

from eltbench.cli.run_study import main

sys.exit(main("depth_grid"))
