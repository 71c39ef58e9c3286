"""``oneticket bench``: how fast training is here, as ratios to alternatives that anyone can read.

``rivals`` holds the loops that are compared, one in each file; ``measures`` what is timed with them. The other modules
choose rows, let the rivals take turns, and keep, check and show the outcome.
"""
