"""The account book: sampled or read from a file, checked, and laid out in blocks for the engine."""
