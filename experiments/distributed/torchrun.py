"""`python -m experiments.distributed.torchrun OPTIONS -- fit …`: torchrun starts `trivium fit …`.

Plain `torchrun OPTIONS -m -- experiments.cli fit …` does the same, and adds its own account to an error that
a rank has told in a line. This one exits as the rank did.
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main(argv: list[str]) -> int:
    """Runs torchrun with the options before `--`, and `trivium` with those after it; returns the exit code of
    the first rank that failed, or 0."""
    if "--" not in argv:
        print("trivium: give torchrun's options, then `-- fit --config FILE`", file=sys.stderr)
        return 2
    split = argv.index("--")
    options = parse_args([*argv[:split], "-m", "experiments.cli"])
    options.training_script_args = argv[split + 1 :]  # torchrun would take `--run` for an option of its own
    for name in list(logging.root.manager.loggerDict):  # each has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        run(options)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
