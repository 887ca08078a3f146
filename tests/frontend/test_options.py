from dataclasses import fields

import msgspec
import pytest

from flambeau.frontend.options import Cors, read_options
from flambeau.management.data_plane import write_options
from flambeau.management.guard import Access
from flambeau.management.logs import Logs
from flambeau.management.settings import Settings
from flambeau.management.translate import frontend_options


def test_what_the_supervisor_writes_the_http_processes_read(tmp_path):
    settings = Settings(cors_allowed_origin="*", full_queue_status=429)
    logs = Logs(*[tmp_path] * len(fields(Logs)))

    write_options(tmp_path, frontend_options(settings, logs, None, "1.0", Access(True, True, True)))

    options = read_options(tmp_path)
    assert (options.cors, options.queue_full_status, options.token_authorization) == (Cors(allowed_origin="*"), 429, True)
    assert [file.name for file in tmp_path.iterdir()] == ["frontend.json"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"binds": [], "bind": []}', id="an unknown name"),
        pytest.param('{"binds": [], "queue_full_status": 500}', id="a status that is not offered"),
    ],
)
def test_options_that_can_not_be_used_are_refused(tmp_path, text):
    (tmp_path / "frontend.json").write_text(text)

    with pytest.raises(msgspec.ValidationError):
        read_options(tmp_path)
