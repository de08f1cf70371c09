"""Observe → plan → act, one file per kind.

Each call looks at the world, takes the steps that it can, and says when to look again.
"""
