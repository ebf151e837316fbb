"""The command `cnnforge predict`, and the files that it writes."""
