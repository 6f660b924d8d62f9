"""From photographs to boxes: what `gridclip.load` finds with, and the command `gridclip detect`.

Read `findings.py` (what is found) and `finder.py` (who finds it) first, then `tiles.py`. The
command is `command.py`: `sources.py` says what is searched, `pictures.py` draws, `saving.py` keeps
what was found, `formats.py` writes it as other tools read it.
"""
