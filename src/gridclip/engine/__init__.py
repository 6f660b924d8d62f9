"""Training, evaluation and use: the Lightning shell, run folders, commands."""
