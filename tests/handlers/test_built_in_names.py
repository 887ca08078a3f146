from flambeau.archiver.pack import BUILT_IN_HANDLERS
from flambeau.handlers.entry_point import MISSING, READY_MADE


def test_what_may_be_packed_by_name_is_what_a_worker_knows_by_name():
    assert set(BUILT_IN_HANDLERS) == READY_MADE.keys() | MISSING.keys()
