"""`python -m eltbench.studies.extrapolation` is the command `eltbench study extrapolation`."""

from eltbench.cli.run_study import main

raise SystemExit(main("extrapolation"))
