"""TARGET: which program a command is about."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from weft.frontend.client import Client
from weft.frontend.verbs import Program

from .problems import UsageProblem

__all__ = ["bundled_apps", "conversation_of", "load_program", "preparation_of"]

_APPS: Final = "weft.apps"
_NAME: Final = "PROGRAM"
_PREPARE: Final = "prepare"
_TALK: Final = "talk"


def load_program(target: str) -> Program[..., Any]:
    """The program that TARGET names: a bundled app, `module:function` or `file.py:function`.

    Raises UsageProblem.
    """
    place, _, function = target.rpartition(":")
    if not place:
        return _bundled(target)
    if place.endswith(".py"):
        return _member(_file_module(Path(place)), place, function)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last: a checkout's folders may have the names of packages
    return _member(_module(place), place, function)


def preparation_of(target: str) -> Callable[[Client], object] | None:
    """What is to be called before the program that TARGET names runs: `prepare` of a bundled app."""
    if ":" in target:
        return None
    return getattr(importlib.import_module(f"{_APPS}.{target}"), _PREPARE, None)


def conversation_of(target: str) -> Callable[..., object] | None:
    """What holds a conversation in the terminal: `talk` of a bundled app."""
    if ":" in target:
        return None
    return getattr(importlib.import_module(f"{_APPS}.{target}"), _TALK, None)


def bundled_apps() -> Iterator[str]:
    """The names of the apps that come with weft and have a program to run."""
    apps = importlib.import_module(_APPS)
    for module in pkgutil.iter_modules(apps.__path__):
        if module.ispkg and hasattr(importlib.import_module(f"{_APPS}.{module.name}"), _NAME):
            yield module.name


def _bundled(name: str) -> Program[..., Any]:
    if name.endswith(".py"):
        raise UsageProblem(f"which program of {name!r}? Write {name}:function")
    known = list(bundled_apps())
    if name not in known:
        raise UsageProblem(
            f"there is no bundled app {name!r} (there are: {', '.join(known)}); "
            "name your own programs as module:function or file.py:function"
        )
    return _member(importlib.import_module(f"{_APPS}.{name}"), name, _NAME)


def _module(name: str) -> ModuleType:
    if name.startswith("."):
        raise UsageProblem(
            f"{name!r} is not the name of a module; a file is named with its ending: {name}.py"
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        if problem.name and (name == problem.name or name.startswith(f"{problem.name}.")):
            raise UsageProblem(f"there is no module {name!r} here or among the installed packages") from None
        raise
    except ValueError:
        raise UsageProblem(f"{name!r} is not the name of a module") from None


def _file_module(file: Path) -> ModuleType:
    if not file.is_file():
        raise UsageProblem(f"there is no file {str(file)!r}")
    known = sys.modules.get(file.stem)
    if known is not None and getattr(known, "__file__", None) == str(file.absolute()):
        return known  # for another of its programs
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.append(str(file.parent.absolute()))  # for what stands beside it
    try:
        spec.loader.exec_module(module)
    except BaseException as problem:
        del sys.modules[file.stem]
        if not (isinstance(problem, ImportError) and "no known parent package" in str(problem)):
            raise
        raise UsageProblem(
            f"{str(file)!r} imports from its package (`from .`): name it as a module, "
            f"PACKAGE.{file.stem}:function"
        ) from None
    return module


def _member(module: ModuleType, place: str, name: str) -> Program[..., Any]:
    found = getattr(module, name, None)
    if isinstance(found, Program):
        return found
    if found is not None:
        raise UsageProblem(f"{name!r} in {place!r} is no program: decorate it with @program")
    programs = sorted(key for key, value in vars(module).items() if isinstance(value, Program))
    raise UsageProblem(f"there is no {name!r} in {place!r}; its programs: {', '.join(programs) or 'none'}")
