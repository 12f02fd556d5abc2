"""The `trivium plan` command: what a run will take, computed before anything is read or trained.

Four questions: what a run's configuration needs (`config`, `estimate`, `work`, `run_plan`), what a number of
parameters needs and what a compute budget is best spent on (`no_config`), and what a budget takes of a
mixture (`mixture`). This file knows the command line only, and imports nothing heavy for its help.
"""

import argparse
from pkgutil import resolve_name

from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError

EXAMPLE = """\
sequence_length: 2048             # x global_batch_size = 6.4 M tokens of an optimizer step
global_batch_size: 3125
sources:
  web:       {weight: 80, tokens: 852.7e9}                # unique tokens in the source
  code:      {weight: 15, tokens: 98.4e9}
  wikipedia: {weight: 5, tokens: 25.7e9, max_epochs: 4}   # refuse more than 4 epochs
weight_changes:                   # optional: annealing
  203125: {code: 70, wikipedia: 30}   # from this step on, 1.3 T tokens; web has no share then
"""

EPILOG = f"""\
examples:
  trivium plan --config experiments/configs/pretrain.yaml --devices 8 --memory 80e9
  trivium plan --config X.yaml --trainer.max_steps 1000 --flops 989e12 --mfu 0.4
  trivium plan --parameters 7.5e9 --devices 64 --json
  trivium plan --compute 5.76e23
  trivium plan --compute 1e15 --fit runs/scaling/scaling.json
  trivium plan --mixture mixture.yaml --tokens 1.4e12

With --config, whatever `trivium fit` takes may follow; neither weights nor data need to exist, but a
network's config.json (or `model.config`) must. With --parameters, --json prints {{parameters,
states_bytes_per_rank: {{ddp, zero1, zero2, zero3, fsdp}}, tokens: {{1.7x, 20x}}}}.

The file of a mixture is a stage's YAML, or the `sources` of one alone, with the number of unique `tokens` in
place of files that need not be at hand. An example, mixture.yaml:

{EXAMPLE}
Weights need not sum to anything: a source's share of the tokens is its weight / the sum of the weights; a
weight not given is 1. With a line `temperature: 0.5` on top the shares become weight x tokens^0.5: 0 as
weighted, 1 in proportion to size. With `max_epochs`, a source that would be seen more often is marked, the
command says what to change, and its exit code is 2. With --json only {{sources: {{name: {{share, tokens,
epochs}}}}}} is printed.
"""


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="trivium plan",
        description="Plan a run before it costs anything: memory, tokens, time, epochs of its data.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to plan (one of them)")
    what.add_argument("--config", metavar="FILE", action="append", help="a run's YAML, as for `trivium fit`")
    what.add_argument("--parameters", metavar="N", help="a model of so many, such as 7.5e9; no config needed")
    what.add_argument("--compute", metavar="C", help="FLOPs to spend, such as 5.76e23: on which model?")
    what.add_argument("--mixture", metavar="FILE", help="YAML of weights and unique tokens, as below")
    options = parser.add_argument_group("options")
    options.add_argument("--devices", metavar="N", help="ranks over all machines; else the config's, or 1")
    options.add_argument("--memory", metavar="BYTES", help="of a device, such as 80e9; else this machine's")
    options.add_argument("--tokens", metavar="N", help="tokens to train on in all, such as 1.4e12")
    options.add_argument("--flops", metavar="F", help="what a device could do at most, FLOPs a second")
    options.add_argument("--mfu", metavar="SHARE", help="the share of --flops that is reached, 0 to 1")
    options.add_argument(
        "--layout", metavar="NAME", help="with --parameters: mixed, fp32, bf16-autocast, bf16"
    )
    options.add_argument("--fit", metavar="FILE", help="your own scaling.json, of `trivium scaling fit`")
    options.add_argument("--read-data", action="store_true", help="encode the data to know the steps")
    options.add_argument("--json", action="store_true", help="print only JSON")
    return parser


PLANS = {
    "config": ("run_plan:main", ("devices", "memory", "tokens", "flops", "mfu", "read_data", "fit")),
    "parameters": (
        "no_config:parameters_main",
        ("devices", "memory", "tokens", "flops", "mfu", "layout", "fit"),
    ),
    "compute": ("no_config:compute_main", ("devices", "flops", "mfu", "fit")),
    "mixture": ("mixture:main", ("tokens",)),
}
"""what can be planned → the function that does it, the options that have a meaning for it"""


def main(argv: list[str]) -> int:
    """`trivium plan`: the command line.

    Raises:
        UserError: a mistake in it.
    """
    parser = _parser()
    options, overrides = parser.parse_known_args(argv)
    given = [name for name in PLANS if getattr(options, name) is not None]
    if overrides and given != ["config"]:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    if not given:
        raise UserError(
            "nothing to plan: give --mixture FILE and --tokens N, or --config FILE, --parameters N or "
            "--compute C; `trivium plan --help` shows examples"
        )
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} are two plans: give one of them")
    function, needs = PLANS[given[0]]
    for name in sorted({name for _, names in PLANS.values() for name in names} - set(needs)):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} has no meaning with --{given[0]}: leave it out")
    return resolve_name(f"{__name__}.{function}")(options, overrides)
