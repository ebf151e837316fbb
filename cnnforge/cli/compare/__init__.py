"""The command `cnnforge compare`."""
