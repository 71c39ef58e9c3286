"""Layers of kept weights only, in C: compiled where they run, and called in PyTorch's autograd.

``gather.c`` computes outputs and gradients of inputs, ``slopes.c`` gradients of kept weights. Images lie innermost: a
batch N × C × H × W is stored as C × H × W × N. To PyTorch these are strides, so its own operations work on it, too.
"""

from oneticket.kernels.sparse.building import Unavailable, library
from oneticket.kernels.sparse.layout import as_planes, is_planes
from oneticket.kernels.sparse.product import SparseProduct, sparse_product

__all__ = ["SparseProduct", "Unavailable", "as_planes", "is_planes", "library", "sparse_product"]
