"""Distributed out-of-core analytics for brain-scale image volumes."""

__version__ = "0.1.0"
