"""Tests of what the demo decides, and of its picture."""
