"""Candidates: a two-tower model, its index, and other sources."""
