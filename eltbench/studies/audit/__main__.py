"""`python -m eltbench.studies.audit` is the command `eltbench study audit`."""

import sys

from eltbench.cli.run_study import main

sys.exit(main("audit"))
