"""`python -m gridclip` is `gridclip`: the working directory is no place to import from.

Python puts it first, where a file of a stranger's folder could stand for any package. With --trust
it stays there, for classes of one's own.
"""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path and "--trust" not in sys.argv:
        del sys.path[0]

    from gridclip.cli import main

    main()
