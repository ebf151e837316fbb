"""Compile the functions of ops to machine code, with one C signature for all of them."""
