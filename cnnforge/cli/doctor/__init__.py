"""The command `cnnforge doctor`, and the processes that train copies of a run for it."""
