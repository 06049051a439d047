"""`python -m eltbench.studies.convergence` is the command `eltbench study convergence`."""

from eltbench.cli.run_study import main

raise SystemExit(main("convergence"))
