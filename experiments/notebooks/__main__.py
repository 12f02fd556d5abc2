"""`python -m experiments.notebooks [NAME…]`: see `experiments.notebooks`."""

import sys

from experiments.notebooks import main

main(sys.argv[1:])
