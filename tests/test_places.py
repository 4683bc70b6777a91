"""Places of awake accounts, against a loop over the accounts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stresslev.engine import places


def _by_hand(mask, block_pool, size, pools):
    """Slots in order, each pool's accounts in whole blocks of `size` places; and the pool of each block used."""
    order, owners = [], []
    for v in range(pools):
        mine = [r * mask.shape[1] + c for r in np.flatnonzero(block_pool == v) for c in np.flatnonzero(mask[r])]
        used = -(-len(mine) // size)
        order += mine + [mask.size] * (used * size - len(mine))
        owners += [v] * used
    return np.array(order, int), np.array(owners, int)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize(("blocks", "block", "size"), [(40, 64, 16), (7, 24, 8), (1, 8, 8)])
def test_every_account_of_a_mask_has_the_place_that_a_loop_gives_it(share, blocks, block, size):
    rng = np.random.default_rng(blocks + int(100 * share))
    mask, pools = rng.random((blocks, block)) < share, 4
    mask[rng.random(blocks) < 0.3] = False
    block_pool = np.sort(rng.choice([0, 2, 3], blocks)).astype(np.int32)  # a pool without accounts among them
    expected, owners = _by_hand(mask, block_pool, size, pools)
    shape = (len(owners) + 2, size)

    @jax.jit
    def find(mask, block_pool):
        ranks = places.ranks(mask, block_pool, size, pools)
        return ranks, places.slots(ranks, shape, block), places.place_of(ranks, jnp.arange(mask.size, dtype=jnp.int32), block)

    ranks, (slot, pool, fits), back = find(mask, block_pool)
    assert (np.asarray(slot)[: len(expected)] == expected).all()
    assert (np.asarray(slot)[len(expected) :] == mask.size).all()
    assert (np.asarray(pool)[: len(owners)] == owners).all()
    assert bool(fits)
    assert int(ranks.count) == mask.sum()
    place = np.full(mask.size, -1)
    there = np.flatnonzero(expected < mask.size)
    place[expected[there]] = there
    assert (np.asarray(back) == place).all()


def test_a_block_too_few_does_not_fit():
    mask = np.ones((4, 16), bool)
    ranks = places.ranks(jnp.asarray(mask), jnp.zeros(4, jnp.int32), 16, 1)
    assert not bool(places.slots(ranks, (4, 16), 16)[2]), "the last block has to stay empty"
    assert bool(places.slots(ranks, (5, 16), 16)[2])
