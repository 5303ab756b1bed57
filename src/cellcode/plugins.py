"""Extension points: a name is a built-in, an entry point, or `module:Name`, and all three come through one registry.

A `module:Name` that a user writes (on the command line, in a configuration, in Python) is imported, from the working
directory too. One that is found in a run or database is not: these are shared between strangers. It is imported only if the
user named the module, with `--plugin MODULE`, CELLCODE_PLUGINS (separated by commas) or `allow`, or imported it and its target
says that it is of the required kind; see `Registry.require_allowed`.
"""

import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from cellcode.errors import CellcodeError, PluginError, UsageError

T = TypeVar("T")
ENVIRONMENT = "CELLCODE_PLUGINS"
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def allow(*modules: str) -> None:
    """Let runs and databases import these modules and what lies below them, here and in processes that are started here."""
    os.environ[ENVIRONMENT] = ",".join(dict.fromkeys([*allowed(), *modules]))


def allowed() -> list[str]:
    """Return the modules that the user named."""
    return [name.strip() for name in os.environ.get(ENVIRONMENT, "").split(",") if name.strip()]


@dataclass(frozen=True)
class Found(Generic[T]):
    """What a name stands for: a class or function, whose arguments are up to the kind."""

    factory: Callable[..., T]
    argument: str = ""  # what follows the name: the text behind the colon of a prefix, the query behind `module:Name?`


@dataclass(frozen=True)
class Registry(Generic[T]):
    """All names of one kind of extension point.

    Attributes:
        kind: for messages, such as "backbone".
        group: the group of entry points.
        base: the class that every factory returns an instance of.
        builtins: `package.module:Name` by name; a name that ends with a colon is a prefix, and takes what follows as argument.
        bare: `module:ARGUMENT` is accepted where the module holds a single class of the kind.
    """

    kind: str
    group: str
    base: type[T]
    builtins: Mapping[str, str]
    bare: bool = False

    def names(self) -> list[str]:
        """Return the built-in names and those of installed entry points."""
        return [*self.builtins, *self._entries]

    def knows(self, text: str) -> bool:
        """Return True if a text is, or begins with, the name of a built-in or an entry point; nothing is imported."""
        prefix, colon, _ = text.partition(":")
        if text in self.builtins or f"{prefix}:" in self.builtins:  # entry points are looked for only where it matters
            return True
        return text in self._entries or (bool(colon) and prefix in self._entries)

    def is_plugin(self, text: str) -> bool:
        """Return True if a text has the form `module:...` and no built-in or entry point has that name."""
        module, colon, rest = text.partition(":")
        return bool(colon and rest and _MODULE.fullmatch(module)) and not self.knows(text)

    def find(self, text: str) -> Found[T]:
        """Return what a name stands for; modules are imported.

        Raises:
            UsageError: the name is unknown.
            PluginError: the plug-in does not exist, or is not of the kind.
        """
        prefix, _, rest = text.partition(":")
        for name, argument in ((text, ""), (f"{prefix}:", rest)):
            if name in self.builtins:
                module, _, attribute = self.builtins[name].partition(":")
                return Found(getattr(import_module(module), attribute), argument)
        for name, argument in ((text, ""), (prefix, rest)):
            if name in self._entries:
                return Found(self._checked(text, self._loaded(text, self._entries[name])), argument)
        if self.is_plugin(text):
            return self._from_module(text, prefix, rest)
        raise UsageError(
            f"unknown {self.kind} {text}; valid names: {', '.join(self.names())}, or module:Name (an entry point of the "
            f"group {self.group} must be installed)"
        )

    def make(self, text: str, *arguments: Any, **named: Any) -> T:
        """Call what a name stands for; see `find`.

        Raises:
            PluginError: it raises an error of its own, or returns something else than a `base`.
        """
        return self.call(text, self.find(text).factory, *arguments, **named)

    def call(self, text: str, factory: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call a factory and check what it returns; `text` names it in errors."""
        try:
            made = factory(*arguments, **named)
        except CellcodeError:
            raise
        except Exception as error:
            raise PluginError(f"{self.kind} {text}: building it raised {described(error)}") from error
        if not isinstance(made, self.base):
            returned = type(made).__name__
            raise PluginError(f"{self.kind} {text}: expected a {_public(self.base)}, and it returned a {returned}")
        return made

    def require_allowed(self, text: str, where: object) -> None:
        """Check that what a run or database requires may be imported; `where` is the file that requires it.

        Raises:
            PluginError: it is a `module:Name` whose module the user has not named, or no installed entry point.
        """
        if self.is_plugin(text):
            module = text.partition(":")[0]
            is_named = any(module == each or module.startswith(f"{each}.") for each in allowed())
            if not is_named and not self._is_imported(text):
                raise PluginError(
                    f"{where} requires the {self.kind} {text}, code of the module {module}, which is not imported unless you "
                    f"name it: if you trust it, add --plugin {module} or set {ENVIRONMENT}={module}"
                )
        elif not self.knows(text):
            raise PluginError(
                f"{where} requires the {self.kind} {text}, which is neither built in nor an installed entry point of the group "
                f"{self.group}; install the package that has it"
            )

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        return {each.name: each for each in entry_points(group=self.group)}

    def _from_module(self, text: str, module: str, rest: str) -> Found[T]:
        holder = _imported(f"{self.kind} {text}", module)
        name, _, query = rest.partition("?")
        if hasattr(holder, name):
            return Found(self._checked(text, getattr(holder, name)), query)
        own = [
            each
            for each in vars(holder).values()
            if self.bare
            and inspect.isclass(each)
            and issubclass(each, self.base)
            and each.__module__ == holder.__name__
        ]
        if len(own) == 1:
            return Found(own[0], rest)
        number = f"{len(own)} classes of the kind" if own else f"no {name}"
        place = getattr(holder, "__file__", None) or "built in"
        raise PluginError(f"{self.kind} {text}: the module {module} ({place}) has {number}")

    def _loaded(self, text: str, entry: EntryPoint) -> object:
        try:
            return entry.load()
        except Exception as error:
            what = f"loading the entry point {entry.value}"
            raise PluginError(f"{self.kind} {text}: {what} raised {described(error)}") from error

    def _checked(self, text: str, target: object) -> Callable[..., T]:
        """Accept classes of the kind and Python functions, so that a name such as os:system calls nothing."""
        if not (issubclass(target, self.base) if inspect.isclass(target) else inspect.isfunction(target)):
            raise PluginError(
                f"{self.kind} {text}: expected a subclass of {_public(self.base)} or a function that returns one, not "
                f"{'the class' if inspect.isclass(target) else 'a'} {getattr(target, '__name__', type(target).__name__)}"
            )
        return typing.cast("Callable[..., T]", target)

    def _is_imported(self, text: str) -> bool:
        """Return True if the user's own program has imported the target and it says itself that it is of the kind."""
        module, _, rest = text.partition(":")
        target = getattr(sys.modules.get(module), rest.partition("?")[0], None)
        if inspect.isclass(target):
            return issubclass(target, self.base)
        if not inspect.isfunction(target):
            return False
        try:
            returned = typing.get_type_hints(target).get("return")
        except Exception:  # annotations may name anything
            return False
        return inspect.isclass(returned) and issubclass(returned, self.base)


def _imported(what: str, module: str) -> ModuleType:
    """Import a module that the user named, from the working directory too."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file named like a package of the standard library hides nothing
    try:
        return import_module(module)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (module == missing or module.startswith(f"{missing}.")):
            reason = f"there is no module {module}, neither installed nor in the working directory"
            raise PluginError(f"{what}: {reason}") from None
        raise PluginError(f"{what}: importing {module} raised {described(error)}") from error


def described(error: Exception) -> str:
    """Return the type of an error and the first line of its message; of pydantic's the first value that is wrong."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"ValidationError ({'.'.join(map(str, first['loc']))}: {first['msg']})"
    text = str(error).strip()
    return f"{type(error).__name__} ({text.splitlines()[0]})" if text else type(error).__name__


def _public(base: type) -> str:
    return f"{base.__module__.removesuffix('.protocol')}.{base.__name__}"
