"""Trainer: the stages prepare, train and export of a FineTuneJob."""
