"""Draw on a terminal with characters: the course of the loss, tables and pictures."""
