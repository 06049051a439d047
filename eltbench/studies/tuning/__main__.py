"""`python -m eltbench.studies.tuning` is the command `eltbench study tuning`."""

from eltbench.cli.run_study import main

raise SystemExit(main("tuning"))
