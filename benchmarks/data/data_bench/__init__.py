"""Measures how fast, and in how much memory, rows become a token cache."""
