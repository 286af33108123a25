"""A project laid out as X-LLM's documentation lays one out."""
