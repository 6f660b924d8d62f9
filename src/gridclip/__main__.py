"""`python -m gridclip` is `gridclip`."""

from gridclip.cli import main

main()
