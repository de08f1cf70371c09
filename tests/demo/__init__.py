"""The main job, told as it happens: `make demo` shows it, the first end-to-end test asserts it."""
