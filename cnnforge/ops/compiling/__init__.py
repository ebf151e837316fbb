"""Compile the functions of an op to machine code with one calling convention."""
