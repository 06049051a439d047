"""`python -m eltbench.studies.audit` is the command `eltbench study audit`."""

from eltbench.cli.run_study import main

raise SystemExit(main("audit"))
