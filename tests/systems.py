"""Random small systems, in the form of the twin (plain dicts) and of the engine (pytrees)."""

import jax
import jax.numpy as jnp
import numpy as np

from stresslev.book.book import Book, to_blocks
from stresslev.config.tiers import TierTable, stack
from stresslev.engine.types import Path, Policy, System, cast

#: Pools and assets of the cases: a few shapes, so that few programs are compiled.
SHAPES = ((1, 1), (2, 3), (3, 4), (4, 2))


def random_case(seed: int, *, accounts: int = 48, steps: int = 12) -> tuple[dict, dict, dict]:
    """A system, accounts and a falling or jumping path as plain NumPy dicts; many accounts are liquidated, some go bankrupt."""
    rng = np.random.default_rng(seed)
    pools, assets = SHAPES[seed % len(SHAPES)]
    reference = np.exp(rng.uniform(0, 10, assets))
    pool = np.repeat(np.arange(pools), accounts // pools)
    n = len(pool)
    notional = rng.pareto(1.5, (n, assets)) * 1e4 * (rng.random((n, assets)) < 0.6)
    notional *= np.where(rng.random((n, assets)) < 0.65, 1, -1)
    leverage = np.exp(rng.normal(1.8, 0.8, n)).clip(0.5, 80)
    equity = np.abs(notional).sum(axis=1) / leverage

    def tier():
        k = 4
        floors = np.concatenate([[0.0], np.sort(rng.uniform(3e3, 2e5, k - 1))])
        rates = np.sort(rng.uniform(0.003, 0.2, k))
        return floors.tolist(), (rates if rng.random() < 0.7 else np.full(k, rates[0])).tolist()

    scale = np.abs(notional).sum(axis=0) + 1e4
    system = {
        "n_pools": pools,
        "n_assets": assets,
        "reference_price": reference,
        "tiers": [[tier() for _ in range(assets)] for _ in range(pools)],
        "maintenance_multiplier": rng.uniform(0.7, 1.5, (pools, assets)),
        "restore": rng.random(pools) < 0.5,
        "target_health": rng.uniform(1.05, 2.0, pools),
        "liquidation_fee": rng.choice([0.0, 0.002, 0.01], pools),
        "taker_fee": rng.choice([0.0, 0.0005], pools),
        "capacity": np.where(rng.random(pools) < 0.4, rng.uniform(0.01, 0.5, pools) * scale.sum(), np.inf),
        "insurance_fund": rng.choice([0.0, 100.0, 1e4, 1e7], pools),
        "depth": scale * rng.uniform(0.02, 1.0, assets),
        "impact_exponent": rng.choice([0.5, 0.73, 1.0], assets),
        "permanent_share": rng.uniform(0, 1, assets),
        "transient_decay": rng.uniform(0.5, 0.99, assets),
        "volatility_decay": rng.uniform(0.8, 0.99, assets),
        "reference_variance": rng.uniform(1e-7, 1e-5, assets),
        "depth_volatility_exponent": rng.uniform(0, 1, assets),
        "depth_floor": rng.uniform(0.05, 1.0, assets),
    }
    drift = rng.choice([-0.04, -0.02, 0.0, 0.02])
    path = {
        "log_return": drift + rng.normal(0, 0.03, (steps, assets)) * rng.choice([0.2, 1.0, 3.0], (steps, 1)),
        "depth_factor": rng.uniform(0.3, 1.2, (steps, assets)),
    }
    book = {"pool": pool, "equity_at_reference": equity, "quantity": notional / reference}
    return system, book, path


def engine_arguments(system: dict, book: dict, path: dict, dtype=np.float64):
    """The same case for the engine: system, policy, accounts, path, and the flat slot of every account."""
    tables = [[TierTable(source="test", floors_usd=f, maintenance_rates=r, max_leverage=[1.0] * len(f)) for f, r in row] for row in system["tiers"]]
    floor, step = stack(tables)
    skipped = ("n_pools", "n_assets", "tiers", "maintenance_multiplier")
    arrays = System(tier_floor=floor, tier_step=step, **{k: v for k, v in system.items() if k not in skipped})
    named = Book(
        pools=tuple(f"pool{v}" for v in range(system["n_pools"])),
        assets=tuple(f"asset{a}" for a in range(system["n_assets"])),
        pool=book["pool"].astype(np.int32),
        equity=book["equity_at_reference"],
        quantity=book["quantity"].T.copy(),
        reference_price=system["reference_price"],
    )
    accounts, slot = to_blocks(named, dtype)
    return (
        cast(arrays, dtype),
        cast(Policy(maintenance_multiplier=system["maintenance_multiplier"]), dtype),
        jax.tree.map(jnp.array, accounts),
        cast(Path(log_price=np.cumsum(path["log_return"], axis=0), depth_factor=path["depth_factor"]), dtype),
        slot,
    )
