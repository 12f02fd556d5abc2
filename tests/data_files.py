"""What the tests of `trivium data` share: texts of known similarity, reading rows back, a refusal's line."""

import json

from experiments.cli.program import main

# last two, 8 of 12: 0.667. The same holds for 14 different characters.
WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
CHANGED = WORDS.replace("fourteen", "fifteen")
CHANGED_TWICE = WORDS.replace("thirteen fourteen", "fifteen sixteen")
CHINESE = "春夏秋冬东南西北金木水火土日"


def texts(path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def refusal(capsys, *command) -> str:
    """The one line that a command is refused with."""
    assert main(["data", *map(str, command)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    return errors[0]
