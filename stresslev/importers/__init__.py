"""Public data of venues and protocols turned into system files and books: Aave's reserve parameters, crvUSD's loans, quotes of a DEX aggregator."""
