"""The command `cnnforge bench`, and the tables that it prints."""
