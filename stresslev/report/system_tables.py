"""The system as configured: pools, what they require and do, lenders' terms, markets, tiers and ties, in tables and sentences."""

from stresslev.report import words
from stresslev.report.inputs import Run
from stresslev.report.markup import Html, join, tag
from stresslev.report.tables import table

_STAGES = {"insurance_fund": "insurance fund", "shared_funds": "funds of the group", "adl": "auto-deleveraging", "socialise": "socialised loss"}
_QUEUES = {"worst_first": ", the worst health first", "first_in": ", the longest under margin first"}
_PORTFOLIO = {
    "scan": "worst of the scenarios",
    "single": "scans asset by asset",
    "net_correlation": "scans with correlation",
    "covariance": "standard deviations",
    "expected_shortfall": "expected shortfall",
}
_ADL = {
    "pnl_leverage": "by profit and leverage",
    "pnl": "by profit",
    "hyperliquid": "by profit and leverage, on chain",
    "pro_rata_pnl": "in proportion to profit",
    "pro_rata_equity": "in proportion to equity",
}


def is_lender(pool: dict) -> bool:
    """Whether a configured pool lends."""
    return pool.get("kind") == "lending"


def _fees(pool: dict) -> str:
    if is_lender(pool):
        fee = pool.get("protocol_fee", 0)
        return f"{words.percent(fee)} of the bonus" if fee else "none"
    if pool.get("takeover"):
        return f"{pool['taker_fee_bps']:g} bp; the insurance fund takes over what is left"
    parts = [pool["liquidation_fee_bps"], pool["taker_fee_bps"]] + ([pool["liquidator_fee_bps"]] if pool.get("liquidator_fee_bps") else [])
    return " + ".join(f"{p:g}" for p in parts) + " bp"


def pools(run: Run) -> Html:
    """Every pool's funds and fees, and below what it requires and does."""
    rows, rules = [], []
    for name, pool in run.system["pools"].items():
        capacity = pool.get("liquidation_capacity_usd_per_minute")
        cells = [words.usd(pool["insurance_fund_usd"]), words.usd(pool.get("capital_usd", 0)), words.usd(capacity) if capacity else "unlimited"]
        kind = "lender" if is_lender(pool) else "perpetual futures"
        rows.append([name, kind, pool.get("description", ""), _fees(pool), *cells])
        rules.append([name, requirement(pool), liquidation(pool), waterfall(pool), mark(pool.get("mark")), funding(pool)])
    head = ["Pool", "Kind", "Description", "Fees of a liquidation", "Insurance fund", "Capital", "Capacity a minute"]
    first = table(head, rows, text_columns=4)
    head = ["Pool", "What it requires", "Accounts are closed", "Who bears deficits, in order", "Mark or oracle", "Funding"]
    note = "Fees: liquidation fee to the insurance fund + taker fee to the pool + liquidator fee, where there is one, of the notional closed."
    return join(first, table(head, rules, text_columns=6), tag("p", note, class_="note"))


def requirement(pool: dict) -> str:
    """Tiers, portfolio margin or collateral terms, in words."""
    if is_lender(pool):
        return f"liquidation thresholds of {words.plural(len(pool['reserves']), 'reserve')}"
    portfolio = pool.get("portfolio_margin")
    text = f"portfolio margin: {_PORTFOLIO.get(portfolio['form'], portfolio['form'])}" if portfolio else "maintenance tiers"
    if pool.get("size_scale"):
        text += f", growing with position size in {words.listing(list(pool['size_scale']))}"
    if pool.get("open_interest_scale"):
        text += f", growing with open interest in {words.listing(list(pool['open_interest_scale']))}"
    if pool.get("collateral"):
        coins = [f"{asset} ({words.percent(c['haircut'])} haircut)" for asset, c in pool["collateral"].items()]
        text += f"; takes {words.listing(coins)} as margin"
    if pool.get("inverse"):
        text += f"; {words.listing(list(pool['inverse']))} margined in the coin"
    return text


def liquidation(pool: dict) -> str:
    """The rule by which accounts are closed."""
    rule = pool.get("liquidation", {})
    name, debt = rule.get("rule", "full"), is_lender(pool)
    texts = {
        "full": "all debt is repaid" if debt else "in full",
        "restore": f"just enough for a health of {rule.get('target_health', 0):g}",
        "stepwise": "down one tier at a time",
        "close_factor": f"{words.percent(rule.get('close_factor', 0))} of the {'debt' if debt else 'positions'} at a time",
    }
    text = texts[name]
    if rule.get("full_below") and name != "full":
        text += f", all of it below a health of {rule['full_below']:g}"
    text += _QUEUES.get(rule.get("queue"), "")
    if rule.get("execution") == "market":
        text += ", sold in the market"
    if rule.get("auction"):
        a = rule["auction"]
        rise = f"{words.percent(a['growth_per_minute'])} more each minute, at most {words.percent(a['most'])}"
        text += f"; auction: discount from {words.percent(a['start'])}, {rise}"
    if debt and rule.get("required_profit") is not None:
        profit = rule["required_profit"]
        text += f"; liquidators act when they {f'gain at least {words.percent(profit)}' if profit else 'lose nothing by it'}"
    return text


def waterfall(pool: dict) -> str:
    """The stages that bear deficits."""
    stages = [_STAGES.get(s, s) for s in pool.get("waterfall", ("insurance_fund",))]
    text = ", ".join([*stages, "bad debt"])
    if "adl" in pool.get("waterfall", ()):
        text += f" (deleveraged {_ADL.get(pool.get('adl'), 'by profit')})"
    return f"{text}; group {pool['fund_group']}" if pool.get("fund_group") else text


def mark(spec: dict | None) -> str:
    """How the mark or oracle is made."""
    if not spec:
        return "the price at which it trades"
    share = spec.get("index_share", 0)
    source = "own price" if share == 0 else "index of all venues" if share == 1 else f"{words.percent(share)} index, the rest own price"
    parts = [source]
    for key, text in (("delay_minutes", "{} late"), ("averaging_minutes", "mean over {}"), ("smoothing_half_life_minutes", "smoothed over {}")):
        if spec.get(key):
            parts.append(text.format(words.duration(spec[key])))
    if spec.get("deviation") or spec.get("heartbeat_minutes"):
        pushes = [f"a move of {words.percent(spec['deviation'])}"] if spec.get("deviation") else []
        pushes += [words.duration(spec["heartbeat_minutes"])] if spec.get("heartbeat_minutes") else []
        parts.append(f"pushed after {' or '.join(pushes)}")
    return ", ".join(parts)


def funding(pool: dict) -> str:
    """When funding is paid and how far it goes."""
    spec = pool.get("funding")
    if not spec:
        return "none"
    when = "in every step" if spec.get("continuous") else f"every {words.duration(spec['interval_minutes'])}"
    return f"{when}, between {words.percent(spec['floor'])} and {words.percent(spec['cap'])}"


def _curve(rate: dict) -> str:
    kink, start = words.percent(rate["optimal"]), words.percent(rate["base"])
    return f"{start} + {words.percent(rate['slope1'])} up to {kink} lent, + {words.percent(rate['slope2'])} beyond"


def reserves(run: Run) -> Html | None:
    """Lenders' terms by asset; None without lenders."""
    rows = []
    for name, pool in run.system["pools"].items():
        for asset, r in (pool.get("reserves") or {}).items():
            pledged = r.get("collateral", True)
            threshold = r["liquidation_threshold"]
            ltv = threshold if r.get("ltv") is None else r["ltv"]
            terms = [words.percent(ltv), words.percent(threshold), words.percent(r["bonus"])] if pledged else ["–", "–", "–"]
            curve = _curve(r["rate"]) if r.get("borrowable", True) else "not lent"
            rows.append([name, asset, curve, *terms, words.percent(r["reserve_factor"])])
    if not rows:
        return None
    head = ["Lender", "Asset", "Interest a year, by share lent", "Max. LTV", "Threshold", "Bonus", "Reserve factor"]
    note = "– : not accepted as collateral." if any(row[3] == "–" for row in rows) else None
    return join(tag("h4", "Lending reserves"), table(head, rows, text_columns=3), tag("p", note, class_="note") if note else None)


def tiers(run: Run) -> Html | None:
    """Where the maintenance tiers come from and who uses them; None without any."""
    system = run.system
    users = {name: [] for name in system.get("tiers", {})}
    for pool_name, pool in system["pools"].items():
        for asset, name in (pool.get("tiers") or {}).items():
            users[name].append(f"{pool_name} {asset}")
    if not users:
        return None
    rows = []
    for name, tier in system["tiers"].items():
        rates = tier["maintenance_rates"]
        spread = f"{words.percent(rates[0])} to {words.percent(rates[-1])}" if len(rates) > 1 else words.percent(rates[0])
        rows.append([name, tier["source"], words.listing(users[name], 6) if users[name] else "not used", words.count(len(rates)), spread])
    head = ["Table", "Source", "Used by", "Tiers", "Maintenance rates"]
    return join(tag("h4", "Maintenance tiers"), table(head, rows, text_columns=3))


def _flow(asset: dict) -> str:
    """What moves the price."""
    if asset.get("depth_usd"):
        return words.usd(asset["depth_usd"])
    if asset.get("traded_volume"):
        return f"from {words.usd(asset['traded_volume']['adv_usd'])} traded a day"
    return asset.get("impact", "").replace("_", " ")


def assets(run: Run) -> Html:
    """The markets as configured."""
    rows = []
    for name, a in run.system["assets"].items():
        if a.get("receipt"):
            continue
        exponent = a.get("depth_volatility_exponent")
        if exponent is None:
            exponent = 0.5 if not a.get("traded_volume") else 1.0
        cells = [_flow(a), words.percent(a["volatility"]), f"{a['impact_exponent']:g}", words.percent(a["permanent_share"])]
        rows.append([name, *cells, words.duration(a["impact_half_life_minutes"]), f"{exponent:g}", words.percent(a["depth_floor"])])
    head = ["Asset", "Flow per 1% move", "Volatility a year", "Impact exponent", "Permanent share", "Half-life of the rest"]
    return table([*head, "Depth exponent", "Depth floor"], rows)


def ties(run: Run) -> list[str]:
    """What ties pools and markets besides common prices, one sentence each."""
    system, said = run.system, []
    for name, asset in system["assets"].items():
        if receipt := asset.get("receipt"):
            run_text = f", with up to {words.percent(receipt['run_haircut'])} lost in a run" if receipt.get("run_haircut") else ""
            said.append(
                f"{name} is a receipt for {receipt['underlying']} deposited with {receipt['pool']}; it trades as {receipt['underlying']}{run_text}."
            )
    said += [f"{c['debtor']} owes {c['creditor']} {words.usd(c['usd'])}." for c in system.get("credit") or ()]
    if system.get("credit"):
        c = system.get("clearing") or {"alpha": 1.0, "beta": 1.0}
        kept = f"{words.percent(c['alpha'])} of its own assets and {words.percent(c['beta'])} of its claims on other pools"
        said.append(f"A pool that defaults realises {kept}.")
    if owners := system.get("owners"):
        said.append(
            f"Owners with accounts in several pools bring an account that is called to a health of {owners['top_up']:g}, "
            f"from accounts with a health above {owners['keep']:g}."
        )
    if arbitrage := system.get("arbitrage"):
        capital = arbitrage.get("capital_usd")
        size = f" with {words.usd(capital)} of capital" if capital is not None else ""
        said.append(f"Arbitrageurs{size} close half of a gap between a venue and the market in {words.duration(arbitrage['half_life_minutes'])}.")
    for name, pool in system["pools"].items():
        if shares := pool.get("local_depth_share"):
            low, high = min(shares.values()), max(shares.values())
            size = words.percent(low) if low == high else f"{words.percent(low)} to {words.percent(high)}"
            said.append(f"{name} trades in a book of its own, which holds {size} of the depth of {words.listing(list(shares), 6)}.")
    for name, asset in system["assets"].items():
        if makers := asset.get("makers"):
            limits = [f"{words.usd(makers[k])} of {w}" for k, w in (("inventory_limit_usd", "inventory"), ("capital_usd", "losses")) if makers.get(k)]
            if limits:
                said.append(f"Makers of {name} withdraw depth down to {words.percent(makers['floor'])} as they near {words.listing(limits)}.")
    return said
