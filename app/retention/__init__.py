"""What is old or deleted goes: jobs, files, and what they had in storage."""
