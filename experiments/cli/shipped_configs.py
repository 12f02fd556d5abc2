"""The YAMLs that come with Trivium, by name: `--config sft` from any folder, as a wheel has none to name."""

import os
import re
from difflib import get_close_matches
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
OPTIONS = ("--config", "-c")


def shipped(folder: str = "") -> dict[str, Path]:
    """Name → file of the YAMLs in a folder of `experiments/configs`; of stages, where none is given."""
    return {file.stem: file for file in sorted((CONFIGS / folder).glob("*.yaml"))}


def with_shipped_configs(argv: list[str]) -> list[str]:
    """A command line with the file of each shipped YAML in the place of its name; a file that is called so
    goes before."""
    words, is_config = [], False
    for word in argv:
        option, equals, value = word.partition("=")
        if equals and option in OPTIONS:
            words.append(f"{option}={file_of(value)}")
        else:
            words.append(file_of(word) if is_config else word)
        is_config = word in OPTIONS
    return words


def file_of(name: str, folder: str = "") -> str:
    """The file of a shipped YAML's name; what is none, or a file of one's own, as it is."""
    if os.path.exists(name) and not os.path.isdir(name):
        return name
    return str(shipped(folder).get(name.removeprefix(f"{folder}/"), name))


def hint(name: str, folder: str = "") -> str:
    """What to give in place of a file that is not there."""
    names = list(shipped(folder))
    near = get_close_matches(Path(name).stem, names, n=1)
    return (
        f"did you mean `{near[0]}`, which is shipped?" if near else "`trivium configs` lists what is shipped"
    )


def comment(file: Path) -> str:
    """The first sentence of the comment that a YAML begins with."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("#   "):
            break
        lines.append(line.removeprefix("#").strip())
    return re.split(r"(?<=[.?!]) (?=[A-Z`])", " ".join(lines))[0]


def whole(file: Path) -> str:
    """The text of a YAML with those that it names in place of a section written out, so that it can be copied
    anywhere."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"(\w+): (\S+\.yaml)", line)
        if match:
            section = (file.parent / match[2]).read_text(encoding="utf-8").splitlines()
            lines += [f"{match[1]}:", *(f"  {inner}" for inner in section)]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"
