"""The one exception a user is meant to read."""


class UserError(ValueError):
    """Bad input of the user: one line that says what is wrong, where, and how to mend it.

    Launchers print the message without a traceback and end with exit status 2.
    """
