"""Places for some accounts of a population: where each goes when they are gathered into blocks of their own, and how they come back.

A mask over all accounts is packed into words of 16 accounts. Sums of the words say how many accounts come before each word, so the account that goes
to a place is found by bisection: first its block, then its word, then its bit. That costs the places and not the accounts, and scatters nothing.
Closing and settling work on accounts under margin so gathered, batch by batch; active-set stepping on those that are awake.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine.blocks import nothing, once, pool_sum, sums_by_pool, unstacked
from stresslev.engine.floats import parted, zeros

#: Accounts per word: a float32 sums that many different powers of two exactly.
_WORD = 16
#: Accounts that one batch holds at least, and the share of the population that it holds if that is more.
BATCH_ACCOUNTS, _BATCH_SHARE = 2048, 1 / 256
#: Accounts per block of a batch, at most: a pool's last block is filled up with empty ones.
_BATCH_BLOCK = 64


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ranks:
    """The accounts of a mask, counted."""

    words: Array  # (nb, W) int32, a bit per account
    within: Array  # (nb, W) int32 accounts of the block up to the end of each word
    start: Array  # (nb,) int32 place of the first account of each block
    ends: Array  # (V,) int32 blocks of places used by each pool and those before it
    by_pool: Array  # (V,) int32 accounts
    block_pool: Array  # (nb,) int32 pool of each block of the population
    block: int = field(metadata={"static": True})  # accounts per block of the population
    size: int = field(metadata={"static": True})  # places per block

    @property
    def count(self) -> Array:
        """() int32 accounts."""
        return jnp.sum(self.by_pool, dtype=jnp.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Places:
    """Who stands where."""

    slot: Array  # (blocks * size,) int32 flat slot of the account in each place; out of range, each another, where there is none
    pool: Array  # (blocks,) int32 pool of each block


def _pack(mask: Array) -> Array:
    """(nb, W) int32 words of a mask (nb, B); accounts past the end of a block are not there."""
    blocks, size = mask.shape
    width = -(-size // _WORD)
    bits = jnp.pad(mask.astype(jnp.float32), ((0, 0), (0, width * _WORD - size)))
    weights = jnp.array([2.0**i for i in range(_WORD)], jnp.float32)
    return (bits.reshape(blocks * width, _WORD) @ weights).astype(jnp.int32).reshape(blocks, width)


def ranks(mask: Array, block_pool: Array, pools: int, size: int = _BATCH_BLOCK) -> Ranks:
    """Count the accounts of a mask (nb, B) that go into blocks of at most `size` places, each for one pool. `block_pool` (nb,) must be in order."""
    block = mask.shape[1]
    size = min(size, block)
    words = _pack(mask)
    # a product with a triangle of ones: a running sum costs the square of its length on a processor
    triangle = jnp.triu(jnp.ones((words.shape[1],) * 2, jnp.float32))
    within = (lax.population_count(words).astype(jnp.float32) @ triangle).astype(jnp.int32)
    counts = within[:, -1]
    by_pool = pool_sum(counts, block_pool, pools)
    needed = -(-by_pool // size)
    ends = jnp.cumsum(needed)
    # a pool's first place, less the accounts of pools before it, plus the accounts before a block
    shift = (ends - needed) * size - (jnp.cumsum(by_pool) - by_pool)
    start = shift[block_pool] + jnp.cumsum(counts) - counts
    return Ranks(words=words, within=within, start=start, ends=ends, by_pool=by_pool, block_pool=block_pool, block=block, size=size)


def _passed(values: Array, wanted: Array, entries: int, first: Array | int = 0) -> Array:
    """How many of the `entries` rising values from `first` on are at most `wanted`. Bisection, written out: a loop is longer to compile."""
    found, step = jnp.zeros_like(wanted), 1 << (entries.bit_length() - 1)
    while step:
        ahead = found + step
        found = jnp.where((ahead <= entries) & (values[first + jnp.minimum(ahead, entries) - 1] <= wanted), ahead, found)
        step //= 2
    return found


def _nth_bit(word: Array, n: Array) -> Array:
    """Position of the n-th bit, from 0, that is set in each word."""
    at = jnp.zeros_like(n)
    for half in (8, 4, 2, 1):
        below = lax.population_count(lax.shift_right_logical(word, at) & ((1 << half) - 1))
        past = n >= below
        n, at = jnp.where(past, n - below, n), jnp.where(past, at + half, at)
    return at


def places(found: Ranks, blocks: int, first: Array | int = 0) -> Places:
    """Who stands in the `blocks` (static) blocks of places from the block `first` on."""
    rows, width = found.words.shape
    place = first * found.size + jnp.arange(blocks * found.size, dtype=jnp.int32)
    # the last block that starts at or before the place: those without any account start where the next one does
    row = _passed(found.start, place, rows) - 1
    rank = place - found.start[jnp.maximum(row, 0)]
    there = (row >= 0) & (rank < found.within[jnp.maximum(row, 0), -1])
    row, rank = jnp.where(there, row, 0), jnp.where(there, rank, 0)
    word = jnp.minimum(_passed(found.within.reshape(-1), rank, width, row * width), width - 1)
    at = row * width + word
    earlier = jnp.where(word > 0, found.within.reshape(-1)[jnp.maximum(at - 1, 0)], 0)
    bit = _nth_bit(found.words.reshape(-1)[at], rank - earlier)
    nowhere = rows * found.block + jnp.arange(blocks * found.size, dtype=jnp.int32)
    slot = jnp.where(there, row * found.block + word * _WORD + bit, nowhere)
    number = first + jnp.arange(blocks, dtype=jnp.int32)
    before = jnp.sum(found.ends[None, :] <= number[:, None], axis=1, dtype=jnp.int32)
    pool = jnp.minimum(before, found.ends.shape[0] - 1)
    return Places(slot=slot, pool=pool)


def place_of(found: Ranks, slot: Array) -> Array:
    """(n,) int32 place of the accounts at flat slots (n,); -1 for those that have none, and out of range."""
    inside = slot < found.words.shape[0] * found.block
    slot = jnp.where(inside, slot, 0)
    row, column = slot // found.block, slot % found.block
    word, bit = column // _WORD, column % _WORD
    held = found.words[row, word]
    earlier = jnp.where(word > 0, found.within[row, jnp.maximum(word - 1, 0)], 0)
    below = lax.population_count(held & (lax.shift_left(jnp.ones_like(bit), bit) - 1))
    there = inside & ((lax.shift_right_logical(held, bit) & 1) > 0)
    return jnp.where(there, found.start[row] + earlier + below, -1)


def take(x: Array, at: Places, fill) -> Array:
    """(blocks, size) of `x` (nb, B) at these places; `fill` where nobody stands."""
    return x.reshape(-1).at[at.slot].get(mode="fill", fill_value=fill).reshape(at.pool.shape[0], -1)


def put(x: Array, at: Places, values: Array) -> Array:
    """`x` (nb, B) with the accounts at these places replaced."""
    return x.reshape(-1).at[at.slot].set(values.reshape(-1), mode="drop", unique_indices=True).reshape(x.shape)


def gathered(tree, at: Places):
    """The accounts at some places: of arrays (nb, B) those, of arrays (nb,), the pools of blocks, the places' own; zeros where nobody stands."""

    def leaf(x):
        if x.ndim == 2:
            return take(x, at, False if x.dtype == jnp.bool_ else 0)
        return at.pool if x.ndim == 1 else x

    return jax.tree.map(leaf, tree)


def scattered(tree, some, new, at: Places):
    """The tree with the accounts at some places, `some` as gathered, as they are `new`; arrays that are still the same are left alone."""
    return jax.tree.map(lambda x, was, now: x if x.ndim != 2 or now is was else put(x, at, now), tree, some, new)


def over_batches(found: Ranks, accounts, local, context, like, *, writes: bool = False, reverse: bool = False):
    """Fold over the accounts that were found, in batches of fixed size.

    Args:
      accounts: tree of arrays by account (nb, B), and of `block_pool` (nb,) and numbers.
      local: `local(some, context) -> (new, values)`: from the accounts of a batch, gathered, to what is to be put in their place (None if not
        `writes`) and to values of each of them, to be summed by pool. It must use no arrays but its arguments', and leave alone empty accounts,
        all zeros.
      context: tree of all else that it needs.
      like: a tree of the form of the sums: (V,) of values (blocks, B), (V, A) of values (A, blocks, B), int32 of flags.
      writes, static: whether accounts change. reverse, static: whether reverse mode is to go through. It goes over the same batches then, each of
        them taken again, so that it costs what the accounts found cost, and not what all do; forward mode cannot go through any more.

    Returns: accounts (as they are if not `writes`), and sums.
    """
    total, pools = found.words.shape[0] * found.block, found.ends.shape[0]
    blocks = max(1, min(max(BATCH_ACCOUNTS, int(total * _BATCH_SHARE)), total) // found.size)

    def loop(found: Ranks, start, each):
        """`each(at, carry)` over all batches."""

        def step(carry):
            first, inner = carry
            return first + blocks, each(once(lambda: places(found, blocks, first), first), inner)

        return lax.while_loop(lambda c: c[0] < found.ends[-1], step, (jnp.int32(0), start))[1]

    def summed(some, context, pool: Array):
        """`local`, with its values summed; each value is worked out once, apart from its sum."""

        def work():
            new, values = local(some, context)
            # arrays that are still the same stay outside
            return jax.tree.map(lambda was, now: None if now is was else now, some, new) if writes else None, values

        changed, values = once(work, pool[0])
        new = jax.tree.map(lambda now, was: was if now is None else now, changed, some, is_leaf=lambda x: x is None) if writes else None
        return new, sums_by_pool(values, pool, pools)

    def forwards(found: Ranks, accounts, context):
        def each(at, carry):
            now, sums = carry
            some = gathered(now if writes else accounts, at)
            new, more = summed(some, context, at.pool)
            return scattered(now, some, new, at) if writes else now, jax.tree.map(jnp.add, sums, more)

        return loop(found, (accounts if writes else (), nothing(like)), each)

    if not reverse:
        after, sums = forwards(found, accounts, context)
        return (after if writes else accounts), unstacked(sums, like)

    (own, own_rest, own_tree), (given, given_rest, given_tree) = parted(accounts), parted(context)

    @jax.custom_vjp
    def run(own, given, rest):
        found, own_rest, given_rest = rest
        after, sums = forwards(found, own_tree(own, own_rest), given_tree(given, given_rest))
        return (parted(after)[:2] if writes else ((), ())), parted(sums)[:2]

    def there(own, given, rest):
        return run(own, given, rest), (own, given, rest)

    def back(kept, derivatives):
        own, given, rest = kept
        found, own_rest, given_rest = rest
        (of_after, _), (of_sums, _) = derivatives

        def each(at, carry):
            of_own, of_given = carry
            some, some_rest, some_tree = parted(gathered(own_tree(own, own_rest), at))

            def batch(some, given):
                new, more = summed(some_tree(some, some_rest), given_tree(given, given_rest), at.pool)
                return (parted(new)[0] if writes else ()), parted(more)[0]

            _, pull = jax.vjp(batch, some, given)
            # a number that all accounts share stays as it is, whatever batches there are
            of_new = tuple(take(d, at, 0) if d.ndim == 2 else jnp.zeros_like(d) for d in of_own) if writes else ()
            of_some, of_more = pull((of_new, of_sums))
            both = zip(of_own, of_some, strict=True)
            return tuple(put(d, at, n) if d.ndim == 2 else d + n for d, n in both), tuple(a + b for a, b in zip(of_given, of_more, strict=True))

        start = (tuple(of_after) if writes else zeros(own)), zeros(given)
        of_own, of_given = loop(found, start, each)
        return of_own, of_given, None

    run.defvjp(there, back)
    (after, after_rest), (totals, total_rest) = run(own, given, (found, own_rest, given_rest))
    sums = parted(nothing(like))[2](totals, total_rest)
    return (own_tree(after, after_rest) if writes else accounts), unstacked(sums, like)
