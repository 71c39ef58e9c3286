"""Code that is not part of oneticket: which files it is, what was allowed, and how it is imported."""
