"""The one exception that speaks to the user, and what others say, in a line."""


class InputError(ValueError):
    """Something the user gave is wrong: a config key, a folder, a file, a record.

    The message is one line that names the culprit and says what to do. `main` prints it without a traceback;
    anything else that is raised is a defect of the program and keeps its traceback.
    """


def one_line(error: BaseException) -> str:
    """The message of an error on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
