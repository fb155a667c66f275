"""The engine that needs no server: one SQLite file, any number of processes."""
