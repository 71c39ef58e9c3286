"""Kernels: how layout and precision change an operation on this machine, and how faulty kernels are avoided."""
