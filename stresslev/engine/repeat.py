"""Loops that reverse mode goes back through: what each turn began with is kept, and the turn taken again when it is gone through backwards.

A scan would keep everything that a turn worked out, and go on to its full length; a loop of XLA's own has no reverse. This one keeps the carry of
each turn and goes as far as it went, so that turns that are not needed cost nothing in either direction.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine.floats import parted, zeros


def _always(carry) -> Array:
    return jnp.array(True)


def _at(leaves: tuple[Array, ...], n: Array) -> tuple[Array, ...]:
    return tuple(lax.dynamic_index_in_dim(x, n, keepdims=False) for x in leaves)


def _put(leaves: tuple[Array, ...], new: tuple[Array, ...], n: Array) -> tuple[Array, ...]:
    return tuple(lax.dynamic_update_index_in_dim(x, y, n, 0) for x, y in zip(leaves, new, strict=True))


def repeat(body: Callable, carry, context, each, count: Array | int, *, most: int, more: Callable = _always):
    """`carry, found = body(carry, context, x)` for every x of `each`, the first `count` of them and for as long as `more(carry)`.

    For reverse mode, once: forward mode and second derivatives do not go through.

    Reverse mode, in its derivatives by carry, context and `each`, keeps the carries (`most` times what one takes) and takes each turn once again.

    Args:
      body: must use no arrays but its arguments'.
      carry: tree of arrays.
      context: tree of what all turns read.
      each: tree of arrays (most, ...), what single turns read; () for nothing.
      count: () int32; `most` if it is more.
      most, static: turns there is room for, at least one.
      more: of the carry, () bool.

    Returns: the carry after the last turn, and what the turns found, (most, ...) each, zero for those that were not taken.
    """
    form = jax.eval_shape(body, carry, context, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), each))[1]
    (own, own_rest, own_tree), (given, given_rest, given_tree), (xs, xs_rest, xs_tree) = parted(carry), parted(context), parted(each)
    blank = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), form)
    found, found_rest, found_tree = parted(blank)

    def turn(own, given, x, rest):
        own_rest, given_rest, x_rest = rest
        new, found = body(own_tree(own, own_rest), given_tree(given, given_rest), xs_tree(x, x_rest))
        (own, own_rest, _), (found, found_rest, _) = parted(new), parted(found)
        return (own, found), (own_rest, found_rest)

    def forwards(own, given, xs, rest, keep: bool):
        count, own_rest, given_rest, xs_rest = rest
        kept = tuple(jnp.zeros((most, *x.shape), x.dtype) for x in (*own, *own_rest)) if keep else ()

        def one(loop):
            n, own, own_rest, found, found_rest, kept = loop
            if keep:
                kept = _put(kept, (*own, *own_rest), n)
            (own, new), (own_rest, new_rest) = turn(own, given, _at(xs, n), (own_rest, given_rest, _at(xs_rest, n)))
            return n + 1, own, own_rest, _put(found, new, n), _put(found_rest, new_rest, n), kept

        def unfinished(loop):
            return (loop[0] < count) & more(own_tree(loop[1], loop[2]))

        return lax.while_loop(unfinished, one, (jnp.int32(0), own, own_rest, found, found_rest, kept))

    @jax.custom_vjp
    def run(own, given, xs, rest):
        _, own, own_rest, found, found_rest, _ = forwards(own, given, xs, rest, False)
        return (own, found), (own_rest, found_rest)

    def there(own, given, xs, rest):
        turns, end, end_rest, found, found_rest, kept = forwards(own, given, xs, rest, True)
        return ((end, found), (end_rest, found_rest)), (turns, given, xs, rest, kept)

    def back(left, derivatives):
        turns, given, xs, (_, _, given_rest, xs_rest), kept = left
        (of_own, of_found), _ = derivatives
        parts = len(of_own)

        def one(loop):
            n, of_own, of_given, of_xs = loop
            n = n - 1
            held = _at(kept, n)
            rest = held[parts:], given_rest, _at(xs_rest, n)
            _, pull = jax.vjp(lambda *floats: turn(*floats, rest)[0], held[:parts], given, _at(xs, n))
            of_own, more_given, of_x = pull((of_own, _at(of_found, n)))
            return n, of_own, tuple(a + b for a, b in zip(of_given, more_given, strict=True)), _put(of_xs, of_x, n)

        start = turns, of_own, zeros(given), zeros(xs)
        _, of_own, of_given, of_xs = lax.while_loop(lambda loop: loop[0] > 0, one, start)
        return of_own, of_given, of_xs, None

    run.defvjp(there, back)
    (own, found), (own_rest, found_rest) = run(own, given, xs, (jnp.minimum(count, most).astype(jnp.int32), own_rest, given_rest, xs_rest))
    return own_tree(own, own_rest), found_tree(found, found_rest)
