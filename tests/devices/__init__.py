"""Restores into real block devices (loop devices; needs root)."""
