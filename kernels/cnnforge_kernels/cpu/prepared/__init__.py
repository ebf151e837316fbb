"""Prepare layers of a trained network once, and run them many times.

An object of this package is one layer. It packs its weights for the kernel that is chosen when its
method ``bind`` gets the arrays to read and to write. ``bind`` returns ``Call`` objects, which a
``CallList`` runs.
"""
