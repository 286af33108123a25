"""Previews: what a Config makes of an uploaded file's first rows, rendered by a worker and kept for a day."""
