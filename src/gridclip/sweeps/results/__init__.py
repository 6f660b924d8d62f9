"""What a sweep found: tables, and the page to read."""
