"""Convolutions on tensor cores. Experimental: not yet run on a device."""
