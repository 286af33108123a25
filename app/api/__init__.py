"""The HTTP side: one router a file, and what they share."""
