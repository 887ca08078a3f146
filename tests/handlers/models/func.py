"""Module-level entry point: no class; called once with data None while loading."""

STATE = {"init": 0}


def handle(data, context):
    if data is None:
        STATE["init"] += 1
        return None
    return [{"init": STATE["init"], "n": len(data), "model": context.model_name} for _ in data]


def other(data, context):
    if data is None:
        return None
    return [{"entry": "other"} for _ in data]
