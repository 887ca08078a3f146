from flambeau.management.runtime import RuntimeFolder


def test_a_named_folder_keeps_no_archives_of_a_server_that_was_killed(tmp_path):
    for left in ("models/0123/handler.py", "environments/0123/bin/python", "models/.unpacking-1/handler.py"):
        (tmp_path / left).parent.mkdir(parents=True)
        (tmp_path / left).touch()

    folder = RuntimeFolder(tmp_path)

    assert list((tmp_path / "models").iterdir()) == []
    assert not (tmp_path / "environments").exists()
    folder.remove()
