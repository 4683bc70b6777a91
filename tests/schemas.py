"""JSON Schema as far as our schemas go, written from the specification (draft 2020-12): a word it does not know is an error."""

import re
from datetime import date, datetime

_TYPES = {
    "object": dict,
    "array": list,
    "string": str | datetime | date,  # TOML has times of its own, which editors see as text
    "boolean": bool,
    "integer": int,
    "number": int | float,
}
_ANNOTATIONS = {"$schema", "$defs", "title", "description", "default", "format"}


def _is(value, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def valid(value, schema, root=None) -> bool:
    """Whether a value is valid under a schema."""
    if isinstance(schema, bool):
        return schema
    root = schema if root is None else root

    def under(inner, one=value) -> bool:
        return valid(one, inner, root)

    def numbers(compare) -> bool:
        return isinstance(value, bool) or not isinstance(value, int | float) or compare(value)

    def sized(kind, compare) -> bool:
        return not isinstance(value, kind) or compare(len(value))

    named = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    checks = {
        "$ref": lambda x: under(root["$defs"][x.removeprefix("#/$defs/")]),
        "type": lambda x: _is(value, x),
        "const": lambda x: value == x and isinstance(value, bool) == isinstance(x, bool),
        "enum": lambda x: any(value == y and isinstance(value, bool) == isinstance(y, bool) for y in x),
        "anyOf": lambda x: any(map(under, x)),
        "oneOf": lambda x: sum(map(under, x)) == 1,
        "allOf": lambda x: all(map(under, x)),
        "if": lambda x: not under(x) or under(schema["then"]),
        "then": lambda x: True,
        "minimum": lambda x: numbers(lambda v: v >= x),
        "maximum": lambda x: numbers(lambda v: v <= x),
        "exclusiveMinimum": lambda x: numbers(lambda v: v > x),
        "exclusiveMaximum": lambda x: numbers(lambda v: v < x),
        "pattern": lambda x: not isinstance(value, str) or re.search(x, value) is not None,
        "minLength": lambda x: sized(str, lambda n: n >= x),
        "minItems": lambda x: sized(list, lambda n: n >= x),
        "maxItems": lambda x: sized(list, lambda n: n <= x),
        "minProperties": lambda x: sized(dict, lambda n: n >= x),
        "items": lambda x: not isinstance(value, list) or all(under(x, one) for one in value),
        "required": lambda x: not isinstance(value, dict) or set(x) <= set(value),
        "properties": lambda x: not isinstance(value, dict) or all(under(x[k], v) for k, v in value.items() if k in x),
        "patternProperties": lambda x: (
            not isinstance(value, dict) or all(under(s, v) for p, s in x.items() for k, v in value.items() if re.search(p, k))
        ),
        "additionalProperties": lambda x: (
            not isinstance(value, dict) or all(under(x, v) for k, v in value.items() if k not in named and not any(re.search(p, k) for p in patterns))
        ),
    }
    return all(checks[word](told) for word, told in schema.items() if word not in _ANNOTATIONS)
