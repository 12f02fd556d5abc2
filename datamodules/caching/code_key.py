"""What a user's functions, classes and objects do, as a digest: with other code it is another one.

Code is stated as it is loaded (its bytecode, what it refers to, defaults, closures, attributes) and as it is
written: the content of the modules it comes from, and of what these import from the user's own modules.
What a function reads from files while it runs, no digest can know.
"""

import copyreg
import dis
import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any

from datamodules.caching.own_modules import TRIVIUM, is_own, own_files, version_of
from datamodules.errors import UserError

PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, type(Ellipsis))
# Not numbered when met: which equal constants are one object depends on whether they have just been compiled
WITHOUT_IDENTITY = (tuple, frozenset, CodeType)
LOCKS = ("_thread", "threading")  # no text depends on what is in these modules
SKIPPED = {  # what Python itself puts into a class: no code of the user's
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__slots__"),
    *("__abstractmethods__", "_abc_impl", "__firstlineno__", "__static_attributes__", "__annotate_func__"),
    *("__annotations_cache__", "__parameters__", "__orig_bases__", "__match_args__", "__annotate__"),
}


def code_key(values: Iterable[Any]) -> str:
    """A digest of what is the user's own in some values: functions, classes, objects, also within objects of
    Trivium's, whose other attributes are left to its settings.

    Raises:
        UserError: something that cannot be stated, such as a generator that a function refers to.
    """
    statement = _Statement()
    for value in _users(values, set()):
        where = getattr(value, "__qualname__", type(value).__qualname__)
        try:
            statement.add(value, where)
        except RecursionError as error:
            raise UserError(f"{where} refers to too deeply nested values: use plainer ones") from error
    statement.add_files()
    return statement.digest.hexdigest()


def _users(values: Iterable[Any], seen: set[int]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, PLAIN) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            yield from _users(value.values(), seen)
        elif isinstance(value, list | tuple):
            yield from _users(value, seen)
        elif not _is_trivium(value if isinstance(value, type) else type(value)):
            yield value
        elif not isinstance(value, type):
            yield from _users(vars(value).values(), seen)


def _is_trivium(kind: type) -> bool:
    return str(kind.__module__).partition(".")[0] == TRIVIUM


class _Statement:
    """Hashes values one after another; of a function or an object that was met before only its number."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(sys.version.encode(), digest_size=16)  # bytecode is a version's own
        self.met: dict[int, tuple[int, Any]] = {}  # by id; the object too, so that no other gets its id
        self.modules: dict[str, None] = {}

    def say(self, *words: object) -> None:
        for word in words:
            text = str(word).encode("utf-8", "surrogatepass")
            self.digest.update(len(text).to_bytes(8, "little") + text)

    def add(self, value: Any, where: str) -> None:
        """Hashes a value; `where` it was found, for the message.

        Raises:
            UserError: it cannot be stated.
        """
        if isinstance(value, PLAIN) and type(value) in PLAIN:
            self.say(type(value).__name__, repr(value))
            return
        if id(value) in self.met:
            self.say("met", self.met[id(value)][0])
            return
        if not isinstance(value, WITHOUT_IDENTITY):
            self.met[id(value)] = len(self.met), value
        if isinstance(value, ModuleType):
            self._module(value.__name__)
        elif isinstance(value, FunctionType):
            self._function(value, where)
        elif isinstance(value, CodeType):
            self._code(value, where)
        elif isinstance(value, type):
            self._class(value, where)
        elif type(value) in (list, tuple):
            self.say(type(value).__name__, len(value))
            for part in value:
                self.add(part, where)
        elif type(value) is dict:
            self.say("dict", len(value))
            for key, part in value.items():
                self.add(key, where)
                self.add(part, where)
        elif type(value) in (set, frozenset):
            self.say(type(value).__name__, *sorted(_alone(part, where, self.modules) for part in value))
        elif isinstance(value, staticmethod | classmethod):
            self.say(type(value).__name__)
            self.add(value.__func__, where)
        elif isinstance(value, property):
            self.add(["property", value.fget, value.fset], where)
        elif isinstance(value, MappingProxyType):
            self.add(dict(value), where)
        elif type(value).__name__ == "_lru_cache_wrapper":  # what it has cached so far is no part of it
            self.add(value.__wrapped__, where)
        else:
            self._object(value, where)

    def _module(self, name: str) -> None:
        self.say("module", name)
        if is_own(name):
            self.modules[name] = None
        else:
            self.say(version_of(name))

    def _function(self, function: FunctionType, where: str) -> None:
        code = function.__code__
        module = function.__globals__.get("__name__", "__main__")  # `__module__` is what a decorator says
        self._module(module)
        if is_own(module):
            self._code(code, where)
            for name in _global_names(code):
                if name in function.__globals__:
                    self.say(name)
                    self._global(function.__globals__[name], code, f"{where}, {name}")
            self.modules |= dict.fromkeys(_imported(code))
        else:
            self.say(code.co_qualname)  # and what it holds: a decorator of a library's, say, a function
        self.add(function.__defaults__, where)
        self.add(function.__kwdefaults__, where)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            content = None
            with suppress(ValueError):  # a cell that is empty so far
                content = cell.cell_contents
            self.add(content, f"{where}, {name}")
        self.add(dict(vars(function)), where)  # attributes, such as a decorator's `__wrapped__`

    def _global(self, value: Any, code: CodeType, where: str) -> None:
        """A global of a function's; of a module of the user's what the function names in it, too."""
        self.add(value, where)
        if isinstance(value, ModuleType) and is_own(value.__name__):
            for name in sorted(_names(code) & vars(value).keys()):
                self.say(name)
                self.add(vars(value)[name], f"{where}.{name}")

    def _code(self, code: CodeType, where: str) -> None:
        self.say("code", code.co_name, code.co_code.hex(), code.co_names, code.co_varnames)
        self.say(code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags)
        self.say(code.co_freevars, code.co_cellvars, getattr(code, "co_exceptiontable", b"").hex())
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant, where)
            else:
                self.add(constant, where)

    def _class(self, kind: type, where: str) -> None:
        if not isinstance(kind.__module__, str):  # Cython's classes keep there where their instances are from
            self.say("class", kind.__qualname__)
            return
        self._module(kind.__module__)
        self.say("class", kind.__qualname__)
        if not is_own(kind.__module__):
            return
        for base in (*kind.__bases__, type(kind)):
            self.add(base, where)
        for name, value in vars(kind).items():
            # a slot is a descriptor of C's, which its name says all of
            if name not in SKIPPED and type(value).__name__ not in ("member_descriptor", "getset_descriptor"):
                self.say(name)
                self.add(value, f"{where}.{name}")

    def _object(self, value: Any, where: str) -> None:
        """Whatever else, by what would pickle it: its class and all that it is made of."""
        kind = type(value)
        self.say("object")
        if isinstance(value, BuiltinFunctionType) or kind.__name__.endswith(("_descriptor", "-wrapper")):
            self._c_function(value, where)
            return
        self.add(kind, where)
        if kind.__module__ in LOCKS:
            return
        try:
            reduce = copyreg.dispatch_table.get(kind)
            reduced = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception as error:
            raise UserError(
                f"{where} is a {kind.__qualname__}, whose content cannot be stated, so the token cache would "
                "not know when it changes: make it within the function, or use a plain value"
            ) from error
        if isinstance(reduced, str):  # the name of a global, such as a singleton
            self.say(reduced)
            return
        make, arguments, *rest = reduced
        self.add(make, where)
        self.add(arguments, where)
        for part in rest[:3]:  # state, items of a list, items of a dict
            self.add(part if part is None or isinstance(part, dict | tuple) else _items(part), where)

    def _c_function(self, value: Any, where: str) -> None:
        owner = getattr(value, "__self__", None)
        kind = getattr(value, "__objclass__", None)
        self.say(value.__qualname__ if hasattr(value, "__qualname__") else value.__name__)
        if kind is not None:
            self.add(kind, where)
        elif owner is not None:  # the module of a function, the object of a method
            self.add(owner, where)
        else:
            self._module(value.__module__ or "builtins")

    def add_files(self) -> None:
        """Hashes the files of the user's modules that were met, and of what they import."""
        for name, file in own_files(self.modules).items():
            self.say("file", name, hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest())


def _alone(value: Any, where: str, modules: dict[str, None]) -> str:
    """The digest of one member of a set, whose order is another in every process."""
    statement = _Statement()
    statement.add(value, where)
    modules.update(statement.modules)
    return statement.digest.hexdigest()


def _items(state: Any) -> Any:
    return list(state) if isinstance(state, Iterator) else state


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _global_names(code: CodeType) -> list[str]:
    """The globals that a function and those within it read, in the order in which they do."""
    reads = ("LOAD_GLOBAL", "LOAD_NAME")
    lines = (line for each in _codes(code) for line in dis.get_instructions(each))
    return list(dict.fromkeys(line.argval for line in lines if line.opname in reads))


def _names(code: CodeType) -> set[str]:
    return {name for each in _codes(code) for name in each.co_names}


def _imported(code: CodeType) -> Iterator[str]:
    """What may be modules among the names that a function imports while it runs."""
    module = ""
    for line in (line for each in _codes(code) for line in dis.get_instructions(each)):
        if line.opname == "IMPORT_NAME":
            module = line.argval
            yield module
        elif line.opname == "IMPORT_FROM":
            yield f"{module}.{line.argval}"
