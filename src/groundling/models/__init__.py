"""Backends, one a file. Flows know them only through `groundling.models.base`."""
