"""Handler of Flambeau and TorchServe: the decoded body comes back."""


def handle(data, context):
    return [row.get("body") for row in data] if data else None
