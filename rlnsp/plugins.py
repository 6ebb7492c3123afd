"""Find plug-ins: an installed entry point, any 'package.module:attribute', or 'path/to/file.py:attribute'."""

import difflib
import importlib
import importlib.util
import sys
import zlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any


class UnknownPlugin(LookupError):
    """Nothing is called that; the message says what is, and the nearest spelling."""


@cache
def installed(kind: str) -> dict[str, EntryPoint]:
    """The entry points of group ``rlnsp.<kind>``, by name, none of them loaded."""
    return {point.name: point for point in sorted(entry_points(group=f"rlnsp.{kind}"))}


def find(kind: str, use: str) -> Any:
    """The class or function that ``use`` names.

    Args:
        kind: 'rewards', 'policies', 'algorithms' or 'commands'.
        use: A name exactly as installed, 'package.module:attribute', or 'path/to/file.py:attribute'.

    Raises:
        UnknownPlugin: There is no such plug-in, module, file or attribute.
    """
    if ":" in use:
        module_name, _, attribute = use.rpartition(":")
        module = _load_file(Path(module_name)) if module_name.endswith(".py") else _import(module_name)
        if attribute not in vars(module):
            public = [name for name in vars(module) if not name.startswith("_")]
            raise UnknownPlugin(f"{module_name} has no {attribute!r}{nearest(attribute, public)}")
        return vars(module)[attribute]
    points = installed(kind)
    if use in points:
        return points[use].load()
    if use.endswith(".py"):
        raise UnknownPlugin(f"{use!r} names a file but nothing in it; write {use}:NAME")
    known = ", ".join(points) or "none"
    raise UnknownPlugin(
        f"there is no {use!r} among the installed {kind}{nearest(use, points)}; installed: {known}"
    )


def absolute(use: str) -> str:
    """``use`` with a file's path made absolute, so that it means the same from any directory."""
    path, colon, attribute = use.rpartition(":")
    return f"{Path(path).resolve()}:{attribute}" if colon and path.endswith(".py") else use


def nearest(given: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' where something known is spelt much like ``given``, else nothing."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there; something it imports is not
        raise UnknownPlugin(
            f"there is no module {name!r}; install its package, or name a file: path/to/file.py:NAME"
        ) from error


def _load_file(path: Path) -> Any:
    """The file as a module.  One file is one module, however often it is named."""
    path = path.resolve()
    if not path.is_file():
        raise UnknownPlugin(f"there is no file {path}")
    name = f"rlnsp_file_{path.stem}_{zlib.crc32(bytes(path)):08x}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # before it runs: dataclasses look their own module up
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
