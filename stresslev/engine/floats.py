"""Trees in two: their floating leaves, which have derivatives, and all others."""

import jax
import jax.numpy as jnp
from jax import Array


def _moves(x) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def parted(tree):
    """Floating leaves, the other leaves, and a function that puts a tree together from both."""
    leaves, structure = jax.tree.flatten(tree)
    moving = [_moves(x) for x in leaves]

    def together(floats, others):
        new, rest = iter(floats), iter(others)
        return structure.unflatten([next(new) if moves else next(rest) for moves in moving])

    return (
        tuple(x for x, moves in zip(leaves, moving, strict=True) if moves),
        tuple(x for x, moves in zip(leaves, moving, strict=True) if not moves),
        together,
    )


def split(tree):
    """The floating leaves of a tree, and a function that puts others in their place."""
    floats, others, together = parted(tree)
    return floats, lambda new: together(new, others)


def zeros(floats: tuple[Array, ...]) -> tuple[Array, ...]:
    """As many nothings."""
    return tuple(jnp.zeros_like(x) for x in floats)
