"""Which modules are the user's own, their files and what these import; versions of all others."""

import ast
import importlib.metadata
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

TRIVIUM = "datamodules"  # its own code: the version of the token cache stands for it
LIBRARIES = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
INSTALLED = {"site-packages", "dist-packages"}


@cache
def is_own(module: str) -> bool:
    """Whether a module is the user's: none of Trivium's, Python's or an installed package's."""
    top = module.partition(".")[0]
    if top == TRIVIUM or top in sys.builtin_module_names:
        return False
    places = _places(top)
    if top == "__main__" or not places:  # a script's or notebook's; made while running
        return top == "__main__" or top not in sys.stdlib_module_names
    return not any(
        INSTALLED & set(place.parts) or any(library in place.parents for library in LIBRARIES)
        for place in places
    )


def _places(top: str) -> list[Path]:
    """The file of a module that lies in no package, or the folders of a package."""
    module = sys.modules.get(top)
    paths = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    if module is None:
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(top)
            paths = [spec.origin, *(spec.submodule_search_locations or [])] if spec is not None else []
    return [Path(path).resolve() for path in paths if path and Path(path).exists()]


def file_of(module: str) -> Path | None:
    """The file of one of the user's modules, imported or not; None where it has none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module not in sys.modules:
        with suppress(ImportError, ValueError, AttributeError):
            spec = importlib.util.find_spec(module)
            file = spec.origin if spec is not None and spec.has_location else None
    return Path(file).resolve() if file and Path(file).is_file() else None


def own_files(modules: Iterable[str]) -> Mapping[str, Path]:
    """Name → file of the user's modules among some, of what these import from the user's own, and of the
    packages that they lie in, by name. Not of `__main__`: the other lines of a script make no text."""
    files: dict[str, Path | None] = {"__main__": None}
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name and name not in files and is_own(name):
            files[name] = file = file_of(name)
            pending += [name.rpartition(".")[0], *(_imports(name, file) if file is not None else [])]
    return {name: file for name, file in sorted(files.items()) if file is not None}


def _imports(name: str, file: Path) -> list[str]:
    """What may be modules among the names that a file imports anywhere, in functions too."""
    try:
        tree = ast.parse(file.read_bytes()) if file.suffix == ".py" else ast.Module([], [])
    except (SyntaxError, ValueError):  # changed since it was imported
        return []
    parts = (name if file.stem == "__init__" else name.rpartition(".")[0]).split(".")
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            found += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return found


@cache
def version_of(module: str) -> str:
    """Name and version of the installed package that a module comes from; its name where it is Python's."""
    top = module.partition(".")[0]
    if top == TRIVIUM or top in sys.stdlib_module_names:
        return top
    versions = [f"{package.name} {package.version}" for package in _packages().get(top, [])]
    return " ".join(versions) or f"{top} {getattr(sys.modules.get(top), '__version__', '')}"


@cache
def _packages() -> Mapping[str, list[importlib.metadata.Distribution]]:
    """Top module → the installed packages with files of it. `importlib.metadata.packages_distributions` makes
    a path of each of their tens of thousands of files: a second of every start."""
    packages: dict[str, list[importlib.metadata.Distribution]] = {}
    for package in importlib.metadata.distributions():
        tops = (package.read_text("top_level.txt") or "").split()
        if not tops:
            files = (package.read_text("RECORD") or "").splitlines()
            places = {line.partition(",")[0].strip('"').partition("/")[0] for line in files}
            tops = [inspect.getmodulename(place) or place for place in places]
        for top in tops:
            packages.setdefault(top, []).append(package)
    return packages
