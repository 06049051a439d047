"""`python -m eltbench.studies.disagreement` is the command `eltbench study disagreement`."""

import sys

from eltbench.cli.run_study import main

sys.exit(main("disagreement"))
