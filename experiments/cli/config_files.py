"""What is wrong with the YAML files of a command line, found before the parser reads them: it would keep the
last of two equal keys in silence, and take what is no file for YAML itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from experiments.cli.shipped_configs import hint
from experiments.cli.user_errors import UserError

OPTIONS = ("--config", "-c", "--trainer", "--model", "--data")
"""those that name a YAML file; all but the first two may also hold a value"""
FILES = ("--config", "-c")
STAGE = "a stage"
IMPLICIT = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
"""what `<<` and `=` are to YAML, without anybody's writing a tag"""


def check_config_files(argv: list[str]) -> None:
    """Refuses a command line's YAML files, and those that they name in place of a section, where one is no
    file, no YAML, no mapping, or holds a key twice, or a tag of another program.

    Raises:
        UserError: a line for each, with file, line and key.
    """
    problems: list[str] = []
    for option, value in _given(argv):
        file = Path(value)
        if option in FILES or (file.suffix in (".yaml", ".yml") and file.is_file()):
            problems += _problems(option, file, ())
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def read_yaml(file: Path, name: str, what: str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        name: the option or command that gave the file, for messages.
        what: it is the YAML of, such as `a sweep`.

    Raises:
        UserError: it is no file, no YAML, no mapping, or holds a key twice; a line for each.
    """
    if problems := _problems(name, file, (), what):
        raise UserError("\n".join(problems))
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError) as error:  # a key that is a list, a date that cannot be
        raise UserError(f"{name}: {file} is not YAML: {' '.join(str(error).split())}") from error


def _given(argv: list[str]) -> Iterator[tuple[str, str]]:
    """Options of a command line that name files, with what they name."""
    for place, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if option in OPTIONS and (equals or place + 1 < len(argv)):
            yield option, value if equals else argv[place + 1]


def _problems(where: str, file: Path, parents: tuple[Path, ...], what: str = STAGE) -> list[str]:
    if not file.exists():
        more = f"; {hint(str(file))}" if what == STAGE else ""
        return [f"{where}: {file} does not exist: give the YAML file of {what}{more}"]
    if not file.is_file():
        return [f"{where}: {file} is a folder: give the YAML file of {what} in it"]
    if file in parents:
        return [f"{where}: {file} names itself"]
    try:
        root = yaml.compose(file.read_text(encoding="utf-8-sig"), yaml.SafeLoader)
    except OSError as error:
        return [f"{where}: {file} cannot be read: {error.strerror}"]
    except UnicodeDecodeError as error:
        return [f"{where}: {file} is not UTF-8 (byte {error.start}): save it as UTF-8"]
    except RecursionError:
        return [f"{where}: {file} is nested too deeply"]
    except yaml.YAMLError as error:
        return [f"{where}: {file}{_line_of(error)} is not YAML: {_reason_of(error)}"]
    if root is None:
        return [f"{where}: {file} is empty: give the YAML file of {what}"]
    if not isinstance(root, yaml.MappingNode):
        keys = " (`trainer: …`, `model: …`)" if what == STAGE else ""
        return [f"{where}: {file} holds no keys with values at its top{keys}: give the YAML file of {what}"]
    problems = list(_wrong_keys(file, root, "", set()))
    nothing = ("tag:yaml.org,2002:null", "")
    if root.value and not problems and all((node.tag, node.value) == nothing for _, node in root.value):
        names = ", ".join(f"`{key.value}`" for key, _ in root.value)  # the parser takes `run:` for a text
        return [f"{where}: {file}: {names} {'is' if len(root.value) == 1 else 'are'} null: give values"]
    for key, value in root.value:  # `trainer: trainer/small.yaml`
        named = value.value if isinstance(value, yaml.ScalarNode) else ""
        if named.endswith((".yaml", ".yml")) and (file.parent / named).is_file():
            problems += _problems(f"{where}: {file}: {key.value}", file.parent / named, (*parents, file))
    return problems


def _wrong_keys(file: Path, node: yaml.Node, path: str, seen: set[int]) -> Iterator[str]:
    """The keys that stand twice in a mapping or are none, and tags of other programs, at any depth."""
    if id(node) in seen:  # an anchor that was named before
        return
    seen.add(id(node))
    if node.tag not in yaml.SafeLoader.yaml_constructors and not node.tag.startswith(IMPLICIT):
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        yield f"{file}:{node.start_mark.line + 1}: `{tag}` is no tag of YAML's own: leave it out"
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _wrong_keys(file, item, path, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            yield f"{file}:{line}: a key is a list or a mapping: give a name"
            continue
        if key.tag != "tag:yaml.org,2002:merge" and name in lines:
            yield f"{file}:{line}: `{path}{name}` is there twice, in line {lines[name]} too: keep one of them"
        lines[name] = line
        yield from _wrong_keys(file, value, f"{path}{name}.", seen)


def _line_of(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f":{mark.line + 1}"


def _reason_of(error: yaml.YAMLError) -> str:
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    tab = "found character '\\t'" in reason
    return "a tab indents it: use spaces" if tab else " ".join(str(reason).split())
