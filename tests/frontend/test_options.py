import msgspec
import pytest

from flambeau.frontend.options import Cors, FrontendOptions, read_options, write_options


def test_what_the_supervisor_writes_the_http_processes_read(tmp_path):
    options = FrontendOptions(binds=["http://127.0.0.1:8080"], cors=Cors(allowed_origin="*"), queue_full_status=429)

    write_options(tmp_path, options)

    assert read_options(tmp_path) == options
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
