"""`trivium configs [NAME]`: the YAMLs that come with Trivium, and one of them to copy."""

from experiments.cli.arguments import ArgumentParser
from experiments.cli.shipped_configs import comment, hint, shipped, whole
from experiments.cli.user_errors import UserError


def main(argv: list[str]) -> int:
    """Runs `trivium configs …`."""
    parser = ArgumentParser(
        prog="trivium configs",
        description="Lists the YAMLs that come with Trivium: `trivium fit --config sft` runs one by name, "
        "`trivium sweep sft` a sweep.",
        epilog="A copy to change: trivium configs sft > mine.yaml",
    )
    parser.add_argument("name", nargs="?", help="print this one, whole")
    options = parser.parse_args(argv)
    configs = shipped() | {f"sweeps/{name}": file for name, file in shipped("sweeps").items()}
    if options.name is None:
        width = max(map(len, configs))
        for name, file in configs.items():
            print(f"{name:<{width}}  {comment(file)}")
        return 0
    if options.name not in configs:
        raise UserError(f"configs: there is no `{options.name}`: {hint(options.name)}")
    print(whole(configs[options.name]), end="")
    return 0
