"""Groundling says where a named entity is in a picture, and in what words."""

__version__ = "0.1.0"
