"""Scale benchmark: each contender on a fresh control plane on loopback, measured the same way."""
