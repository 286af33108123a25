"""The Celery worker of a host: claims jobs, starts the trainer's pipeline for each, tells what becomes of it."""
