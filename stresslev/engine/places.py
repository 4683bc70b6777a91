"""Places for some accounts of a population: where each goes when they are gathered into blocks of their own, and how they come back.

A mask over all accounts is packed into words of 16 accounts. Sums of the words say how many accounts come before each word, so the account that goes
to a place is found by bisection: first its block, then its word, then its bit. That costs the places and not the accounts, and scatters nothing.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from stresslev.engine.blocks import pool_sum
from stresslev.engine.loans import Loans
from stresslev.engine.types import Accounts

#: Accounts per word: a float32 sums that many different powers of two exactly.
_WORD = 16


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ranks:
    """The accounts of a mask, counted."""

    words: Array  # (nb, W) int32, a bit per account
    within: Array  # (nb, W) int32 accounts of the block up to the end of each word
    start: Array  # (nb,) int32 place of the first account of each block
    ends: Array  # (V,) int32 blocks of places used by each pool and those before it
    count: Array  # () int32 accounts


def room(population: Accounts | Loans, share: float) -> tuple[int, int]:
    """Blocks and accounts per block that hold a share of a population, with a block to spare for each pool and an empty one at the end. Static."""
    blocks, size = population.liquidated.shape
    wanted = max(int(blocks * size * share), 1)
    small = max(8, min(size, 1 << max((wanted // 32).bit_length() - 1, 0)))
    return -(-wanted // small) + 9, small


def _pack(mask: Array) -> Array:
    """(nb, W) int32 words of a mask (nb, B); accounts past the end of a block are not there."""
    blocks, size = mask.shape
    width = -(-size // _WORD)
    bits = jnp.pad(mask.astype(jnp.float32), ((0, 0), (0, width * _WORD - size)))
    weights = jnp.array([2.0**i for i in range(_WORD)], jnp.float32)
    return (bits.reshape(blocks * width, _WORD) @ weights).astype(jnp.int32).reshape(blocks, width)


def ranks(mask: Array, block_pool: Array, size: int, pools: int) -> Ranks:
    """Count the accounts of a mask (nb, B) that go, in order, into blocks of `size` places, each for one pool. `block_pool` must be in order."""
    words = _pack(mask)
    within = jnp.cumsum(lax.population_count(words), axis=1)
    counts = within[:, -1]
    by_pool = pool_sum(counts, block_pool, pools)
    needed = -(-by_pool // size)
    ends = jnp.cumsum(needed)
    # a pool's first place, less the accounts of pools before it, plus the accounts before a block
    shift = (ends - needed) * size - (jnp.cumsum(by_pool) - by_pool)
    start = shift[block_pool] + jnp.cumsum(counts) - counts
    return Ranks(words=words, within=within, start=start, ends=ends, count=jnp.sum(counts, dtype=jnp.int32))


def _words_before(rank: Array, row: Array, within: Array) -> Array:
    """How many words of the block `row` end before the account of that rank: bisection."""
    width, flat = within.shape[1], within.reshape(-1)
    found, step = jnp.zeros_like(rank), 1 << (width.bit_length() - 1)
    while step:
        ahead = found + step
        found = jnp.where((ahead <= width) & (flat[row * width + jnp.minimum(ahead, width) - 1] <= rank), ahead, found)
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


def slots(found: Ranks, shape: tuple[int, int], block: int) -> tuple[Array, Array, Array]:
    """Who stands where.

    Args: `shape`, static: blocks of places and places in each; `block`, static: accounts per block of the population.

    Returns: (C,) int32 flat slot of the account in each place, out of range where there is none; (blocks,) int32 pool of each block; () bool whether
    there is room for all with an empty block left at the end, which stands for accounts that sleep.
    """
    blocks, size = shape
    rows, width = found.words.shape
    place = jnp.arange(blocks * size, dtype=jnp.int32)
    # the last block that starts at or before the place: those without any account start where the next one does
    row = jnp.searchsorted(found.start, place, side="right").astype(jnp.int32) - 1
    rank = place - found.start[jnp.maximum(row, 0)]
    there = (row >= 0) & (rank < found.within[jnp.maximum(row, 0), -1])
    row, rank = jnp.where(there, row, 0), jnp.where(there, rank, 0)
    word = jnp.minimum(_words_before(rank, row, found.within), width - 1)
    at = row * width + word
    earlier = jnp.where(word > 0, found.within.reshape(-1)[jnp.maximum(at - 1, 0)], 0)
    bit = _nth_bit(found.words.reshape(-1)[at], rank - earlier)
    slot = jnp.where(there, row * block + word * _WORD + bit, rows * block)
    last = found.ends.shape[0] - 1
    pool = jnp.minimum(jnp.searchsorted(found.ends, jnp.arange(blocks, dtype=jnp.int32), side="right"), last).astype(jnp.int32)
    return slot, pool, found.ends[-1] < blocks


def place_of(found: Ranks, slot: Array, block: int) -> Array:
    """(n,) int32 place of the accounts at flat slots (n,), -1 for those that have none. `block`, static: accounts per block of the population."""
    row, column = slot // block, slot % block
    word, bit = column // _WORD, column % _WORD
    held = found.words[row, word]
    earlier = jnp.where(word > 0, found.within[row, jnp.maximum(word - 1, 0)], 0)
    below = lax.population_count(held & (lax.shift_left(jnp.ones_like(bit), bit) - 1))
    there = lax.shift_right_logical(held, bit) & 1
    return jnp.where(there > 0, found.start[row] + earlier + below, -1)


def gather(population: Accounts | Loans, slot: Array, pool: Array, shape: tuple[int, int]) -> Accounts | Loans:
    """The accounts at these slots as a population; empty ones where there is none."""

    def take(x: Array) -> Array:
        if x.ndim != 2:
            return x
        return x.reshape(-1).at[slot].get(mode="fill", fill_value=False if x.dtype == jnp.bool_ else 0).reshape(shape)

    some = jax.tree.map(take, population)
    if isinstance(some, Loans):
        return replace(some, block_pool=pool)
    there = (slot < population.liquidated.size).reshape(shape)
    whole = {name: jnp.where(there, x, 1) for name in ("appetite", "allowed") if (x := getattr(some, name)) is not None}
    return replace(some, block_pool=pool, entry=tuple(jnp.where(there, e, 1) for e in some.entry), **whole)


def scatter(population: Accounts | Loans, after: Accounts | Loans, slot: Array) -> Accounts | Loans:
    """The population with the accounts at these slots, no two of them alike, as they are after."""

    def put(x: Array, new: Array) -> Array:
        return x if x.ndim != 2 else x.reshape(-1).at[slot].set(new.reshape(-1), mode="drop").reshape(x.shape)

    return jax.tree.map(put, population, after)
