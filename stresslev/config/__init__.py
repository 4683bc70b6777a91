"""What users write: TOML files to validated specifications, with errors that name file, key, value and fix."""
