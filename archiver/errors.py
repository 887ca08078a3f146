"""What can be wrong with an archive or with where it should come from.

Each class stands for one of TorchServe's error types (`kind`), so that whoever serves HTTP only maps class → status.
"""


class ArchiveError(Exception):
    """Base; the message is meant for whoever sent or named the archive and holds no path of the server."""

    kind = "InvalidModelException"


class InvalidModel(ArchiveError):
    """The archive is broken, hostile, or lacks what a model needs."""


class ModelNotFound(ArchiveError):
    """Nothing is there, or nobody may fetch it from there."""

    kind = "ModelNotFoundException"


class DownloadFailed(ArchiveError):
    kind = "DownloadArchiveException"


class AlreadyExists(ArchiveError):
    """A download would overwrite a file of the model store."""

    kind = "InternalServerException"


class ExtraMissing(ArchiveError):
    """This kind of address needs an optional dependency that is not installed."""

    kind = "BadRequestException"


class PackingError(ArchiveError):
    """What the command line asked to pack can't be packed."""
