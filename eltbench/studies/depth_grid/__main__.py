"""`python -m eltbench.studies.depth_grid` is the command `eltbench study depth_grid`."""

from eltbench.cli.run_study import main

raise SystemExit(main("depth_grid"))
