"""What all specifications share: strict tables, and numbers within bounds."""

from itertools import pairwise
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from stresslev.config.tiers import Number

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Whole = Annotated[int, Field(strict=True)]
Positive = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1, allow_inf_nan=False)]
Yes = Annotated[bool, Field(strict=True)]


class Spec(BaseModel):
    """Frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def check_rising(minutes: tuple[float, ...]) -> None:
    """Refuse a time axis that does not rise. Raises ValueError."""
    for low, high in pairwise(minutes):
        if high <= low:
            raise ValueError(f"minutes must rise: {high:g} follows {low:g}; put the points in order, each minute once")


def check_correlation_matrix(matrix, n: int) -> None:
    """Raise ValueError unless it has n rows of n, is symmetric, and has ones on its diagonal."""
    if len(matrix) != n or any(len(row) != n for row in matrix):
        raise ValueError(f"correlation.matrix needs {n} rows of {n}, in the order of [assets]; give a number for every pair of assets")
    for i, row in enumerate(matrix):
        if row[i] != 1 or any(row[j] != matrix[j][i] for j in range(n)):
            raise ValueError("correlation.matrix must be symmetric, with ones on its diagonal; give the same number on both sides of the diagonal")
