import pytest

from flambeau.management.routing import ModelRoute, RouteReader, RouteWriter, Table


def test_a_reader_sees_what_was_published_last(tmp_path):
    writer = RouteWriter(tmp_path)
    reader = RouteReader(tmp_path)
    assert reader.table().models == {}

    writer.publish(Table(models={"echo": {"1.0": ModelRoute(name="echo", version="1.0")}}, defaults={"echo": "1.0"}))

    assert reader.table().defaults == {"echo": "1.0"}
    assert reader.table() is reader.table()


@pytest.mark.parametrize("broken", ["torn", "a folder"])
def test_a_table_that_can_not_be_read_is_read_again_and_the_old_one_serves_meanwhile(tmp_path, caplog, broken):
    writer, old, new = RouteWriter(tmp_path), Table(defaults={"echo": "1.0"}), Table(defaults={"echo": "2.0"})
    writer.publish(old)
    reader = RouteReader(tmp_path)
    assert reader.table() == old
    writer.publish(new)
    good = (tmp_path / "routes").read_bytes()
    (tmp_path / "routes").unlink()
    if broken == "torn":
        (tmp_path / "routes").write_bytes(good[:-1])
    else:
        (tmp_path / "routes").mkdir()

    assert [reader.table() for _ in range(3)] == [old] * 3
    assert len(caplog.records) == 1

    (tmp_path / "routes").rename(tmp_path / "was")
    (tmp_path / "routes").write_bytes(good)
    assert reader.table() == new
    assert reader.table() is reader.table()
