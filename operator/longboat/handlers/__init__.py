"""kopf decorators, and nothing that decides."""
