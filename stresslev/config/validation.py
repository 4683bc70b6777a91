"""Tables held against specifications: what pydantic finds, as problems a user can act on."""

import re

from pydantic import BaseModel, ValidationError

from stresslev.config.pools import LendingSpec, PerpSpec
from stresslev.errors import InputError, Problem, Unfit, did_you_mean, shorten


def _known_keys(model: type[BaseModel], location: tuple) -> list[str]:
    """Field names at the place a validation error points to."""
    current = model
    for part in location[:-1]:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())] if annotation is not None else [current]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        current = nested[0] if nested else current
    return list(getattr(current, "model_fields", {}))


#: pydantic's error types -> what to do about them.
_FIXES = {
    "float_type": "give a number",
    "float_parsing": "give a number",
    "finite_number": "give a finite number",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "string_type": "give text in quotes",
    "string_pattern_mismatch": "use letters, digits, dot, dash and underscore, beginning with a letter or digit",
    "string_too_short": "give some text",
    "tuple_type": "give a list in square brackets",
    "too_short": "give at least one entry",
    "dict_type": "give a table",
    "model_type": "give a table",
    "model_attributes_type": "give a table",
    "datetime_type": "give a date and time, such as 2025-10-10T00:00:00Z",
    "datetime_parsing": "give a date and time, such as 2025-10-10T00:00:00Z",
}
_BOUNDS = {"greater_than": "above", "greater_than_equal": "of at least", "less_than": "below", "less_than_equal": "of at most"}


def _fix(error: dict, message: str) -> str:
    kind = error["type"]
    if kind in _BOUNDS:
        return f"give a value {_BOUNDS[kind]} {next(iter(error['ctx'].values()))}"
    if kind == "literal_error":
        return f"give {error['ctx']['expected']}"
    return _FIXES.get(kind, f"change it so that this holds: {message}")


#: Where what is wrong ends in a message of our own, and what to do about it begins.
_REMEDY = re.compile(r"[;:,] (?=(?:give|leave|lengthen|let|lower|name|put|raise|remove|take|use|write) )")


def _parted(message: str, error: ValueError) -> tuple[str, str]:
    """What is wrong, and the fix: the error's own, or what its message says of one."""
    if isinstance(error, Unfit):
        return message, error.fix
    if message.startswith("give "):
        return "does not fit its table", message
    what, *fix = _REMEDY.split(message, maxsplit=1)
    return what, fix[0] if fix else "change what this names"


#: Kind of a pool -> its specification.
_POOLS = {"perp": PerpSpec, "lending": LendingSpec}


def _in_file(location: tuple) -> tuple:
    """A location without the kinds of rules, which pydantic puts behind their numbers."""
    for i, (part, number, *rest) in enumerate(zip(location, location[1:], location[2:], strict=False)):
        if part == "rules" and isinstance(number, int) and isinstance(rest[0], str):
            # a key of that name, if the rule has one, stands behind the kind
            return (*location[: i + 2], *location[i + 3 :])
    return location


def _problem(error: dict, model: type[BaseModel], prefix: str) -> Problem:
    location = tuple(p for p in error["loc"] if not (isinstance(p, str) and p.endswith(("]", "TierTable", "TierFile"))))
    if location[:1] == ("pools",) and len(location) > 2 and location[2] in _POOLS:
        # a pool's kind stands in the location, not in the file
        location = (*location[:2], *location[3:])
    where = ".".join([*([prefix] if prefix else []), *(str(p) for p in _in_file(location))]) or "file"
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return Problem(where, "", "is missing", "add it")
    if kind == "extra_forbidden":
        tag = error["loc"][2] if error["loc"][:1] == ("pools",) and len(error["loc"]) > 3 else None
        known = _known_keys(_POOLS[tag], error["loc"][3:]) if tag in _POOLS else _known_keys(model, location)
        return Problem(where, shorten(error["input"]), "is not a key of this table", did_you_mean(str(location[-1]), known))
    if kind == "union_tag_invalid":
        known = re.findall(r"'([^']*)'", error["ctx"]["expected_tags"])
        return Problem(f"{where}.kind", shorten(error["ctx"]["tag"]), "is no kind of this table", did_you_mean(error["ctx"]["tag"], known))
    value = "" if isinstance(error["input"], dict) else shorten(error["input"])
    if kind == "value_error":
        return Problem(where, value, *_parted(message, error["ctx"]["error"]))
    return Problem(where, value, message[:1].lower() + message[1:], _fix(error, message))


def validate(model: type[BaseModel], data: dict, file, prefix: str = "") -> BaseModel:
    """Validate a table against its specification.

    Args:
      model: the specification.
      data: the table as read.
      file: named in the errors.
      prefix: dotted key of the table inside the file.

    Raises:
      InputError: every problem, each with its dotted key, value and fix.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InputError(file, dict.fromkeys(_problem(e, model, prefix) for e in error.errors())) from None
