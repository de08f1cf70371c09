"""The operator or a mover is killed, or the store fails, at every single step: the end is the same."""
