"""Tests of what the benchmark is made of; none of them looks at a clock."""
