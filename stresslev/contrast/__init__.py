"""Two runs held against each other, from their files: what differs, what of it is noise, and whether a change may pass."""
