from flambeau.management.routing import ModelRoute, RouteReader, RouteWriter, Table


def test_a_reader_sees_what_was_published_last(tmp_path):
    writer = RouteWriter(tmp_path)
    reader = RouteReader(tmp_path)
    assert reader.table().models == {}

    writer.publish(Table(models={"echo": {"1.0": ModelRoute(name="echo", version="1.0")}}, defaults={"echo": "1.0"}))

    assert reader.table().defaults == {"echo": "1.0"}
    assert reader.table() is reader.table()
