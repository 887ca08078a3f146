import pytest

from flambeau.hosts import answered, name_of, same_site


@pytest.mark.parametrize(
    ("bound", "listed", "host", "is_answered"),
    [
        pytest.param(["127.0.0.1"], [], "localhost:8080", True, id="a loopback name"),
        pytest.param(["127.0.0.1"], [], "[::1]:8080", True, id="IPv6 loopback"),
        pytest.param(["127.0.0.2"], [], "127.0.0.2:8080", True, id="another loopback address"),
        pytest.param(["127.0.0.2"], [], "evil.example", False, id="a rebound name on another loopback address"),
        pytest.param(["::1"], [], "evil.example", False, id="a rebound name on IPv6"),
        pytest.param(["fd00::1"], ["other.example"], "[fd00::1]:8080", True, id="the address itself, beside a list"),
        pytest.param(["0.0.0.0"], ["API.example"], "api.Example", True, id="a listed name, in any case"),
        pytest.param([], [], "evil.example", False, id="a unix socket"),
    ],
)
def test_a_listener_answers_to_its_own_names(bound, listed, host, is_answered):
    assert (name_of(host) in answered(bound, listed)) == is_answered


def test_what_the_network_reaches_answers_to_any_name_unless_some_are_listed():
    assert answered(["0.0.0.0"]) is None
    assert answered(["127.0.0.1"], ["*"]) is None


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        pytest.param("http://localhost:8080", "localhost:8080", True, id="our own page"),
        pytest.param("http://localhost:9090", "localhost:8080", False, id="another port"),
        pytest.param("null", "localhost:8080", False, id="a page without origin"),
        pytest.param("http://[::1", "localhost:8080", False, id="no address at all"),
        pytest.param("http://localhost", None, False, id="no host"),
    ],
)
def test_a_page_may_ask_whom_it_came_from(origin, host, same):
    assert same_site(origin, host) == same
