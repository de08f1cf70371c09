"""Observe → plan → act, one file per kind: each call looks at the world, takes what steps it can, and says when to look again."""
