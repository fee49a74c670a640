"""Fixtures of the tests that run the stages for real."""

from train_jobs import make_job

__all__ = ["make_job"]
