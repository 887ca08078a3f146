"""ts.version"""

from ts import __version__

__all__ = ["__version__"]
