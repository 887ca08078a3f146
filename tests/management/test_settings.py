import re

import pytest

from flambeau.handlers.envelopes import ENVELOPES
from flambeau.management import properties, settings_text
from flambeau.management.errors import SettingsError
from flambeau.management.settings import Settings, declared, load


def write(tmp_path, text):
    path = tmp_path / "config.properties"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("line", "complaint"), [
    pytest.param("job_queue_size=many", "not a whole number", id="a word for a number"),
    pytest.param("job_queue_size=-1", "less than 0", id="a negative queue"),
    pytest.param("enable_grpc_ssl=perhaps", "not true or false", id="a word for a switch"),
    pytest.param("metrics_mode=loud", "not one of log, prometheus, legacy", id="an unknown choice"),
    pytest.param("inference_address=8080", "inference_address=8080: not an address", id="a port for an address"),
    pytest.param("models={", "not JSON", id="half a document"),
    pytest.param("allowed_urls=file://(", "no regular expression", id="a broken pattern"),
    pytest.param("model_store=$$NOT_THERE$$", "the environment has no NOT_THERE", id="an unset variable"),
])  # fmt: skip
def test_a_value_we_cannot_use_stops_the_start(tmp_path, line, complaint):
    with pytest.raises(SettingsError, match=complaint):
        load(write(tmp_path, line), {})


def test_an_unknown_key_is_a_warning_that_names_the_nearest(tmp_path):
    loaded = load(write(tmp_path, "job_que_size=3"), {})

    assert loaded.settings == Settings()
    assert loaded.warnings[0].endswith("unknown setting job_que_size; did you mean job_queue_size?")


def test_an_unknown_key_on_the_command_line_stops_the_start():
    with pytest.raises(SettingsError, match="command line: unknown setting job_que_size; did you mean job_queue_size"):
        load(None, {}, {"job_que_size": "3"})


def test_command_line_beats_environment_beats_file_beats_default(tmp_path):
    path = write(tmp_path, "enable_envvars_config=true\njob_queue_size=1\nmax_request_size=2\nio_ratio=3\n")
    environ = {"TS_MAX_REQUEST_SIZE": "20", "TS_IO_RATIO": "30"}

    loaded = load(path, environ, {"io_ratio": "300"})

    settings = loaded.settings
    assert (settings.max_response_size, settings.job_queue_size, settings.max_request_size, settings.io_ratio) == (
        6553500, 1, 20, 300,
    )  # fmt: skip
    assert loaded.origins["max_request_size"] == "TS_MAX_REQUEST_SIZE"
    assert loaded.origins["io_ratio"] == "command line"
    assert loaded.origins["job_queue_size"] == str(path)


def test_the_environment_is_heard_only_when_enabled(tmp_path):
    path = write(tmp_path, "job_queue_size=1")

    assert load(path, {"TS_JOB_QUEUE_SIZE": "2"}).settings.job_queue_size == 1
    assert load(path, {"TS_JOB_QUEUE_SIZE": "2", "TS_ENABLE_ENVVARS_CONFIG": "true"}).settings.job_queue_size == 2


def test_allowed_urls_are_loosened_by_the_environment_only_where_the_file_says_so(tmp_path):
    environ = {"TS_ALLOWED_URLS": ".*"}
    strict = write(tmp_path, "enable_envvars_config=true\nallowed_urls=file:///a/.*")
    assert load(strict, environ).settings.allowed_urls == "file:///a/.*"

    loose = write(tmp_path, "enable_envvars_config=true\nuse_env_allowed_urls=true\nallowed_urls=file:///a/.*")
    assert load(loose, environ).settings.allowed_urls == ".*"


def test_the_syntax_is_that_of_java_properties():
    text = r"""# a comment
! another
models={\
  "m": \
  {}}
key : value
spaced words here
u=\u0041\tb
win=C\:\\x
empty=
"""

    assert properties.parse(text) == {
        "models": '{"m": {}}',
        "key": "value",
        "spaced": "words here",
        "u": "A\tb",
        "win": "C:\\x",
        "empty": "",
    }


def test_what_is_rendered_is_read_back():
    pairs = {"models": '{"a\\\\b": "ü\\n"}', "path": "C:\\x", "n": "1"}

    assert properties.parse(properties.render(pairs, "written by a test")) == pairs


def test_config_properties_and_the_docs_hold_every_setting():
    """Write them anew by `make settings`."""
    assert (settings_text.ROOT / "config.properties").read_text() == settings_text.as_properties()
    page = (settings_text.ROOT / "docs" / "configuration.md").read_text()
    assert page == settings_text.with_tables(page)
    assert all(setting.metadata["words"] for setting in declared().values())


def test_config_properties_says_the_defaults(tmp_path):
    uncommented = "\n".join(
        line.removeprefix("#") for line in settings_text.as_properties().splitlines() if "=" in line and line[1] != " "
    )

    assert load(write(tmp_path, uncommented), {}).settings == Settings()


def test_every_setting_is_read_somewhere_or_says_that_it_is_only_accepted():
    own = ["archiver", "frontend", "handlers", "management", "optimizer", "sax"]
    sources = [path.read_text() for room in own for path in (settings_text.ROOT / room).rglob("*.py")]
    by_load = {"use_env_allowed_urls", "enable_envvars_config"}
    refused_at_once = {name for name, setting in declared().items() if len(setting.metadata["choices"]) == 1}
    read = {name for source in sources for name in re.findall(r"settings\.(\w+)", source)} | by_load | refused_at_once
    accepted = {name for name, setting in declared().items() if setting.metadata["words"].startswith("accepted")}

    assert declared().keys() - read - accepted == set()
    assert accepted & read == set()


def test_the_envelopes_that_may_be_set_are_those_that_workers_have():
    assert set(declared()["service_envelope"].metadata["choices"]) == ENVELOPES.keys()


def test_a_pair_on_the_command_line_without_a_value_stops_the_start():
    from flambeau.management.startup import arrange, parser

    with pytest.raises(SettingsError, match="--set junk: KEY=VALUE is wanted"):
        arrange(parser("x").parse_args(["--set", "junk"]))


@pytest.fixture
def configuration(tmp_path, monkeypatch):
    """The settings that `arguments` arrange in a folder of their own."""
    from flambeau.management.startup import arrange, parser

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TS_CONFIG_FILE", raising=False)
    return lambda *arguments: arrange(parser("x").parse_args(arguments))


def test_the_environments_file_goes_before_the_one_that_is_typed(tmp_path, monkeypatch, configuration):
    (tmp_path / "typed").write_text("job_queue_size=1")
    monkeypatch.setenv("TS_CONFIG_FILE", str(write(tmp_path, "job_queue_size=2")))

    loaded, _ = configuration("--ts-config", "typed")

    assert loaded.settings.job_queue_size == 2


def test_a_start_that_names_no_file_goes_on_with_the_last_ones_settings(tmp_path, configuration):
    folder = tmp_path / "logs" / "config"
    folder.mkdir(parents=True)
    (folder / "20260101000000000-shutdown.cfg").write_text(
        'job_queue_size=3\nload_models=all\nmodel_snapshot={"models":{}}'
    )

    by_torchserve, _ = configuration()
    (folder / "state.json").write_text("{}")
    by_us, plan = configuration()
    forgotten, _ = configuration("--ncs")
    write(tmp_path, "job_queue_size=4")
    edited, _ = configuration()

    assert (by_torchserve.settings.job_queue_size, by_torchserve.settings.model_snapshot) == (3, '{"models":{}}')
    assert (by_us.settings.job_queue_size, by_us.settings.model_snapshot, plan.models) == (3, None, ())
    assert (forgotten.settings.job_queue_size, edited.settings.job_queue_size) == (100, 4)
