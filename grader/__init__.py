"""The machinery that releases, checks and grades the exercises; it knows nothing about any particular one."""

__version__ = "0.1.0"
