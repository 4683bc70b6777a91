"""Where keys stand in a TOML file: tomllib reads values and forgets their lines."""

import bisect
import re
import tomllib
from contextlib import suppress

#: Keys and list indices from the root to a value.
KeyPath = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_PLAIN = re.compile(r"[^,\]}#\r\n]*")


def lines(text: str) -> dict[KeyPath, int]:
    """Path of every key, table and list element -> its line, from 1; of a table, that of its first header or of the key that made it.

    Args: `text`, valid TOML; of anything else the positions are as far as they were found.
    """
    scanner = _Scanner(text)
    with suppress(IndexError, AttributeError, ValueError, RecursionError):  # no TOML: whoever reads the values says where it is wrong
        scanner.document()
    return scanner.found


class _Scanner:
    """A pass over the text that looks at structure alone."""

    def __init__(self, text: str):
        self.text, self.at = text, 0
        self.starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self.found: dict[KeyPath, int] = {}
        self.length: dict[KeyPath, int] = {}  # of lists of tables made by headers

    def _note(self, path: KeyPath, at: int) -> None:
        """The first place counts; tables that a dotted path passes through are made by it."""
        line = bisect.bisect_right(self.starts, at)
        for depth in range(1, len(path) + 1):
            self.found.setdefault(path[:depth], line)

    def _skip(self, what: re.Pattern) -> None:
        self.at = what.match(self.text, self.at).end()

    def document(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        begin = self.at
        many = self.text.startswith("[[", begin)
        self.at += 2 if many else 1
        path: KeyPath = ()
        names = self._key()
        for depth, name in enumerate(names, start=1):
            path = (*path, name)
            if path in self.length and (depth < len(names) or not many):
                path = (*path, self.length[path] - 1)
        if many:
            number = self.length.get(path, 0)
            self.length[path] = number + 1
            path = (*path, number)
        self._note(path, begin)
        self.at = self.text.index("]", self.at) + (2 if many else 1)
        return path

    def _key(self) -> tuple[str, ...]:
        """A dotted key, up to what follows it."""
        names = []
        while True:
            self._skip(_SPACE)
            if self.text[self.at] in "\"'":
                begin = self.at
                self._string()
                names.append(tomllib.loads(f"x = {self.text[begin : self.at]}")["x"])
            else:
                match = _BARE.match(self.text, self.at)
                names.append(match.group())
                self.at = match.end()
            self._skip(_SPACE)
            if self.text[self.at] != ".":
                return tuple(names)
            self.at += 1

    def _pair(self, table: KeyPath) -> None:
        begin = self.at
        path = (*table, *self._key())
        self._note(path, begin)
        self.at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        character = self.text[self.at]
        if character in "\"'":
            self._string()
        elif character == "[":
            self._list(path)
        elif character == "{":
            self._inline(path)
        else:
            self._skip(_PLAIN)

    def _string(self) -> None:
        quote = self.text[self.at]
        many = self.text.startswith(quote * 3, self.at)
        end = quote * 3 if many else quote
        self.at += len(end)
        while not self.text.startswith(end, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
            if self.at >= len(self.text):
                raise IndexError("an open string")
        self.at += len(end)
        while many and self.text.startswith(quote, self.at):  # up to two quotes may stand before the closing three
            self.at += 1

    def _list(self, path: KeyPath) -> None:
        self.at += 1
        number = 0
        self._skip(_BLANK)
        while self.text[self.at] != "]":
            self._note((*path, number), self.at)
            self._value((*path, number))
            number += 1
            self._comma("]")
        self.at += 1

    def _comma(self, end: str) -> None:
        self._skip(_BLANK)
        if self.text[self.at] == ",":
            self.at += 1
            self._skip(_BLANK)
        elif self.text[self.at] != end:
            raise ValueError("neither a comma nor the end")

    def _inline(self, path: KeyPath) -> None:
        self.at += 1
        self._skip(_BLANK)
        while self.text[self.at] != "}":
            self._pair(path)
            self._comma("}")
        self.at += 1


def _below(data, words: list[str]) -> tuple[KeyPath, int]:
    """The longest path into nested tables and lists that a dotted key spells, and how many of its words it uses. Names may have dots in them."""
    best: tuple[KeyPath, int] = ((), 0)
    for count in range(1, len(words) + 1):
        name: str | int = ".".join(words[:count])
        if isinstance(data, list) and name.isdigit() and int(name) < len(data):
            name = int(name)
        elif not (isinstance(data, dict) and name in data):
            continue
        path, used = _below(data[name], words[count:])
        if count + used > best[1]:
            best = (name, *path), count + used
    return best


def locate(text: str, where: str) -> tuple[int, object] | None:
    """Line of a dotted key such as `rules.0.gamma` and the value there; where the key is not there, of the table it is missing from.

    None for the whole file, for what is no key of the file, and for text that is no TOML.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError):
        return None
    words = where.split(".")
    path, used = _below(data, words)
    line = lines(text).get(path)
    if line is None or used < len(words) - 1:
        return None
    value = data
    for name in path:
        value = value[name]
    return (line, value) if used == len(words) else (line, None)
