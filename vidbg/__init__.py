"""Take the background out of a video and put another in its place."""

__version__ = "0.1.0"
