"""What can go wrong in the control plane, each error named once; `answers` turns them into status codes."""


class ManagementError(Exception):
    """Base of what a caller is told: the message is written for them."""


class SettingsError(ManagementError):
    """config.properties or its environment holds what we cannot use: the server does not start."""


class StartError(ManagementError):
    """The server cannot start here: a port is taken, another one runs, a folder is not ours."""


class StateError(ManagementError):
    """The state file and its last good copy are both unreadable."""


class StorageFailed(ManagementError):
    """The disk is full or failing: nothing was changed."""


class BadRequest(ManagementError):
    """A parameter is missing or makes no sense."""


class ModelNotFound(ManagementError):
    """No such model."""


class WorkflowNotFound(ManagementError):
    """No such workflow."""


class WorkflowConflict(ManagementError):
    """A workflow of this name is registered already."""


class VersionNotFound(ManagementError):
    """The model is there, this version of it is not."""


class ModelConflict(ManagementError):
    """This version of the model is registered already."""


class DefaultVersionInUse(ManagementError):
    """The default version can't go while others stay."""


class WorkersFailed(ManagementError):
    """Workers did not become ready; `cause` says why, in the words of the model's author."""

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class NoWorker(ManagementError):
    """Nobody is there who could answer."""


class NotAllowed(ManagementError):
    """The model API is switched off, or the method does not exist here."""


class Forbidden(ManagementError):
    """A browser's request from a foreign page or for a foreign host name; a bearer who may not do this."""


class BrokenBody(ManagementError):
    """A body that is no JSON; TorchServe answers it as its own fault, and so do we."""


class TokenRefused(ManagementError):
    """No key or token, a wrong one, or one that has expired."""
