"""x."""


def convert() -> None:
    """X."""
