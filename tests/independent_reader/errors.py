"""What goes wrong while a repository is read."""


class ReaderError(Exception):
    """The repository can't be read as asked."""


class DamagedError(ReaderError):
    """An object is missing, or is not what the format says."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class KeyTextError(ReaderError):
    """The text of a key is not one, or was copied with a mistake."""


class WrongKeyError(ReaderError):
    """The key is sound, but it does not open this repository."""


class UnknownError(ReaderError):
    """There is no such backup or disk."""
