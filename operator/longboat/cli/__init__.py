"""The command line: `longboat` and `kubectl longboat`."""
