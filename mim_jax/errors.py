"""Errors that are the user's to mend.

Each carries one sentence that names the file, key or value at fault and the mend. The command line prints the
sentence and exits with code 2; any other exception is a fault of ours and keeps its traceback.
"""


class MimError(Exception):
    """Something the user can put right; the message is one plain sentence."""


class ConfigError(MimError):
    """A key, value or combination of values in a config."""


class DataError(MimError):
    """A data source, or a record in it."""


class CheckpointError(MimError):
    """A run directory or a checkpoint in it."""


class VerifyError(MimError):
    """A reference case that cannot be read or mapped."""
