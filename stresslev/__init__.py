"""Stress tests of leveraged markets: margin accounts, pools, liquidation cascades, and the rules that adjust leverage."""

__version__ = "0.1.0"
