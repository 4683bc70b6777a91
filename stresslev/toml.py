"""Nested tables as TOML text; the library reads TOML only."""

import json
import re
from collections.abc import Mapping


class Inline(dict):
    """A table to be written on one line."""


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value) -> str:
    if isinstance(value, Inline):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):  # rows of a matrix on a line each
        return "[\n" + "".join(f"  {_row(v) if isinstance(v, list) else _value(v)},\n" for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(float(value)) if isinstance(value, float) else repr(value)


def _row(values: list) -> str:
    return "[" + ", ".join(map(_value, values)) + "]"


def toml_text(data: Mapping, path: tuple[str, ...] = ()) -> str:
    """Nested tables as TOML; what is no table comes first, as TOML wants it."""
    plain = {k: v for k, v in data.items() if isinstance(v, Inline) or not isinstance(v, Mapping)}
    lines = [f"[{'.'.join(map(_key, path))}]"] if path and plain else []
    lines += [f"{_key(k)} = {_value(v)}" for k, v in plain.items()]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, table in data.items():
        if key not in plain:
            text += ("\n" if text else "") + toml_text(table, (*path, key))
    return text


def tables(spec, *, defaults: bool = False) -> dict:
    """A specification (a pydantic model) as nested tables for `toml_text`; tables inside lists stand on one line.

    Args: `defaults` also writes what was left to its default; without it only what was set.
    """

    def inline(x):
        if isinstance(x, dict):
            return Inline({k: inline(v) for k, v in x.items()})
        return [inline(y) for y in x] if isinstance(x, list) else x

    def plain(x):
        if isinstance(x, dict):
            return {k: plain(v) for k, v in x.items()}
        return inline(x)

    return plain(spec.model_dump(mode="json", exclude_none=True, exclude_unset=not defaults))
