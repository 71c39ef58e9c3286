"""The version of the package, read by the build and by every file that records where it came from."""

__version__ = "0.1.0"
