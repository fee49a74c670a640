"""Objectives: what the model is trained for, one module each, as a loss over a micro-batch."""
