"""``oneticket bench``: how fast training is here, as ratios to alternatives that anyone can read.

Each alternative has a file of its own: ``reference.py`` (how this field trains today), ``plain.py`` (plain PyTorch with
masks), ``ours.py`` (what users of oneticket run), ``ceiling.py`` (what the machine could do).
"""
