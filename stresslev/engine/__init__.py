"""The JAX core: pure functions from (system, policy, accounts, path) to statistics. No files, no configuration, no host callbacks."""
