"""The training loops that take turns: ``ours``, ``reference`` (how this field trains today), ``plain`` (PyTorch)."""
