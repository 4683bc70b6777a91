"""Derivatives of a suite with respect to a policy's parameters, and policies made better by them."""
