"""Settings that a model does not fit."""


class Misfit(ValueError):  # noqa: N818 - a refusal
    """A setting of a method does not fit the model; the sentence says how to mend it."""
