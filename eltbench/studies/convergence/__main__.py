"""`python -m eltbench.studies.convergence` is the command `eltbench study convergence`."""

import sys

from eltbench.cli.run_study import main

sys.exit(main("convergence"))
