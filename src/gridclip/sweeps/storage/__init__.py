"""Where the runners of a sweep meet: who has which trial, and what came of it.

protocol says what a storage is; journal keeps it in a file of the sweep's folder, database in
SQLite or PostgreSQL. running/start opens the one of a sweep.
"""
