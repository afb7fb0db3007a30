"""Walks a plan: reuses what the store holds, computes the rest, writes the records."""
