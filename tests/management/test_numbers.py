"""What is asked of the control plane in numbers that can't be meant."""

import pytest

from flambeau.client import ServerError


def test_more_workers_than_a_machine_can_bear_are_refused(live_server):
    server = live_server()
    server.archive("echo")
    server.client.register("echo", initial_workers=1)

    with pytest.raises(ServerError, match="100000 workers are more than this machine may start") as refusal:
        server.client.scale("echo", 100_000)

    assert refusal.value.status == 400
    assert len(server.workers("echo")) == 1


def test_a_yaml_that_asks_for_too_many_workers_is_not_registered(live_server):
    server = live_server()
    server.archive("greedy", yaml="minWorkers: 100000\nmaxWorkers: 100000\n")

    with pytest.raises(ServerError, match="may start for one model"):
        server.client.register("greedy", initial_workers=0)
