"""The laboratory: experiment file → plan → cells in a store → one tidy table."""
