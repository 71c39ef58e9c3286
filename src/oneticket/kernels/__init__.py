"""Kernels: what a layout or a precision makes of an operation on this machine, and what is kept out of faulty ones."""
