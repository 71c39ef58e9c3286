"""Tickets in the loops of other libraries: ``transformers``, ``lightning`` and ``accelerate``, a module for each.

Each is imported by its own name, and needs its library: ``pip install 'oneticket[integrations]'``.
"""
