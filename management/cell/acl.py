"""Who may do what in a cell: an ACL names the token roles it admits. Without a role (no tokens in use) all is allowed."""

from . import names
from .errors import SaxError


def check_names(admin: str | None, methods: dict[str, str] | None) -> None:
    if admin is not None:
        names.check_acl(admin)
    for method, acl in (methods or {}).items():
        names.check_method(method)
        names.check_acl(acl)


def check_admin(acl: str, role: str | None) -> None:
    """Publish, update, unpublish: an admin's, unless the ACL says otherwise."""
    if role is not None and role not in names.ACLS[acl or "acl/admin"]:
        raise SaxError("PermissionDenied", f"permission error: the role {role} is not in {acl or 'acl/admin'}")


def check_method(model: str, method: str, acls: dict[str, str], role: str | None) -> None:
    acl = acls.get(method, "")
    if acl and role is not None and role not in names.ACLS[acl]:
        raise SaxError("PermissionDenied", f"Model {model} method {method} acl {acl} disallows {role}")
