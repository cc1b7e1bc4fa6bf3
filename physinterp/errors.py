"""The one exception for input that a user can put right."""


class InputError(ValueError):
    """Input that cannot be used; the message says what was expected, what was found and what to do.

    The command line prints the message on one line and ends with exit code 2.
    """
