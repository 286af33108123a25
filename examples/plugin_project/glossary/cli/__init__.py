"""The four steps as scripts."""
