"""The parser of every command but those of Lightning's: its errors are one line, without the usage."""

import argparse
from difflib import get_close_matches
from typing import NoReturn

from experiments.cli.user_errors import UserError


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, whose errors are a `UserError`: what is wrong, and the nearest option or where options are
    told."""

    def error(self, message: str) -> NoReturn:
        hint = f"`{self.prog} --help` tells what there is"
        if unknown := message.partition("unrecognized arguments: ")[2]:
            near = get_close_matches(unknown.split()[0].partition("=")[0], self._option_string_actions, n=1)
            hint = f"did you mean `{near[0]}`?" if near else hint
        raise UserError(f"{message}: {hint}")
