"""The command line: one file per command; what is heavy is imported inside the functions."""

from cnnforge.cli.app import main as main
