"""`python -m experiments.notebooks [NAME…]`: see `experiments.notebooks`."""

import sys

from experiments.cli.user_errors import exit_code_of
from experiments.notebooks import main

sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
