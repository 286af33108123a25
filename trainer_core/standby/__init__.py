"""Processes that wait for a job: started ahead of it, told of it on their stdin, used once."""
