"""The one exception that speaks to the user."""


class InputError(ValueError):
    """Something the user gave is wrong: a config key, a folder, a file, a record.

    The message is one line that names the culprit and says what to do. `main` prints it without a traceback;
    anything else that is raised is a defect of the program and keeps its traceback.
    """
