"""The command `cnnforge serve`."""
