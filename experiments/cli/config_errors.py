"""Turns what the argument parser says of a wrong configuration into one line with the nearest right name."""

import ast
import difflib
import inspect
import re
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import torch.optim
from lightning.pytorch import callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser

import datamodules
import modules
from experiments.cli.user_errors import UserError

NOISE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|Given value.*"
    r"|\.? ?Got value: Namespace.*|(- )?Expected a <class '(NoneType|[a-z]+\.[\w.]+)'>.*"
    r"|Subclass types expect one of:|- a (class path \(str\)|dict with(out)? .*)"
    r"|Type \S*Callable\[.*\] expects a function or a callable class: "
)
"""lines of jsonargparse about types that a value could have had, and values in its own spelling"""
NO_CLASS = re.compile(r"(?:- )?Not a valid subclass of (\w+)(?:\. Got value: (.*))?")
"""said of each class that a field takes, which is a reason where there is no other"""
PROBLEM = r"Problem with given class_path '([^']+)': ?"
PLACES = re.compile(rf'Parser key "[^"]+": ?|{PROBLEM}')
LITERAL = r"typing\.Literal\[([^\]]*)\]"
KINDS = re.compile(rf"(?:Expected a (?:<class '\w+'>|{LITERAL})\.? ?)+")
REASONS = (
    (
        r"unhashable type: '\w+'|argument of type '\w+' is not iterable",
        "its `class_path` is no name of a class",
    ),
    (r"'\w+' object has no attribute 'keys'", "its `init_args` are no names with values"),
    (r"Key must be a string, got: (.*?)\.(?= |$)", r"`\1` is no text, and so no name of a field"),
    (r"Expected a path but .* - (?=Expected)", ""),
    (r"Expected a path but (\S+) either not accessible or invalid -?$", r"there is no class `\1`"),
    (
        r"(?:Expected a dot import path string|Unexpected import path format):(?: (.*))?",
        r"there is no class `\1`",
    ),
    (r"Unable to load config ['\"](.{0,60}).*", r"expected its options or a YAML file, got `\1`"),
    (r'Empty nested key: "(.*?)"\.?', r"`\1` has an empty part, and so is no name of a field"),
    (
        r"Expected an instantiatable class, but (\S+) is abstract",
        r"name a class with `class_path`: \1 is abstract",
    ),
    (r"Expected '([^']+)' to be a subclass of <class '(\w+)'>\.?", r"\1 is no \2"),
    (r"Import path (\S+) does not correspond to a subclass of (\w+)", r"\1 is no \2"),
    (r"Not of type \w+: (?=Expected)", ""),
    (
        r"No module named '([^']+)'(?:\. Got value: \S+)?",
        r"there is no module `\1`: mend its name, or install it",
    ),
    (r"Unexpected import object <module '([^']+)'.*", r"`\1` is a module: name a class of it"),
)
"""what jsonargparse, or Python within it, says → what is meant"""
RATES, OWN_RATES = ("lr", "learning_rate"), ("actor_lr", "critic_lr")
"""what a learning rate is called elsewhere, or looked for; and those that are arguments of a stage"""
LONGEST_VALUE, LONGEST_LINE = 100, 600  # characters of a value that a line repeats, and of a line


class ConfigParser(LightningArgumentParser):
    """Lightning's parser, whose errors are a line instead of all its options; to it a path is a path."""

    def add_subclass_arguments(self, baseclass: Any, nested_key: str, *args: Any, **kwargs: Any) -> None:
        """As jsonargparse's, which would read a file that is given for an argument of the class, such as
        `data.init_args.train`, as YAML, whatever its size; `--data FILE` itself may still be YAML."""
        super().add_subclass_arguments(baseclass, nested_key, *args, **kwargs)
        for action in self._actions:
            if action.dest == nested_key and hasattr(action, "sub_add_kwargs"):
                action.sub_add_kwargs["sub_configs"] = False

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within a parser: the outer one tells
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        options = parser._option_string_actions  # argparse has no public list of its options
        raise UserError(one_line(message, options))


def one_line(message: str, options: Iterable[str]) -> str:
    """What is wrong in jsonargparse's message of many lines: the field, what was given, and the nearest name
    there is, which may be one of the parser's `options`, such as `--trainer.max_steps`."""
    lines = [" ".join(NOISE.sub("", line).split()).removeprefix("- ") for line in message.splitlines()]
    no_class = [found for line in lines if (found := NO_CLASS.fullmatch(line))]
    lines = [line for line in dict.fromkeys(lines) if line not in ("", "-") and not NO_CLASS.fullmatch(line)]
    given = re.search(r"Given value: (?:NestedArg\(key='.*', val='(.*)'\)|(.*))", message)
    value = re.sub(r"\. Got value: Namespace.*", "", given[1] or given[2]) if given else ""
    text = " ".join(_reasons(lines, value))
    fields = re.findall(r'Parser key "([^"]+)":', text)
    field = ".".join(dict.fromkeys(fields)) or "configuration"
    known = [option.removeprefix("--") for option in options]
    if no_class and not PLACES.sub("", text).strip():
        return f"{field}: {_no_class(no_class[0][1], no_class[0][2] or value)}"
    if re.search(r"<class '(int|float|bool)'>", text):  # or a class, which nobody meant
        text = re.sub(r"Expected a dot import path string: \S+", "", text).strip()
    if given and KINDS.fullmatch(plain := PLACES.sub("", text)):
        got = "" if "Namespace(" in value else f", got `{value[:LONGEST_VALUE]}`"
        return f"{field}: expected {_kinds(plain, message)}{got}"
    text = re.sub(r" ?Expected a <class '\w+'>(?!\.)", "", text)
    if missing := re.search(r"arguments are required: ((?:\w+\.(?:data|model)(?:, )?)+)$", text):
        names = [f"`{name.rpartition('.')[2]}`" for name in missing[1].split(", ")]
        return (
            f"configuration: there is no {' and no '.join(names)}: give a stage's YAML, as --config sft "
            "(`trivium configs` lists those that are shipped)"
        )
    if unknown := re.search(r"unrecognized arguments: ([^-][^ ]*)", text):
        return f"`{unknown[1]}` is no option: is --config {unknown[1]} meant?"
    if unknown := re.search(r"unrecognized arguments: (?:--)?([^ =]+)", text):
        return f"there is no option --{unknown[1]}{_nearest(unknown[1], known)}"
    if unknown := re.search(r"Option '([^']+)' is not accepted", text):
        classes = re.findall(r"Problem with given class_path '([^']+)'|class_path='([^']+)'", message)
        arguments = [name for pair in classes for name in _arguments("".join(pair))]
        if unknown[1] == "class_path":
            return f"{field}: a key stands beside `class_path`: put it into `init_args`, or leave it out"
        if unknown[1] in arguments:  # its caller gives it, as PPO gives its optimizer a learning rate
            own = [name for name in arguments if name.endswith(f"_{unknown[1]}")]
            return f"{field}: `{unknown[1]}` comes from {' and '.join(own) or 'its caller'}: leave it out"
        return f"{field}: there is no option `{unknown[1]}`{_nearest(unknown[1], arguments)}"
    if unknown := re.search(r"Key '([^']+)' is not expected|does not accept option '([^']+)'", text):
        name = unknown[1] or unknown[2]
        return f"{field}: there is no field `{name}`{_nearest(name, known)}"
    if unknown := re.search(r"module '?([\w.]+)'? has no attribute '?(\w+)", text):
        module, name = unknown.groups()
        return f"{field}: there is no {module}.{name}{_nearest(name, dir(import_module(module)))}"
    if unknown := re.search(r"Expected a dot import path string: (\w+)", text):
        names = [*modules.__all__, *datamodules.__all__, *callbacks.__all__, *loggers.__all__]
        names += [name for name in dir(torch.optim) if name[0].isupper()]
        return f"{field}: there is no class `{unknown[1]}`{_nearest(unknown[1], names)}"
    text = PLACES.sub("", text)
    text = re.sub(rf"Expected a {LITERAL}", lambda found: f"expected {_choices(found[1])}", text)
    for said, meant in REASONS:
        text = re.sub(said, meant, text)
    text = re.sub(r"(\S+ is no )(\w+)((?: \1\w+)+)", _in_one, text)
    text = re.sub(r"Expected a <class '([^']+)'>(?=\. Got value)", r"expected \1", text)
    text = re.sub(r"(expected .*)\. Got value:(?: (.*))?", r"\1, got `\2`", text)
    return f"{field}: {text.strip()[:LONGEST_LINE] or f'it cannot be `{value[:LONGEST_VALUE]}`'}"


def _reasons(lines: list[str], value: str) -> list[str]:
    """The lines without those that others make needless: that a value is no path either, and, of a class
    that is one of the kinds that a field takes, that it is none of the others."""
    lines = [line.replace("Import path does", f"Import path {value} does") for line in lines]
    taken = [found[1] for line in lines if (found := re.match(PROBLEM, line))]
    lines = [line for line in lines if not any(line.startswith(f"Import path {name} ") for name in taken)]
    no_path = [line for line in lines if line.startswith("Expected a path but")]
    others = [line for line in lines if line not in no_path]
    told = re.sub(r"Expected a (dot import path string: \S+|<class '\w+'>)", "", " ".join(others))
    return others if PLACES.sub("", told).strip() else lines


def _kinds(told: str, message: str) -> str:
    """The kinds of value that a field takes. Where it takes texts too, jsonargparse says `int` of a text that
    is none of them."""
    types = (re.findall("Subtypes: (.*)", message) or [""])[-1]
    kinds = dict.fromkeys(re.findall(r"Expected a <class '(\w+)'>", told))
    if literals := re.findall(LITERAL, types):
        kinds = dict.fromkeys(kind for kind in kinds if f"<class '{kind}'>" in types)
    return " or ".join([*kinds, *map(_choices, literals)])


def _in_one(found: re.Match) -> str:
    """`X is no A X is no B` → `X is no A or B`."""
    kinds = [found[2], *found[3].replace(found[1], "").split()]
    return f"{found[1]}{', '.join(kinds[:-1])} or {kinds[-1]}"


def _choices(literal: str) -> str:
    """The values that a `Literal` names, as a YAML has them."""
    return ", ".join(dict.fromkeys(value.strip(" '") for value in literal.split(",")))


def _no_class(kind: str, value: str) -> str:
    """Why a value is no class of a kind with its arguments."""
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        keys = ast.literal_eval(value)
        if isinstance(keys, dict) and "class_path" in keys:
            other = [str(key) for key in keys if key not in ("class_path", "init_args", "dict_kwargs")]
            if other:
                return f"`{other[0]}` stands beside `class_path`: put it into `init_args`, or leave it out"
    return f"expected `class_path` and `init_args` of a class ({kind}), got `{value[:LONGEST_VALUE]}`"


def _arguments(class_path: str) -> list[str]:
    """The arguments of a class that a user has named; none where it cannot be imported."""
    module, _, name = class_path.rpartition(".")
    try:
        called: Any = getattr(import_module(module), name)
        bases = called.__mro__ if inspect.isclass(called) else [called]  # those that `**kwargs` go to
        return [name for base in bases for name in inspect.signature(base).parameters]
    except (ImportError, AttributeError, ValueError):
        return []


def _nearest(name: str, known: Iterable[str]) -> str:
    """`: did you mean …?`, where something is near enough; the last part of a dotted name counts most."""
    known = list(known)
    if name in RATES and "lr" in known:
        return ": did you mean `lr`?"
    if name in RATES and (own := [each for each in known if each in OWN_RATES]):
        return f": there {'are' if len(own) > 1 else 'is'} {' and '.join(f'`{each}`' for each in own)}"
    if name in RATES and "optimizer" in known:
        return ": it is the optimizer's, `model.init_args.optimizer.init_args.lr`"
    same = [each for each in known if each.lower() == name.lower()]
    near = same or difflib.get_close_matches(name, known, n=1)
    if not near:
        last = {each.rpartition(".")[2]: each for each in known}
        near = [last[each] for each in difflib.get_close_matches(name.rpartition(".")[2], last, n=1)]
    return f": did you mean `{near[0]}`?" if near else ""
