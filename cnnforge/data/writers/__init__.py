"""Write a dataset to files of another format."""

from cnnforge.data.writers.convert import FORMATS, Target, convert, parse_target

__all__ = ["FORMATS", "Target", "convert", "parse_target"]
