"""`python -m eltbench` is the command `eltbench`."""

import sys

from eltbench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
