"""Chaos on the local cluster: seeded faults against real jobs, and what must hold whatever happens."""
