"""Scenarios as arrays on the time grid."""
