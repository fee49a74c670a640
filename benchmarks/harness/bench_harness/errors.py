"""What can go wrong with a run."""


class BenchError(Exception):
    """A run cannot be finished or counted; the message says why."""
