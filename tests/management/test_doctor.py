import json

import pytest
from click.testing import CliRunner

from flambeau.cli import main
from flambeau.management.doctor import examine


def archive(folder, handler="handler.py", source="def handle(data, context): ...\n", **model):
    (folder / "m" / "MAR-INF").mkdir(parents=True)
    (folder / "m" / "handler.py").write_text(source)
    manifest = {"runtime": "python", "model": {"modelName": "m", "handler": handler, "modelVersion": "1.0", **model}}
    (folder / "m" / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    return folder / "m"


def errors(path):
    return [finding.words for finding in examine(path) if finding.level == "error"]


@pytest.mark.parametrize("handler", [
    "handler.py", "handler.py:handle", "handler", "handler:handle", "image_classifier", "src/handler.py", "flask.app:Flask",
])  # fmt: skip
def test_an_archive_that_will_run_has_no_errors(tmp_path, handler):
    source = (
        "from ts.torch_handler.base_handler import BaseHandler\nfrom ts.utils.util import PredictionException\nimport ts\n"
    )

    assert errors(archive(tmp_path, handler, source)) == []


@pytest.mark.parametrize(("made", "complaint"), [
    pytest.param({"handler": "gone.py"}, "the archive has no file gone.py", id="a handler that is not there"),
    pytest.param({"handler": "gone"}, "neither a file of the archive, nor a ready-made", id="a name that nobody has"),
    pytest.param({"handler": "trt_llm_handler"}, "use the ready-made handler text_generation", id="one that we have not"),
    pytest.param({"handler": "vision_handler"}, "neither a file of the archive", id="a module that is no handler"),
    pytest.param({"handler": "labels"}, "neither a file of the archive", id="a module of our own"),
    pytest.param(
        {"source": "from ts.torch_handler.densenet_handler import X\n"}, "needs torchvision", id="an import that fails"
    ),
    pytest.param({"source": "from ts.torch_handler import vllm_handler\n"}, "vLLM's handler can't be subclassed", id="a member"),
    pytest.param({"source": "from ts.secret.thing import X\n"}, "line 1: ts.secret.thing is not among", id="an unknown import"),
    pytest.param({"source": "def handle(:\n"}, "Python can't read it", id="broken Python"),
])  # fmt: skip
def test_an_archive_that_will_not_run_is_told_why(tmp_path, made, complaint):
    (words,) = errors(archive(tmp_path, **made))

    assert complaint in words


def test_what_the_servers_environment_lacks_of_the_requirements_is_named(tmp_path):
    path = archive(tmp_path, requirementsFile="requirements.txt")
    (path / "requirements.txt").write_text(
        "# a comment\nflask==0.1.*\npyyaml\nno-such-thing>=1  # why not\nold; python_version < '3'\n--pre\n"
    )

    words = [finding.words for finding in examine(path) if "asked for" in finding.words]

    assert len(words) == 2
    assert words[0].startswith("flask==0.1.* is asked for; the server's environment has ")
    assert words[1] == "no-such-thing>=1 is asked for; the server's environment has none"


def test_an_archive_that_can_not_be_opened_is_an_error(tmp_path):
    (tmp_path / "bad.mar").write_bytes(b"no zip")

    assert errors(tmp_path / "bad.mar")


def test_a_configuration_is_held_against_ours(tmp_path):
    path = tmp_path / "config.properties"
    path.write_text("io_ratio=50\nload_models=all\nnumber_of_nety_threads=3\nmanagement_address=http://0.0.0.0:8081\n"
                    "disable_token_authorization=true\n")  # fmt: skip

    found = examine(path)

    words = " | ".join(finding.words for finding in found)
    for expected in (
        "did you mean number_of_netty_threads?",
        "io_ratio: accepted",
        "--insecure",
        "allowed_urls",
        "metrics_mode",
    ):
        assert expected in words
    assert {finding.level for finding in found} == {"error", "warning", "note"}


def test_the_command_fails_where_something_will_not_work(tmp_path):
    good, bad = archive(tmp_path), tmp_path / "config.properties"
    bad.write_text("job_queue_size=many\n")

    assert CliRunner().invoke(main, ["doctor", str(good)]).exit_code == 0
    both = CliRunner().invoke(main, ["doctor", "--json", str(good), str(bad)])
    assert both.exit_code == 1
    assert json.loads(both.output)[-1]["words"] == "job_queue_size=many: not a whole number"
