from flambeau.management.environment import child_environment


def test_a_child_s_environment_is_ours_less_what_is_hidden():
    environ = {"PATH": "/bin", "AWS_SECRET": "x", "PYTHONPATH": "here"}

    made = child_environment(environ, "AWS_.*", LANG="C")

    assert made["PATH"] == "/bin" and made["LANG"] == "C"
    assert "AWS_SECRET" not in made
    assert made["PYTHONPATH"].startswith("/")


def test_waiting_threads_sleep_unless_the_operator_wants_them_to_spin():
    assert child_environment({})["OMP_WAIT_POLICY"] == "PASSIVE"
    assert child_environment({"OMP_WAIT_POLICY": "ACTIVE"})["OMP_WAIT_POLICY"] == "ACTIVE"
