"""How the schema comes to be: Alembic's environment and its revisions, run by `app.db.migrate`."""
