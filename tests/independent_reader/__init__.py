"""A reader of repositories, made from docs/reference/repository-format.md alone; it shares no code with Longboat.

It tells whether the document is enough to get at backups without the program, and whether the program keeps to it.
"""
