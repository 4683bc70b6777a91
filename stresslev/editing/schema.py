"""JSON Schemas of the files, which editors check and complete TOML with."""

from pydantic.json_schema import models_json_schema

from stresslev.editing.kinds import KINDS
from stresslev.metrics import METRICS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _without_null(node):
    """The same schema for files that cannot hold null, as TOML cannot; names that a table may have are all that it may have."""
    if isinstance(node, list):
        return [_without_null(x) for x in node]
    if not isinstance(node, dict):
        return node
    node = {key: _without_null(value) for key, value in node.items()}
    if "anyOf" in node:
        several = [x for x in node["anyOf"] if x != {"type": "null"}]
        node = {k: v for k, v in node.items() if k != "anyOf"} | (several[0] if len(several) == 1 else {"anyOf": several})
    if "patternProperties" in node:
        node.setdefault("additionalProperties", False)
    if node.get("default", 0) is None:
        del node["default"]
    elif isinstance(node.get("default"), dict):
        node["default"] = {k: v for k, v in node["default"].items() if v is not None}
    # pydantic's word for unions told apart by a key, which is no keyword of the dialect
    node.pop("discriminator", None)
    return node


def _completed(definitions: dict) -> None:
    """What the specifications check by hand, so that editors know it too."""
    metrics = {name: {"$ref": "#/$defs/LimitSpec", "description": m.description} for name, m in METRICS.items()}
    definitions["SuiteSpec"]["properties"]["limits"] |= {"properties": metrics, "additionalProperties": False}
    tolerances = {name: {"$ref": "#/$defs/ToleranceSpec", "description": m.description} for name, m in METRICS.items()}
    definitions["GateSpec"]["properties"]["tolerances"] |= {"properties": tolerances, "additionalProperties": False}
    definitions["GateSpec"]["properties"]["metrics"]["items"] = {"enum": list(METRICS)}
    pair = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    parameters = definitions["ExperimentSpec"]["properties"]["parameters"]
    parameters["additionalProperties"] = {"anyOf": [{"$ref": "#/$defs/ParameterSpec"}, pair]}


def _definitions() -> dict:
    _, found = models_json_schema([(model, "validation") for model in KINDS.values()], ref_template="#/$defs/{model}")
    definitions = _without_null(found["$defs"])
    _completed(definitions)
    return definitions


def _reached(definitions: dict, name: str) -> dict:
    """The definitions that one of them refers to, itself among them."""
    found: dict = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found[one] = definitions[one]
        stack = [definitions[one]]
        while stack:
            node = stack.pop()
            if isinstance(node, dict):
                reference = node.get("$ref")
                waiting += [reference.removeprefix("#/$defs/")] if isinstance(reference, str) else []
                stack += node.values()
            elif isinstance(node, list):
                stack += node
    return {key: definitions[key] for key in definitions if key in found}


def schema(kind: str | None = None) -> dict:
    """The schema of one kind of file, or of them all: then `kind` in the file says which it is."""
    definitions = _definitions()
    head = {"$schema": DIALECT, "type": "object", "required": ["kind"]}
    if kind is None:
        rules = [
            {"if": {"properties": {"kind": {"const": k}}, "required": ["kind"]}, "then": {"$ref": f"#/$defs/{m.__name__}"}} for k, m in KINDS.items()
        ]
        title = {"title": "A file of stresslev", "properties": {"kind": {"enum": list(KINDS), "description": "says what the file is"}}}
        return head | title | {"allOf": rules, "$defs": definitions}
    name = KINDS[kind].__name__
    # a file must say what it is, also where a table of the kind inside another file need not
    return head | {"title": f"stresslev {kind}", "$ref": f"#/$defs/{name}", "$defs": _reached(definitions, name)}
