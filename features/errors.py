"""The root of the errors that explain themselves: what was expected, what came, where, and what to do."""


class CascadeError(Exception):
    """An error whose message is for the user; the command line prints it without a traceback."""
