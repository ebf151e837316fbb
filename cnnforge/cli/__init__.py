"""The command line. Each command has a file, which imports slow modules inside functions."""

from cnnforge.cli.app import main as main
