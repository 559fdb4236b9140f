"""The one exception family for mistakes a user can correct."""


class UserError(Exception):
    """A user's mistake, told in one line: what is wrong and what to do about it.

    The command line prints the message without a traceback and exits with code 2.
    Everything that is not a `UserError` keeps its traceback.
    """
