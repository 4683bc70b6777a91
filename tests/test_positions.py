"""Lines of keys: held against what tomllib finds in the same text, in every file shipped and in the darker corners of TOML."""

import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stresslev.config.positions import lines, locate
from tests.conftest import ROOT

FILES = sorted([*(ROOT / "scenarios").rglob("*.toml"), *(ROOT / "experiments").rglob("*.toml"), ROOT / "tests" / "plumbing.toml"])

CORNERS = r'''
# comments with "quotes' and [brackets]
plain = 1
"quoted.key" = "a # no comment \" nor an end"
'literal "key"' = 'C:\no\escape'
a.b . "c d" = 3
empty = ""
date = 1979-05-27 07:32:00 # blank inside
inf = -inf

many = """
key = "not a key" \
[not.a.table]
""""
other = \'\'\'
x = 1
don''t\'\'\'''

nested = [ # a comment
  [1, 2], # another
  { x = 1, y = [ "]", '}' ], z = { deep.er = true } },
  "]",
]
none = []
nothing = {}

[table] # behind a header
x = { p = 1 }
[ spaced . "out.there" ]
y = 2

[[list]]
name = "one"
[list.inner]
z = 1
[[list.more]]
w = 1
[[list.more]]
w = 2
[[list]]
name = "two"
[list.inner]
z = 3
[late.parent.first]
[late]
key = 1
'''.replace(r"\'\'\'", "'''")


def _paths(data, path=()):
    """All paths of what tomllib has read."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _holds(text):
    """Every path is found, no other is, and its line holds the name of the key."""
    found, rows = lines(text), text.split("\n")
    assert set(found) == set(_paths(tomllib.loads(text)))
    for path, line in found.items():
        name = next(x for x in reversed(path) if isinstance(x, str))
        if not isinstance(path[-1], int):
            assert name in rows[line - 1] or name.replace('"', '\\"') in rows[line - 1], (path, line)


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_every_key_of_the_shipped_files_is_found(file):
    _holds(file.read_text(encoding="utf-8"))


def test_the_corners_of_toml():
    _holds(CORNERS)
    _holds(CORNERS.replace("\n", "\r\n"))
    rows = CORNERS.split("\n")
    at = {path: rows[line - 1] for path, line in lines(CORNERS).items()}
    assert at["a", "b", "c d"] == 'a.b . "c d" = 3' and at["a",] == at["a", "b"] == at["a", "b", "c d"]
    assert at["nested", 0, 1] == "  [1, 2], # another" and "deep.er" in at["nested", 1, "z", "deep", "er"]
    assert at["spaced", "out.there", "y"] == "y = 2" and at["list", 1, "inner", "z"] == "z = 3" and at["list", 0, "more", 1, "w"] == "w = 2"
    assert at["late", "key"] == "key = 1" and at["late",] == "[late.parent.first]"


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=6)
VALUES = st.recursive(
    st.one_of(st.integers(-9, 9), st.booleans(), NAMES),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_whatever_is_written_is_found(data):
    tomlkit = pytest.importorskip("tomlkit")  # somebody else's writer
    text = tomlkit.dumps(data)
    if tomllib.loads(text) == data:
        assert set(lines(text)) == set(_paths(data))


@given(st.text(alphabet="[]{}\"'=.,# \n\\ab1", max_size=30))
def test_text_that_is_no_toml_ends_in_something(text):
    lines(text)
    locate(text, "a.b")


TEXT = """kind = "system"
[assets.BTC]
depth_usd = 1

[[rules]]
gamma = 1
[[rules]]
gamma = 2
[scenarios."fall.1"]
shock = 1
"""


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("kind", 1),
        ("assets.BTC.depth_usd", 3),
        ("assets.BTC", 2),
        ("assets.BTC.volatility", 2),  # missing: the table it is missing from
        ("rules.1.gamma", 8),
        ("rules.0", 5),
        ("scenarios.fall.1.shock", 10),
        ("file", None),
        ("nothing.of.the.kind", None),
        ("assets.ETH.depth_usd.deeper", None),
    ],
)
def test_a_dotted_key_leads_to_its_line(where, line):
    found = locate(TEXT, where)
    assert (found and found[0]) == line
    assert line is None or re.match(r"\S", TEXT.split("\n")[line - 1])
