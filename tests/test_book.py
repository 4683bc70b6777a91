"""The book: the sampler meets what it is given, the loader reads what the writer writes, and the check names row and column."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stresslev.book import files
from stresslev.book.layout import to_blocks
from stresslev.book.requirement import standing
from stresslev.book.sample import sample
from stresslev.book.statistics import describe, positions_of
from stresslev.config.load import load_system
from stresslev.errors import InputError

PRICES = np.array([100_000.0, 4_000.0, 200.0, 3.5])


def _system(accounts=20_000, **book):
    spec = load_system("three_perp_venues")
    return spec.model_copy(update={"book": spec.book.model_copy(update={"accounts": accounts, **book})})


@pytest.fixture(scope="module")
def book():
    return sample(_system(), seed=1).at_prices(PRICES)


def test_open_interest_and_imbalance_are_met_exactly(book):
    system = _system()
    for v, (name, pool) in enumerate(system.pools.items()):
        value = book.quantity[:, book.pool == v] * PRICES[:, None]
        for a, asset in enumerate(system.assets):
            longs, shorts = np.maximum(value[a], 0).sum(), np.maximum(-value[a], 0).sum()
            assert max(longs, shorts) == pytest.approx(pool.open_interest_usd[asset], rel=1e-9), (name, asset)
            assert (longs - shorts) / (longs + shorts) == pytest.approx(pool.imbalance[asset], rel=1e-9)


def test_every_account_meets_initial_margin(book):
    system = _system()
    for v, pool in enumerate(system.pools):
        rows = book.pool == v
        initial = sum(system.tier_table(pool, a).initial(np.abs(book.quantity[k, rows]) * PRICES[k]) for k, a in enumerate(system.assets))
        assert (book.equity[rows] >= initial * (1 - 1e-9)).all()
    have, required = standing(book, system)
    np.testing.assert_allclose(have, book.equity)
    assert (book.equity > required).all() and (required > 0).all()


def test_sizes_have_the_pareto_tail():
    """Hill estimator on the largest sizes of a book without sides, caps or splitting."""
    exponent = 1.5
    spec = _system(200_000, pareto_exponent=exponent, largest_account_share=1.0, positions_mean=1, leverage_size_elasticity=0)
    one = spec.pools["mid_venue"].model_copy(update={"open_interest_usd": {"BTC": 1e9}, "imbalance": {}})
    spec = spec.model_copy(update={"pools": {"mid_venue": one}})
    gross = np.sort(sample(spec, 3).gross_notional)[::-1]
    tail = gross[:5000]
    hill = 1 / np.mean(np.log(tail[:-1] / tail[-1]))
    assert hill == pytest.approx(exponent, rel=0.06)


def test_leverage_has_the_given_median_and_spread():
    spec = _system(50_000, leverage_median=3.0, leverage_sigma=0.5, leverage_size_elasticity=0.0)
    drawn = sample(spec, 5)
    log_leverage = np.log(drawn.gross_notional / drawn.equity)[drawn.pool == 0]
    assert np.exp(np.median(log_leverage)) == pytest.approx(3.0, rel=0.02)
    assert np.std(log_leverage) == pytest.approx(0.5, rel=0.03)


def test_concentration_follows_the_exponent_and_the_cap():
    def top(**book):
        return describe(sample(_system(30_000, **book), 2))[0]["top 1% share"]

    assert top(pareto_exponent=1.1) > top(pareto_exponent=1.5) > top(pareto_exponent=3.0)
    assert top(pareto_exponent=1.1, largest_account_share=0.0005) < top(pareto_exponent=1.1)


def test_a_small_sample_still_meets_every_side():
    """Too few accounts for each side of each asset to be drawn by chance: somebody is given it."""
    small = sample(_system(40), 1)
    for v, pool in enumerate(_system().pools.values()):
        for a, interest in enumerate(pool.open_interest_usd.values()):
            assert np.maximum(small.quantity[a, small.pool == v], 0).sum() == pytest.approx(interest)
    with pytest.raises(InputError, match="too few accounts"):
        sample(_system(3), 1)


def test_the_same_seed_gives_the_same_book_and_another_seed_another():
    a, b, c = (sample(_system(3000), s) for s in (1, 1, 2))
    assert (a.quantity == b.quantity).all() and (a.equity == b.equity).all()
    assert not (a.quantity == c.quantity).all()


def test_blocks_hold_every_account_once_and_one_pool_each(book):
    layout = to_blocks(book, dtype=np.float64)
    (accounts,), (rows,), (slot,) = layout.populations, layout.rows, layout.slots
    assert (rows == np.arange(len(book))).all()
    assert len(np.unique(slot)) == len(book)
    np.testing.assert_array_equal(accounts.equity_at_reference.ravel()[slot], book.equity)
    for a in range(4):
        np.testing.assert_array_equal(accounts.quantity[a].ravel()[slot], book.quantity[a])
        assert accounts.quantity[a].sum() == pytest.approx(book.quantity[a].sum())
    size = accounts.equity_at_reference.shape[1]
    assert (accounts.block_pool[slot // size] == book.pool).all()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_book_survives_the_disk(suffix, tmp_path):
    original = sample(_system(500), 4).at_prices(PRICES)
    path = tmp_path / f"book.{suffix}"
    files.write(original, path)
    back = files.read(path, _system(), PRICES)
    assert len(back) == len(original)
    order = np.argsort(back.account.astype(int))
    np.testing.assert_allclose(back.equity[order], original.equity, rtol=1e-12)
    np.testing.assert_allclose(back.quantity[:, order], original.quantity, rtol=1e-12)
    assert (back.pool[order] == original.pool).all()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file left


HEADER = "account,pool,wallet_balance_usd,asset,quantity,entry_price_usd\n"
GOOD = HEADER + "a,large_venue,5000,BTC,0.1,90000\na,large_venue,5000,ETH,-1,4100\nb,mid_venue,100,,,\nc,mid_venue,900,SUI,1000,3.5\n"


def _write(tmp_path, text):
    path = tmp_path / "book.csv"
    path.write_text(text)
    return path


def test_equity_is_wallet_plus_unrealised_profit(tmp_path):
    back = files.read(_write(tmp_path, GOOD), _system(), PRICES)
    equity = dict(zip(back.account, back.equity, strict=True))
    assert equity == {"a": 5000 + 0.1 * 10_000 - 1 * (4000 - 4100), "b": 100, "c": 900}


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("a,large_venue,5000,BTC", "a,big_venue,5000,BTC", ["row 1, column pool", "'big_venue'", "is no pool"]),
        ("SUI", "SIU", ["row 4, column asset", "'SIU'", "did you mean 'SUI'"]),
        ("0.1,90000", "x,90000", ["row 1, column quantity", "'x'", "is not a number"]),
        ("0.1,90000", "nan,90000", ["row 1, column quantity", "not finite"]),
        ("0.1,90000", ",90000", ["row 1, column quantity", "is empty"]),
        ("0.1,90000", "0.1,0", ["row 1, column entry_price_usd", "not above zero"]),
        ("b,mid_venue,100", "b,mid_venue,", ["row 3, column wallet_balance_usd", "is empty"]),
        ("5000,ETH", "5001,ETH", ["row 2, column wallet_balance_usd", "5001", "differs"]),
        ("5000,ETH", "5000,BTC", ["row 2, column asset", "already has a position"]),
        ("b,mid_venue,100,,,", "b,mid_venue,100,,10,5", ["row 3, column asset", "is empty although"]),
        ("a,large_venue,5000,ETH", "a ,large_venue,5001,ETH", ["row 2, column wallet_balance_usd", "differs"]),
        ("account,pool", "pool,pool", ["column pool", "appears twice"]),
        ("c,mid_venue", ",mid_venue", ["row 4, column account", "is empty"]),
        ("wallet_balance_usd", "balance", ["column wallet_balance_usd", "is missing", "rename column 'balance'"]),
        ("wallet_balance_usd", "size", ["column wallet_balance_usd", "is missing", "rename column 'size' if it holds that"]),
        ("wallet_balance_usd,asset", "cash,coin", ["column wallet_balance_usd", "is missing", "add it; columns: account, pool"]),
    ],
)
def test_the_check_names_row_and_column(tmp_path, old, new, parts):
    path = _write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        files.read(path, _system(), PRICES)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_a_book_that_is_not_there_or_not_separated_by_commas_is_told_from_one_without_columns(tmp_path):
    with pytest.raises(InputError, match=r"book\.csv: file: does not exist"):
        files.read(tmp_path / "book.csv", _system(), PRICES)
    with pytest.raises(InputError, match=r"'account;pool.*is not separated by commas"):
        files.read(_write(tmp_path, GOOD.replace(",", ";")), _system(), PRICES)


def test_many_problems_of_one_sort_are_counted(tmp_path):
    rows = "".join(f"x{i},nowhere,1,BTC,1,1\n" for i in range(25))
    checked = files.check(_write(tmp_path, HEADER + rows), _system(), PRICES)
    assert len(checked.errors) == files.LISTED + 1
    assert "15 more rows" in str(checked.errors[-1])


def test_accounts_already_under_water_are_warned_of(tmp_path):
    text = HEADER + "a,large_venue,10,BTC,0.1,100000\nb,large_venue,10,BTC,0.1,130000\n"
    checked = files.check(_write(tmp_path, text), _system(), PRICES)
    assert checked.book is not None
    said = " ".join(map(str, checked.warnings))
    assert "row 1" in said and "below its requirement" in said and "row 2" in said and "below zero" in said


def test_parquet_with_wrong_types_is_refused_by_column(tmp_path):
    table = pa.table({c: ["1"] for c in files.COLUMNS} | {"pool": ["large_venue"], "asset": ["BTC"], "quantity": [[1.0]]})
    pq.write_table(table, tmp_path / "book.parquet")
    with pytest.raises(InputError, match="column quantity"):
        files.read(tmp_path / "book.parquet", _system(), PRICES)


@pytest.mark.parametrize("content", [b"", b"PAR1 not parquet"])
def test_a_file_that_is_no_table_is_refused(tmp_path, content):
    for name in ("book.csv", "book.parquet"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError):
            files.read(path, _system(), PRICES)


def test_show_gives_the_prices_at_which_an_account_falls(tmp_path):
    system = _system()
    back = files.read(_write(tmp_path, GOOD), system, PRICES)
    [(summary, positions)] = positions_of(back, system, "c")
    assert summary["equity"] == 900 and len(positions) == 1
    price = positions[0]["liquidation price, USD"]
    assert 900 + 1000 * (price - 3.5) == pytest.approx(float(system.tier_table("mid_venue", "SUI").maintenance(1000 * price)), rel=1e-9)
    assert positions[0]["bankruptcy price, USD"] == pytest.approx(2.6)
    with pytest.raises(InputError, match="'nobody'"):
        positions_of(back, system, "nobody")
