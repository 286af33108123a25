"""The database: tables, engine, transactions, clock and migrations."""
