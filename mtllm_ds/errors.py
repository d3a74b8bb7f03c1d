"""Errors whose message is all that a user needs, and the exit status each one stands for."""


class UserError(ValueError):
    """Bad input of the user: one line that says what is wrong, where, and how to mend it.

    Launchers print the message without a traceback and end with exit status 2.
    """

    exit_status = 2


class DamagedCheckpointError(UserError):
    """A checkpoint whose files are not those that were written."""


class UnsoundStepError(RuntimeError):
    """A training step that cannot be trusted (not finite, or skipped): the run stops on all ranks, exit status 3."""

    exit_status = 3


class PeerFailedError(RuntimeError):
    """Another rank failed and has printed why; this one only leaves, with the same exit status."""

    def __init__(self, exit_status: int) -> None:
        super().__init__("another rank failed")
        self.exit_status = exit_status
