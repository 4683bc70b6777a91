"""Help for those who write files: schemas that agree with the specifications, checks that name the line, templates that are valid."""

import json
import tomllib

import pytest

from stresslev.cli import main
from stresslev.config.load import load_plan, read_toml
from stresslev.editing import template
from stresslev.editing.check import check
from stresslev.editing.kinds import KINDS
from stresslev.editing.schema import DIALECT, schema
from stresslev.errors import InputError
from tests.conftest import ROOT
from tests.schemas import valid

FILES = sorted([*(ROOT / "scenarios").rglob("*.toml"), *(ROOT / "experiments").rglob("*.toml"), ROOT / "tests" / "plumbing.toml"])
SCHEMAS = {kind: schema(kind) for kind in (None, *KINDS)}


def _call(*arguments, code=0):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == code


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_shipped_files_are_valid_under_their_schemas(file):
    data = read_toml(file)
    assert valid(data, SCHEMAS[data["kind"]]) and valid(data, SCHEMAS[None])
    others = [k for k in KINDS if k != data["kind"]]
    assert not any(valid(data, SCHEMAS[k]) for k in others)


def _leaves(data, path=()):
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key), value
        yield from _leaves(value, (*path, key))


def _spoiled(data):
    """Copies of a file with one thing wrong in it: a value of another type, a key that there is not, a key that is missing."""
    for path, value in _leaves(data):
        if isinstance(path[-1], int) and isinstance(value, int | float):
            continue  # long lists of figures: one is as good as another
        wrong = {"x": 1} if isinstance(value, str | int | float | list) else "text"
        for change in ("type", "unknown", "missing"):
            if change == "unknown" and not isinstance(value, dict):
                continue
            copy = json.loads(json.dumps(data, default=str))
            place = copy
            for key in path[:-1]:
                place = place[key]
            if change == "type":
                place[path[-1]] = wrong
            elif change == "unknown":
                place[path[-1]]["no such key!"] = 1
            elif isinstance(place, dict):
                del place[path[-1]]
            yield (*path, change), copy


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_schema_lets_pass_and_the_specification_refuses_is_beyond_single_keys(kind):
    """What is wrong with one key or its type is wrong for both; a schema is never the stricter of the two."""
    data = tomllib.loads(template.text(kind, "example"))
    count = 0
    for path, spoiled in _spoiled(data):
        try:
            KINDS[kind].model_validate(spoiled)
            fine = "kind" in spoiled
        except ValueError as error:
            fine = all(e["type"] == "value_error" for e in error.errors())  # what several keys must add up to, no schema knows
        if path[-2:] in {("metrics", "missing")} or (kind == "gate" and path[0] == "tolerances"):
            continue  # names of metrics are checked elsewhere, and by the schema
        count += 1
        assert valid(spoiled, SCHEMAS[kind]) == fine, path
    assert count > 10


def test_schemas_know_names_of_metrics_and_pairs_of_bounds():
    suite = tomllib.loads(template.text("suite", "s"))
    assert not valid(suite | {"limits": {"bad_dept_usd": {"max": 1}}}, SCHEMAS["suite"])
    experiment = tomllib.loads(template.text("experiment", "s"))
    assert not valid(experiment | {"parameters": {"caps.base": [1, 2, 3]}}, SCHEMAS["experiment"])
    gate = tomllib.loads(template.text("gate", "s"))
    assert not valid(gate | {"metrics": ["bad_dept_usd"]}, SCHEMAS["gate"])
    assert not valid({"kind": "nothing"}, SCHEMAS[None]) and not valid({}, SCHEMAS[None])


def test_schemas_are_schemas():
    jsonschema = pytest.importorskip("jsonschema")
    for one in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(one)


@pytest.mark.parametrize("kind", KINDS)
def test_every_reference_leads_somewhere(kind, tmp_path, capsys):
    _call("schema", kind)
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(json.dumps(SCHEMAS[kind])) and said["$schema"] == DIALECT
    text = json.dumps(said)
    assert all(f'"$ref": "#/$defs/{name}"' in text for name in said["$defs"])
    _call("schema", "--out", tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text())["allOf"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_is_valid_as_it_is(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _call("new", kind, "my.first-one_2")
    assert read_toml(tmp_path / "my.first-one_2.toml")["name"] == "my.first-one_2"
    _call("validate", "my.first-one_2.toml")
    assert f"ok: my.first-one_2.toml: {kind}" in capsys.readouterr().out
    before = (tmp_path / "my.first-one_2.toml").read_text()
    _call("new", kind, "my.first-one_2", code=2)
    _call("new", kind, "../elsewhere", code=2)
    _call("new", "nothing", "x", code=2)
    assert [p.name for p in tmp_path.iterdir()] == ["my.first-one_2.toml"] and before == (tmp_path / "my.first-one_2.toml").read_text()


def test_templates_go_together(tmp_path):
    for kind in ("system", "scenario", "policy"):
        template.write(kind, f"my_{kind}", tmp_path / f"{kind}.toml")
    plan = load_plan(tmp_path / "scenario.toml", system=tmp_path / "system.toml", policy=tmp_path / "policy.toml")
    assert plan.policy.name == "my_policy" and check(tmp_path / "policy.toml", str(tmp_path / "system.toml")) == "policy"
    load_plan(tmp_path / "scenario.toml")  # on the shipped system too


@pytest.mark.parametrize(
    ("kind", "old", "new", "line", "words"),
    [
        ("system", "depth_usd = 250e6", "depth_usd = -250e6", "depth_usd = -250e6", "assets.ETH.depth_usd"),
        ("system", "depth_usd = 250e6", "dept_usd = 250e6", "dept_usd = 250e6", "'depth_usd'"),
        ("system", "volatility = 0.7\n", 'volatility = "high"\n', 'volatility = "high"', "give a number"),
        ("system", 'tiers = { BTC = "example", ETH', 'tiers = { BTC = "exemple", ETH', 'tiers = { BTC = "exemple"', "exemple"),
        ("system", "max_leverage = [100,", "max_leverage = [1000,", "[tiers.example]", "initial margin"),
        ("system", "insurance_fund_usd = 50e6\n", "", "[pools.venue]", "is missing"),
        ("system", "accounts = 20_000", "accounts = 20_000\nleverage_min = 200", "leverage_min = 200", "leverage_min must be below"),
        ("scenario", "minutes = [0, 10, 20]", "minutes = [0, 10, 10]", "minutes = [0, 10, 10]", "minutes must rise"),
        ("scenario", "minutes = [0, 10, 20]", "minutes = [0, 10, -20]", "minutes = [0, 10, -20]", "paths.BTC.minutes.2"),
        ("policy", "floor = 0.25", "floor = 2.5", "floor = 2.5", "rules.0.floor"),
        ("policy", 'form = "pace"', 'form = "slowly"', 'form = "slowly"', "transition.form"),
        ("policy", "[caps]\nfloor = 2 ", "[caps]\nfloor = 200 ", "floor = 200 # least", "floor 200 is above ceiling"),
        ("suite", "[limits.insurance_fund_fall]", "[limits.insurance_fund_fal]", "[limits.insurance_fund_fal]", "is no metric"),
        ("suite", "precision = 32", "precision = 16", "precision = 16 #", "run.precision"),
        ("gate", "relative = 0.05", "relative = -1", "relative = -1", "tolerances.bad_debt_over_open_interest.relative"),
        ("experiment", "steps = 12", "steps = 0", "steps = 0", "optimizer.steps"),
        ("suite", "seed = 2025", "seed = = 2025", "seed = = 2025", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, capsys, kind, old, new, line, words):
    file = tmp_path / "file.toml"
    text = template.text(kind, "x")
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new))
    _call("validate", file, code=2)
    said = capsys.readouterr().err
    [number] = [i for i, row in enumerate(file.read_text().split("\n"), start=1) if row.strip().startswith(line)]
    assert f"error: {file}:{number}:" in said and words in said, said


def test_all_files_are_checked_whatever_is_wrong_with_one(tmp_path, capsys):
    (tmp_path / "bad.toml").write_text('kind = "sistem"\n')
    _call("validate", tmp_path / "bad.toml", "gap_35_half_depth", tmp_path / "none.toml", "default", code=2)
    said = capsys.readouterr()
    assert "ok: gap_35_half_depth: scenario" in said.out and "ok: default: suite of 3" in said.out
    assert f"{tmp_path / 'bad.toml'}:1: kind = 'sistem'" in said.err and "'system'" in said.err and "none.toml" in said.err


def test_data_files_that_are_not_there_are_told(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text(template.text("scenario", "s").replace("minutes = [0, 10, 20]\nprices = [100000.0, 100000.0, 70000.0]", 'file = "prices.csv"'))
    with pytest.raises(InputError, match=r"prices\.csv.*is no file"):
        check(file)


def test_an_option_is_not_blamed_on_a_line(tmp_path, capsys):
    file = tmp_path / "system.toml"
    file.write_text(template.text("system", "x"))
    out = tmp_path / "r"
    _call("run", "gap_35_half_depth", "--system", file, "--set", "system.assets.BTC.depth_usd=-1", "--out", out, code=2)
    assert f"error: {file}: assets.BTC.depth_usd = -1" in capsys.readouterr().err
