"""The one exception for what the user can fix."""


class UserError(Exception):
    """A mistake in the input, not in the program: shown as one line, ends a script with exit status 2.

    The message is a single line that says what was given, what is allowed and what to do, for example
    ``data.root=/data/x holds no leftImg8bit folder; give the folder that holds leftImg8bit/ and gtFine/``.
    """
