"""Inputs that a suite names and nobody computes: the fetched model and ratings, and the toy models made in code.

Importing this imports no torch; what needs it runs in a process of its own, or when a toy model is first asked for.
"""
