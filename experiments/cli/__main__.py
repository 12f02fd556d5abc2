"""`python -m experiments.cli`: the `trivium` program, as torchrun and SLURM start it."""

import sys

from experiments.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
