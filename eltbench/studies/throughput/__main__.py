"""`python -m eltbench.studies.throughput` is the command `eltbench study throughput`."""

import sys

from eltbench.cli.run_study import main

sys.exit(main("throughput"))
