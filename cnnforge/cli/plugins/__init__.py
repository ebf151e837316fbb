"""The commands of `cnnforge plugins`."""
