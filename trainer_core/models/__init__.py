"""Loading base models and giving them adapters."""
