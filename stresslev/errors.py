"""Errors a user can act on: where, what, and how to mend it."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input."""

    where: str  # a dotted key, or a row and a column
    value: str  # what was found there, shortened; empty when nothing was
    what: str  # what is wrong with it
    fix: str  # what to do

    def __str__(self) -> str:
        found = f" = {self.value}" if self.value else ""
        return f"{self.where}{found}: {self.what}. Fix: {self.fix}{'' if self.fix.endswith('?') else '.'}"


class InputError(Exception):
    """Input that cannot be used. Shown as is; exit code 2.

    Attributes:
      file: in which it is wrong, or the option.
      problems: everything that is wrong with it, each with `where` (a key, or a row and a column), `value`, `what` and `fix`.
    """

    def __init__(self, file, problems: Problem | Iterable[Problem]):
        self.file = str(file)
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(f"{self.file}: {p}" for p in self.problems))


class Unfit(ValueError):
    """What a specification refuses, where the fix is more than the message says; raised inside a validator and shown as a `Problem`."""

    def __init__(self, what: str, fix: str):
        super().__init__(what)
        self.fix = fix


class NumericalFailure(Exception):
    """A run whose numbers must not be used. Exit code 3."""


def shorten(value, width: int = 60) -> str:
    """The value as a user wrote it, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def nearest_file(name: str, files: Iterable[str]) -> str:
    """' did you mean X?' when one of the TOML files has a name near to this one, which may lack its ending; else what there is, and where to look."""
    stems = {f.removesuffix(".toml"): f for f in sorted(files)}
    near = difflib.get_close_matches(name.removesuffix(".toml"), stems, n=1, cutoff=0.5)
    return f"did you mean {stems[near[0]]!r}?" if near else "check the path; `stresslev list` shows what is shipped"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' did you mean X?' when one of the known words is near, else a list of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return "use one of " + ", ".join(known[:12]) + (", ..." if len(known) > 12 else "") if known else "remove it"
