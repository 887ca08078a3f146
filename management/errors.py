"""What can go wrong in the control plane, each error named once; `api` turns them into status codes."""


class ManagementError(Exception):
    """Base of what a caller is told."""


class SettingsError(ManagementError):
    """config.properties or its environment holds what we cannot use: the server does not start."""
