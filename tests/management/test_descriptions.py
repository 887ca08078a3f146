from flambeau.management.descriptions import told

PRINTED = """
loading /opt/models/m/weights.pt from https://example.com/a/b
Traceback (most recent call last):
  File "/tmp/x/handler.py", line 3, in initialize
    raise ValueError("no")
ValueError: /opt/models/m/weights.pt is no file
done""".splitlines()[1:]


def test_what_a_dead_worker_printed_is_told_without_frames_and_folders():
    assert told(PRINTED) == [
        "loading weights.pt from https://example.com/a/b",
        "ValueError: weights.pt is no file",
        "done",
    ]


def test_a_traceback_whose_head_is_not_kept_is_none_the_less_one():
    assert told(PRINTED[2:]) == ["ValueError: weights.pt is no file", "done"]
