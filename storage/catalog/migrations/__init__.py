"""The history of the schema, run when a catalog is opened."""

HEAD = "0004"
"""The revision that this version of the program works with; the newest in `versions`."""
