"""Rows as multipart forms: what a worker reads as the very same row. Not for: reading forms, which workers do."""

import uuid


def form_data(row: dict[str, bytes]) -> tuple[bytes, bytes]:
    """The body, and its content type."""
    boundary = uuid.uuid4().hex.encode()
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="input"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n%b\r\n" % (boundary, _name(name), value)
        for name, value in row.items()
    ]
    return b"".join([*parts, b"--%b--\r\n" % boundary]), b"multipart/form-data; boundary=" + boundary


def _name(name: str) -> bytes:
    return name.encode().replace(b"\\", b"\\\\").replace(b'"', b"%22").replace(b"\r", b"%0D").replace(b"\n", b"%0A")
