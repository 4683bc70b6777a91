"""Reverse stress tests: the most plausible shock that breaks a system."""
