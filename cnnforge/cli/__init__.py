"""The command line: one file per command; heavy modules are imported inside functions."""

from cnnforge.cli.app import main as main
