"""`python -m eltbench.studies.extrapolation` is the command `eltbench study extrapolation`."""

import sys

from eltbench.cli.run_study import main

sys.exit(main("extrapolation"))
