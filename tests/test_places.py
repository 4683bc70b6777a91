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
        ranks = places.ranks(mask, block_pool, pools, size)
        return ranks, places.places(ranks, shape[0]), places.place_of(ranks, jnp.arange(mask.size + 9, dtype=jnp.int32))

    ranks, stand, back = find(mask, block_pool)
    slot, pool = np.minimum(stand.slot, mask.size), stand.pool
    assert (np.asarray(slot)[: len(expected)] == expected).all()
    assert (np.asarray(slot)[len(expected) :] == mask.size).all()
    assert (np.asarray(pool)[: len(owners)] == owners).all()
    assert int(ranks.ends[-1]) == len(owners)
    assert int(ranks.count) == mask.sum()
    assert len(set(np.asarray(stand.slot))) == len(slot), "no two alike, also where nobody stands"
    place = np.full(mask.size + 9, -1)
    there = np.flatnonzero(expected < mask.size)
    place[expected[there]] = there
    assert (np.asarray(back) == place).all()


def test_batches_go_over_every_account_once(monkeypatch):
    rng = np.random.default_rng(1)
    mask, pools = rng.random((30, 16)) < 0.4, 3
    block_pool = np.sort(rng.integers(0, pools, 30)).astype(np.int32)
    values = jnp.asarray(rng.random(mask.shape))
    monkeypatch.setattr(places, "BATCH_ACCOUNTS", 32)

    def local(batch, factor):
        some, pool = batch
        return (factor * some, pool), (factor * some / 2, jnp.ones(some.shape, bool))

    found = places.ranks(jnp.asarray(mask), jnp.asarray(block_pool), pools)
    start = (values, jnp.asarray(block_pool)), (jnp.zeros(pools), jnp.zeros(pools, jnp.int32))
    (doubled, _), (by_pool, places_used) = places.over_batches(found, start[0], local, jnp.asarray(2.0), start[1], writes=True)
    assert (np.asarray(doubled) == np.where(mask, 2 * np.asarray(values), np.asarray(values))).all()
    expected = [(np.asarray(values) * mask)[block_pool == v].sum() for v in range(pools)]
    np.testing.assert_allclose(np.asarray(by_pool), expected, rtol=1e-14)
    batches = int(places_used.sum()) / 32
    assert batches == -(-int(found.ends[-1]) // 2) > 3

    def number(values, factor):
        (after, _), (sums, _) = places.over_batches(found, (values, start[0][1]), local, factor, start[1], writes=True, reverse=True)
        return jnp.sum(jnp.sin(after)) + jnp.sum(sums**2)

    def directly(values, factor):
        after = jnp.where(jnp.asarray(mask), factor * values, values)
        sums = jnp.stack([jnp.sum(jnp.where(jnp.asarray(mask & (block_pool == v)[:, None]), values, 0)) for v in range(pools)]) * factor / 2
        return jnp.sum(jnp.sin(after)) + jnp.sum(sums**2)

    for mine, theirs in zip(jax.grad(number, (0, 1))(values, jnp.asarray(2.0)), jax.grad(directly, (0, 1))(values, jnp.asarray(2.0)), strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=1e-12)
