"""What a program sees of `Spine`, against a registry in memory."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from hms_spine import NotFound, SpineError

from .conftest import AnySpine
from .registry import Registry

V1 = "http://localhost:8001"
V2 = "http://localhost:8003"


def test_registers_with_a_check_and_the_plain_url_under_the_key(spine: AnySpine, registry: Registry) -> None:
    spine.register("identity", V1)
    assert registry.services["n1", "identity@localhost:8001"] == {
        "Name": "identity",
        "ID": "identity@localhost:8001",
        "Address": "localhost",
        "Port": 8001,
        "Meta": {"url": V1},
        "Check": {
            "HTTP": "http://localhost:8001/health",
            "Interval": "5s",
            "Timeout": "2s",
            "FailuresBeforeCritical": 3,
            "Status": "passing",
        },
    }
    assert registry.keys["services/identity"][0] == V1.encode()
    assert spine.lookup("identity") == V1


def test_check_version_weight_and_id_are_the_callers_choice(spine: AnySpine, registry: Registry) -> None:
    spine.register("identity", V1, id="one", version="v1", weight=80, check=False)
    row = registry.services["n1", "one"]
    assert "Check" not in row
    assert row["Tags"] == ["v1"]
    assert row["Meta"] == {"url": V1, "version": "v1"}
    assert row["Weights"] == {"Passing": 80, "Warning": 1}


@pytest.mark.parametrize(
    ("url", "id", "address", "port"),
    [
        ("http://10.0.5.7", "a@10.0.5.7:80", "10.0.5.7", 80),
        ("https://h/base/", "a@h:443/base", "h", 443),
        ("http://[::1]:7", "a@[::1]:7", "::1", 7),
    ],
)
def test_urls_of_every_form(spine: AnySpine, registry: Registry, url: str, id: str, address: str, port: int) -> None:
    spine.register("a", url)
    row = registry.services["n1", id]
    assert (row["Address"], row["Port"]) == (address, port)
    assert spine.lookup("a") == url.rstrip("/")
    spine.deregister("a", url)
    assert not registry.services


@pytest.mark.parametrize("url", ["localhost:8001", "ftp://h:1", "", "http://"])
def test_what_is_not_a_url_is_not_registered(spine: AnySpine, registry: Registry, url: str) -> None:
    with pytest.raises(ValueError, match="looks like"):
        spine.register("a", url)
    assert registry.requests == []


@pytest.mark.parametrize("weight", [-1, 65536])
def test_weights_out_of_range_are_not_sent(spine: AnySpine, registry: Registry, weight: int) -> None:
    with pytest.raises(ValueError, match="weight"):
        spine.register("a", V1, weight=weight)
    assert registry.requests == []


def test_the_name_is_one_path_segment_in_the_catalog(spine: AnySpine) -> None:
    spine.register("team/photo svc", V1)
    assert spine.lookup("team/photo svc") == V1


def test_calls_are_shared_by_weight(spine: AnySpine) -> None:
    spine.register("identity", V1, weight=80)
    spine.register("identity", V2, weight=20)
    drawn = Counter(spine.lookup("identity") for _ in range(400))
    assert abs(drawn[V1] - 320) <= 24  # 3 sigma of 400 draws at 0.8


def test_registering_again_changes_the_weight(spine: AnySpine) -> None:
    spine.register("identity", V1, weight=80)
    spine.register("identity", V2, weight=20)
    spine.register("identity", V1, weight=0)
    assert {spine.lookup("identity") for _ in range(50)} == {V2}


def test_all_weights_zero_is_an_even_choice(spine: AnySpine) -> None:
    spine.register("identity", V1, weight=0)
    spine.register("identity", V2, weight=0)
    assert {spine.lookup("identity") for _ in range(50)} == {V1, V2}


def test_a_version_narrows_the_choice(spine: AnySpine, registry: Registry) -> None:
    spine.register("identity", V1, version="v1")
    spine.register("identity", V2, version="v2")
    assert {spine.lookup("identity", version="v2") for _ in range(20)} == {V2}
    with pytest.raises(NotFound, match="no instance of 'identity' with version 'v3'"):
        spine.lookup("identity", version="v3")


def test_instances_that_others_registered_are_found(spine: AnySpine, registry: Registry) -> None:
    registry.services["n2", "legacy"] = {"Name": "legacy", "ID": "legacy", "Address": "", "Port": 9, "Tags": ["v1"]}
    assert spine.lookup("legacy", version="v1") == "http://10.0.0.1:9"


def test_failing_instances_get_no_calls(spine: AnySpine, registry: Registry) -> None:
    spine.register("identity", V1)
    spine.register("identity", V2)
    registry.status["identity@localhost:8001"] = "critical"
    assert {spine.lookup("identity") for _ in range(20)} == {V2}


def test_deregister_one_url(spine: AnySpine, registry: Registry) -> None:
    spine.register("identity", V2, id="chosen")
    spine.register("identity", V1)
    spine.deregister("identity", V1)
    assert list(registry.services) == [("n1", "chosen")]
    assert registry.keys["services/identity"][0] == V2.encode()


def test_deregister_keeps_a_key_that_leads_elsewhere(spine: AnySpine, registry: Registry) -> None:
    spine.register("identity", V1)
    spine.register("identity", V2)
    spine.deregister("identity", V1)
    assert registry.keys["services/identity"][0] == V2.encode()
    assert not any(request.startswith("DELETE") for request in registry.requests)


def test_deregister_all_of_a_name_on_every_node(spine: AnySpine, registry: Registry) -> None:
    spine.register("identity", V1)
    registry.node = "n2"
    spine.register("identity", V1)
    spine.register("photo", V2)
    spine.deregister("identity")
    assert list(registry.services) == [("n2", "photo@localhost:8003")]
    assert list(registry.keys) == ["services/photo"]
    with pytest.raises(NotFound, match="no instance of 'identity' is registered"):
        spine.lookup("identity")
    spine.deregister("identity")


def test_a_registration_made_meanwhile_is_not_undone(
    spine: AnySpine, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    spine.register("identity", V1)
    honest = registry.answer

    def race(method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if method == "DELETE":
            honest("PUT", "/v1/kv/services/identity", V2.encode())
        return honest(method, target, body)

    monkeypatch.setattr(registry, "answer", race)
    spine.deregister("identity", V1)
    assert registry.keys["services/identity"][0] == V2.encode()


@pytest.mark.parametrize("value", [V1, V1 + "\n", json.dumps({"Value": V1.encode().hex()})])
def test_falls_back_to_the_key(spine: AnySpine, registry: Registry, value: str) -> None:
    registry.keys["services/identity"] = (value.encode(), 1)
    assert spine.lookup("identity") == V1


@pytest.mark.parametrize("value", ["", "no address", '{"Value": "zz"}', '{"Other": 1}', "{", '{"Value": 7}'])
def test_a_key_without_a_url_is_nowhere_to_go(spine: AnySpine, registry: Registry, value: str) -> None:
    registry.keys["services/identity"] = (value.encode(), 1)
    with pytest.raises(NotFound):
        spine.lookup("identity")


def test_a_refusal_says_why(spine: AnySpine) -> None:
    with pytest.raises(SpineError, match="the registry refused: 400 Invalid service meta: value is too long"):
        spine.register("a", "http://h/" + "x" * 600)


def test_an_empty_name_is_refused_here(spine: AnySpine, registry: Registry) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        spine.lookup("")
    with pytest.raises(ValueError, match="needs a name"):
        spine.register("", V1)
    assert registry.requests == []
