"""The Finesmith service: HTTP API, job store, dispatching and file handling; imports neither torch nor the worker."""
