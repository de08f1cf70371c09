"""Fakes behind our own ports, held to the real thing by tests/contract."""
