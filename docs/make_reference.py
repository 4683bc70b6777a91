"""Write the generated pages, docs/files.md and docs/reference/: `python docs/make_reference.py`; with --check only say which are stale.

They come from specifications, docstrings, the command line and the registries; a test holds them against these.
"""

import ast
import inspect
import re
import sys
import textwrap
import typing
from pathlib import Path

import make_files
import typer

import stresslev
from stresslev.assemble.policy import READS_OF
from stresslev.cli import app
from stresslev.config import policy
from stresslev.engine.leverage import reactions, reading
from stresslev.metrics import HIGHER, MEASURES, METRICS, Metric
from stresslev.objectives import OBJECTIVES
from stresslev.run import Outcome

DOCS = Path(__file__).resolve().parent
MADE = "This page is made by `python docs/make_reference.py`; change the {of} and run it again.\n"


# ---- docstrings as Markdown


def _sections(doc: str) -> list[tuple[str, list[str]]]:
    """A docstring in parts: what comes first under "", then Args, Returns, Raises and the like with their lines."""
    parts = [("", [])]
    for line in inspect.cleandoc(doc).splitlines():
        head = re.match(r"(Args|Attributes|Returns|Raises):(.*)$", line)
        if head:
            parts.append((head[1], [head[2].strip()]))
        elif line and not line.startswith(" ") and parts[-1][0] and not parts[-1][1][-1]:
            parts.append(("", [line]))  # prose after a section
        else:
            parts[-1][1].append(line)
    return parts


def _entries(lines: list[str]) -> list[str]:
    """Entries of a section: a line at its indentation begins one, deeper lines go on with it."""
    found: list[str] = []
    lines = textwrap.dedent("\n".join(lines)).splitlines()
    for line in filter(str.strip, lines):
        name, colon, text = line.partition(":")
        if line.startswith(" ") and found:
            found[-1] += f" {line.strip()}"
        elif colon and re.fullmatch(r"[\w*, ]+", name):
            found.append(f"`{name}`:{text}")
        else:
            found.append(line)
    return found


def prose(doc: str | None) -> str:
    """A docstring as Markdown."""
    out = []
    for head, lines in _sections(doc or ""):
        if not head:
            out.append("\n".join(lines).strip())
        elif lines[0]:  # all on one line, and what goes on with it
            out.append(f"**{head}:** {' '.join(s for s in map(str.strip, lines) if s)}")
        else:
            out.append(f"**{head}:**\n\n" + "\n".join(f"- {entry}" for entry in _entries(lines[1:])))
    return "\n\n".join(filter(None, out))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _rows(head: str, rows) -> str:
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])


# ---- Python


def _tree(thing) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def _arguments(node) -> str:
    """Arguments as one writes them."""
    text = re.sub(r"(?<=[\w\])])=(?=\S)", " = ", ast.unparse(node.args))
    return re.sub(r"^(self|cls)(, |$)", "", text)


def _function(thing) -> tuple[str, str]:
    """Signature and docstring of a function."""
    node = _tree(thing)
    arguments, returns = _arguments(node), f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({arguments}){returns}"
    if len(line) > 110:
        parts = re.split(r", (?=(?:\*|\w+:|\w+=))", arguments)
        line = f"{node.name}(\n" + "".join(f"    {p},\n" for p in parts) + f"){returns}"
    return line, prose(thing.__doc__)


#: What a run alone calls, and no user.
_INNER = {"Sharding": ("over", "devices", "processes")}


def _class(thing) -> str:
    """A class: its docstring, its fields as they stand in the source where the docstring does not list them, its properties and methods."""
    node, source = _tree(thing), textwrap.dedent(inspect.getsource(thing)).splitlines()
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and not n.target.id.startswith("_")]
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name in _INNER.get(thing.__name__, (n.name,))]
    out = [prose(thing.__doc__)]
    if fields and "Attributes:" not in thing.__doc__:
        out.append("```python\n" + textwrap.dedent("\n".join(line for n in fields for line in source[n.lineno - 1 : n.end_lineno])) + "\n```")
    told = []
    for n in methods:
        if not n.name.startswith("_"):
            shown = n.name if any(ast.unparse(d) == "property" for d in n.decorator_list) else f"{n.name}({_arguments(n)})"
            told.append(f"- `{shown}`: {_cell(prose(ast.get_docstring(n)))}")
    return "\n\n".join([*out, *(["\n".join(told)] if told else [])])


def _ours(annotation: str, module) -> list[type]:
    """Classes of this package that an annotation names, specifications of files apart."""
    found = []
    for word in dict.fromkeys(re.findall(r"\b[A-Z]\w*", annotation)):
        thing = getattr(module, word, None)
        for one in typing.get_args(thing) or (thing,):  # or of an alias
            if inspect.isclass(one) and one.__module__.startswith("stresslev.") and not hasattr(one, "model_fields"):
                found.append(one)
    return found


def _annotations(thing) -> str:
    """Of a function's arguments and what it returns, or of a class's fields."""
    node = _tree(thing)
    if isinstance(node, ast.ClassDef):
        return " ".join(ast.unparse(n.annotation) for n in node.body if isinstance(n, ast.AnnAssign))
    args = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return " ".join([*(ast.unparse(a.annotation) for a in args if a.annotation), ast.unparse(node.returns)])


PYTHON = """
```python
from stresslev import load_plan, run_plan

outcome = run_plan(load_plan("gap_35_half_depth", accounts=50_000))
```

Everything here is imported from `stresslev` itself. Shapes: N accounts, V pools, A assets, T steps. Money is in USD, quantities are in coins,
rates are fractions. A plan consists of specifications (`SystemSpec`, `ScenarioSpec`, `PolicySpec` and so on), which have the keys of
[the files](../files.md).
"""


def python_page() -> str:
    """Every name in `stresslev.__all__`, and the classes that they take and return."""
    functions, errors, found = [], [], []
    for name in sorted(set(stresslev.__all__) - {"__version__", "METRICS"}):
        thing = getattr(stresslev, name)
        if inspect.isclass(thing):
            errors.append(thing)
        else:
            functions.append((name, thing))
            found += _ours(_annotations(thing), sys.modules[thing.__module__])
    for outer in (Metric, Outcome):  # whose fields users read
        found += [outer, *_ours(_annotations(outer), sys.modules[outer.__module__])]
    parts = ["# Python\n\n", MADE.format(of="docstrings"), PYTHON, "\n## Functions\n"]
    for name, thing in functions:
        signature, words = _function(thing)
        parts.append(f"\n### `{name}`\n\n```python\n{signature}\n```\n\n{words}\n")
    parts.append(
        "\n## Registries\n\n### `METRICS`\n\nName -> [`Metric`](#metric), of every metric there is; [listed here](metrics.md).\n\n## Errors\n"
    )
    parts += [f"\n### `{c.__name__}`\n\n{_class(c)}\n" for c in errors]
    parts.append("\n## What they take and return\n")
    for c in sorted(set(found), key=lambda c: (c.__module__.startswith("stresslev.engine"), c.__name__)):
        parts.append(f"\n### `{c.__name__}`\n\n`{c.__module__}.{c.__name__}`. {_class(c)}\n")
    return "".join(parts)


# ---- the command line


def parameters(callback):
    """Name, type, typer's information and default of each parameter of a command."""
    hints = typing.get_type_hints(callback, include_extras=True)
    for name, parameter in inspect.signature(callback).parameters.items():
        if typing.get_origin(hints[name]) is typing.Annotated:
            annotation, info = typing.get_args(hints[name])
            yield name, annotation, info, parameter.default


def names(info) -> list[str]:
    """Names of an option. The first stands where typer has the default of parameters that are not annotated."""
    return [n for n in (info.default, *(info.param_decls or ())) if isinstance(n, str)]


def _value(annotation) -> str:
    """What stands for the value of an option."""
    inner = [a for a in (annotation, *typing.get_args(annotation)) if isinstance(a, type)]
    return next((word for kind, word in ((bool, ""), (int, "N"), (float, "X"), (Path, "PATH")) if kind in inner), "TEXT")


def _default(value) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    return "" if value is None or value is False or value == [] else f"`{value}`"


def _command(words: str, callback) -> str:
    arguments, options = [], []
    for name, annotation, info, default in parameters(callback):
        if isinstance(info, typer.models.ArgumentInfo):
            many = typing.get_origin(annotation) is list
            arguments.append(((info.metavar or name.upper()) + ("..." if many else ""), _default(default), info.help or ""))
        else:
            shown = f"{' '.join(names(info))} {info.metavar or _value(annotation)}".strip()
            options.append((f"`{shown}`", _default(default), info.help or ""))
    usage = [words, *(shown if default == "required" else f"[{shown}]" for shown, default, _ in arguments)]
    usage += [shown.strip("`") for shown, default, _ in options if default == "required"]
    usage += ["[OPTIONS]"] if any(default != "required" for _, default, _ in options) else []
    parts = [f"\n## `{words}`\n\n```\n{' '.join(usage)}\n```\n\n{prose(callback.__doc__)}\n"]
    if arguments:
        parts.append("\n" + _rows("| argument | default | |", ((f"`{shown}`", default, told) for shown, default, told in arguments)) + "\n")
    if options:
        parts.append("\n" + _rows("| option | default | |", options) + "\n")
    return "".join(parts)


def commands(words: str, group: typer.Typer) -> list[tuple[str, object]]:
    """Every command and the function behind it, by name."""
    found = [(f"{words} {c.name or c.callback.__name__}", c.callback) for c in group.registered_commands]
    for inner in group.registered_groups:
        found += commands(f"{words} {inner.name}", inner.typer_instance)
    return sorted(found)


#: What exit code 1 says.
_NO = (
    "a limit is breached; of `gate`: or the baseline is not kept; of `tune`: not better out of sample; "
    "of `rerun --exact`: other numbers; of `reverse`: nothing within the radius breaks"
)
EXIT_CODES = f"""
| exit code | meaning |
|---|---|
| 0 | within the limits |
| 1 | {_NO} |
| 2 | bad input: the message names file, key, value and fix; nothing was written |
| 3 | numerical failure, named by the status |
| 70, 130 | a defect of stresslev, or a process of the run was lost; stopped by the user |
"""


def commands_page() -> str:
    """Every command with its arguments and options."""
    found = commands("stresslev", app)
    listed = "\n".join(f"- [`{words}`](#{words.replace(' ', '-')}): {_cell(c.__doc__.splitlines()[0])}" for words, c in found)
    head = "# Commands\n\n" + MADE.format(of="command line") + "\n`stresslev --version` shows the version, `--help` behind any command its options.\n"
    return head + EXIT_CODES + "\n" + listed + "\n" + "".join(_command(*one) for one in found)


# ---- registries


def metrics_page() -> str:
    """Every metric that is registered."""
    of_group = {name: group for group, names in MEASURES.items() for name in names}
    parts = [
        "# Metrics\n\n" + MADE.format(of="entries of `stresslev.METRICS`") + "\n"
        "Each is a number about one scenario, in `summary.json`, in the report, and as a limit: `[limits.NAME] max = ...`. Unit 1 is a fraction or a "
        "ratio. "
        "*Compared by* says under which head policies are compared by it; *also*, what it is given for besides the whole system, "
        "and whether it has a derivative, so that `stresslev tune` can make it small. "
        "What terms mean exactly: [the model, section 12](../model.md#12-measures).\n\n"
    ]
    rows = []
    for m in METRICS.values():
        by = ", ".join(word for word, given in (("pool", m.per_pool), ("size of account", m.per_group)) if given)
        better = "higher" if m.better == HIGHER else "lower"
        notes = "; ".join(filter(None, [f"by {by}" if by else "", "derivative" if m.name in OBJECTIVES else ""]))
        rows.append((f"`{m.name}`", m.title, m.units, better, of_group.get(m.name, ""), notes, m.description))
    parts.append(_rows("| name | title | unit | better | compared by | also | meaning |", rows) + "\n")
    return "".join(parts)


#: Parts of a policy besides rules -> page that has their formula.
_PAGES = {
    "maintenance_multiplier": "leverage",
    "pools": "leverage",
    "tiers": "shipped",
    "caps": "leverage",
    "transition": "transitions",
    "transitions": "transitions",
    "size": "size",
    "score": "risk_score",
    "margin": "portfolio_margin",
    "funding": "funding",
    "gauge_every_minutes": "gauge",
}
#: Kind of a rule -> its page.
_RULE_PAGES = {
    "volatility": "volatility",
    "utilisation": "utilisation",
    "concentration": "utilisation",
    "funding": "funding",
    "gauge": "gauge",
    "own": "own_rule",
}


RULES = """
A rule reads the market at the opening of a step and gives a factor per pool and asset. All rules multiply:
`cap = clip(base x f1^on_cap x f2^on_cap x ..., floor, ceiling)`, and likewise `multiplier x f1^-on_maintenance x ...` for the maintenance requirement
([the model](../model.md), section 13). [Policies](../policies/README.md) has a page with formula, source and picture for each.

Every entry of `[[rules]]` has a `kind` and

"""


def rules_page() -> str:
    """Every policy rule that is registered."""

    def own(model):
        return make_files.table(model, [n for n in model.model_fields if n not in policy.RuleSpec.model_fields and n != "kind"])

    parts = ["# Policy rules\n\n", MADE.format(of="docstrings"), RULES, make_files.table(policy.RuleSpec), "\n"]
    union = typing.get_args(policy.AnyRule)[0]
    for model in typing.get_args(union):
        kinds = typing.get_args(model.model_fields["kind"].annotation)
        parts.append(f"\n## {', '.join(f'`{k}`' for k in kinds)}\n\n{prose(model.__doc__)}\n\n")
        if model is policy.ResponseRule:
            rows = [(f"[`{k}`](../policies/{_RULE_PAGES[k]}.md)", reactions.READS[READS_OF[k]].__doc__) for k in kinds]
            parts += [f"Factor: {prose(reading.respond.__doc__)}\n\n", _rows("| kind | level |", rows), "\n\n", own(model), "\n"]
        else:
            [kind] = kinds
            parts.append(f"{own(model)}\n\nSee [{kind}](../policies/{_RULE_PAGES[kind]}.md).\n")
    parts += ["\n## What a rule can read\n\n", _class(reading.Reading), "\n"]
    rows = [(f"[`{n}`](../policies/{_PAGES[n]}.md)", f.description) for n, f in policy.PolicySpec.model_fields.items() if n in _PAGES]
    parts += ["\n## What a policy sets besides\n\n", _rows("| key | meaning |", rows), "\n"]
    return "".join(parts)


PAGES = {
    "files.md": make_files.page,
    "reference/commands.md": commands_page,
    "reference/python.md": python_page,
    "reference/metrics.md": metrics_page,
    "reference/rules.md": rules_page,
}


def stale() -> list[str]:
    """Pages that are not what this would write."""
    return [name for name, make in PAGES.items() if not (DOCS / name).is_file() or (DOCS / name).read_text(encoding="utf-8") != make()]


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        old = stale()
        print("\n".join(f"stale: docs/{name}; run: python docs/make_reference.py" for name in old) or "up to date")
        sys.exit(1 if old else 0)
    (DOCS / "reference").mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
