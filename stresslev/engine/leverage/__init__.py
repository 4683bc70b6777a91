"""Dynamic leverage: rules that read the market and the pools, the caps and margin multipliers they set, and what a tightened cap does to accounts."""
