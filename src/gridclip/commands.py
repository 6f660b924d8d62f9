"""The small commands, each a typed function; jsonargparse makes the command line of them."""

from gridclip.data.mini import make_mini

COMMANDS = {"data": {"mini": make_mini}}
