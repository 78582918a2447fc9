"""Training configurations: TOML tables read into dataclasses, each unknown or ill-typed key refused by
name.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

C = TypeVar("C")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary. Raises ValueError with the file's name where it does not parse."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"no configuration at {path}; give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path} is not a readable TOML file ({error})") from error


def build(cls: type[C], table: dict[str, Any], where: str) -> C:
    """An instance of the dataclass ``cls`` from a table; lists (or one value alone) become tuples,
    tables nested dataclasses.

    Raises ValueError naming the key for an unknown one, a missing one, or a value of another type.
    """
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    if unknown := sorted(set(table) - set(fields)):
        raise ValueError(f"{where}: unknown setting '{unknown[0]}' (known: {', '.join(sorted(fields))})")
    values: dict[str, Any] = {}
    for name, f in fields.items():
        if name not in table:
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise ValueError(f"{where}: setting '{name}' is missing")
            continue
        value, hint = table[name], hints[name]
        if get_origin(hint) is tuple and type(value) is get_args(hint)[0]:
            value = [value]  # one alone needs no list
        if dataclasses.is_dataclass(hint) or hint is dict or get_origin(hint) is dict:
            if not isinstance(value, dict):
                raise ValueError(f"{where}: setting '{name}' is {value!r}, expected a table")
        if dataclasses.is_dataclass(hint):
            value = build(hint, value, f"{where}.{name}")  # type: ignore[arg-type]
        elif get_origin(hint) is tuple:
            value = _list(value, hint, f"{where}: setting '{name}' is {value!r}, expected a list of")
        elif hint is float and type(value) is int:
            value = float(value)
        elif hint in (int, float, str, bool) and type(value) is not hint:
            raise ValueError(f"{where}: setting '{name}' is {value!r}, expected {hint.__name__}")
        values[name] = value
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _list(value: Any, hint: Any, complaint: str) -> tuple[Any, ...]:
    """A list, or a list of lists, as tuples."""
    kind = get_args(hint)[0]
    if isinstance(value, list) and get_origin(kind) is tuple:
        return tuple(_list(v, kind, f"{complaint} lists of") for v in value)
    if not isinstance(value, list) or not all(type(v) is kind for v in value):
        raise ValueError(f"{complaint} {getattr(kind, '__name__', 'lists')}")
    return tuple(value)
