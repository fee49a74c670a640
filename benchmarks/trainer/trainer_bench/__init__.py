"""The trainer beside TRL and beside plain PyTorch: what is measured, by whom, and what the figures are."""
