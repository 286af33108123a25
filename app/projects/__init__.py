"""Projects: owners of jobs, files and keys, with limits of their own."""
