"""The one exception for what a user can mend."""


class UserError(Exception):
    """A mistake in what the user asked for or supplied.

    The message says what was expected, what arrived, and what to do. Command lines print it
    without a traceback and exit with status 2.
    """
