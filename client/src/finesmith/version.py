"""The version of this SDK, sent to the server in every request's User-Agent."""

__version__ = "0.1.0"
