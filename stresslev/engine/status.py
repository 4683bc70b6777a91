"""Status bits: carried through the compiled program as one int32, turned into sentences on the host."""

import jax.numpy as jnp

NONFINITE = 1
RESIDUAL = 2
ROUNDS_CAP = 4
CAPACITY_BOUND = 8

#: Bits after which the numbers of a run must not be used.
FAILURES = NONFINITE | RESIDUAL

_SENTENCES = {
    NONFINITE: "a price, an equity or a ledger became infinite or not a number; "
    "check for a zero depth, an extreme path or an impact that feeds itself",
    RESIDUAL: "cash or positions did not balance within the tolerance of the precision; run with --precision 64, and report it if it persists",
    ROUNDS_CAP: "in some steps accounts were still being closed in the last round allowed; any that its price move left under margin waited for "
    "the next step (raise run.max_rounds to let the cascade go further inside one step)",
    CAPACITY_BOUND: "in some steps a pool had more to close than its liquidation capacity allows; the rest waited",
}


def flag(condition, bit):
    """int32 `bit` where `condition` holds, else 0."""
    return jnp.where(condition, jnp.int32(bit), jnp.int32(0))


def failed(status) -> bool:
    """Whether the run behind this status must not be used."""
    return bool(int(status) & FAILURES)


def sentences(status) -> list[str]:
    """What the bits of a status say, failures first."""
    return [text for bit, text in _SENTENCES.items() if int(status) & bit]
