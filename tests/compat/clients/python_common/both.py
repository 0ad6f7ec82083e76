"""Checks that `python-consul` and `py-consul` pass alike: the part of their interface that they share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from consul import Check, Consul, ConsulException

from report import Report, eventually, raises, wakes_only_for


def run(report: Report, connect: Callable[[], Consul]) -> None:
    """All of them. `connect` makes a client with a connection of its own."""
    c = connect()
    for name, check in {
        "status": status,
        "agent/self": agent_self,
        "agent/register": agent_register,
        "agent/register-again": agent_register_again,
        "agent/deregister": agent_deregister,
        "agent/check-ttl": check_ttl,
        "agent/check-http": check_http,
        "agent/check-tcp": check_tcp,
        "agent/check-register": check_register,
        "agent/service-maintenance": service_maintenance,
        "agent/node-maintenance": node_maintenance,
        "catalog/external-node": external_node,
        "catalog/lists": catalog_lists,
        "health/service": health_service,
        "health/lists": health_lists,
        "kv/put-get": kv_put_get,
        "kv/values": kv_values,
        "kv/cas": kv_cas,
        "kv/prefix": kv_prefix,
        "kv/delete": kv_delete,
        "kv/same-value": kv_same_value,
        "kv/consistency": kv_consistency,
        "errors": errors,
    }.items():
        report.check(name, partial(check, c))
    for name, blocked in {
        "blocking/kv": blocking_kv,
        "blocking/kv-missing": blocking_kv_missing,
        "blocking/kv-prefix": blocking_kv_prefix,
        "blocking/catalog-service": blocking_catalog_service,
        "blocking/catalog-services": blocking_catalog_services,
        "blocking/health-service": blocking_health_service,
        "blocking/timeout": blocking_timeout,
    }.items():
        report.check(name, partial(blocked, c, connect()))


def status(c: Consul) -> None:
    leader = c.status.leader()
    assert leader, "no leader"
    assert leader in c.status.peers()


def agent_self(c: Consul) -> None:
    told = c.agent.self()
    assert told["Config"]["Datacenter"] == "dc1"
    assert told["Config"]["Version"].count(".") == 2
    (member,) = c.agent.members()
    assert member["Name"] == told["Config"]["NodeName"]
    assert member["Status"] == 1
    assert member["Tags"]["role"] == "consul"


def agent_register(c: Consul) -> None:
    c.agent.service.register("web", service_id="web-1", address="10.0.0.1", port=80, tags=["v1", "blue"])
    service = c.agent.services()["web-1"]
    assert (service["Service"], service["Address"], service["Port"]) == ("web", "10.0.0.1", 80)
    _, (row,) = c.catalog.service("web")
    assert (row["ServiceID"], row["ServiceAddress"], row["ServicePort"]) == ("web-1", "10.0.0.1", 80)
    assert row["ServiceTags"] == ["v1", "blue"]
    assert row["Node"] == c.agent.self()["Config"]["NodeName"]
    _, tagged = c.catalog.service("web", tag="blue")
    assert len(tagged) == 1
    assert c.catalog.service("web", tag="green")[1] == []


def agent_register_again(c: Consul) -> None:
    c.agent.service.register("again", port=1, check=Check.ttl("1h"))
    c.agent.check.ttl_pass("service:again")
    index, before = c.health.service("again")
    c.agent.service.register("again", port=1, check=Check.ttl("1h"))
    same, after = c.health.service("again")
    assert (same, after) == (index, before), "an identical registration moved something"
    c.agent.service.register("again", port=2, check=Check.ttl("1h"))
    moved, (entry,) = c.health.service("again", passing=True)
    assert int(moved) > int(index)
    assert entry["Service"]["Port"] == 2, "the new port; the check's state is kept"


def agent_deregister(c: Consul) -> None:
    c.agent.service.register("gone", check=Check.ttl("1h"))
    c.agent.service.deregister("gone")
    assert c.catalog.service("gone")[1] == []
    assert "gone" not in c.agent.services()
    assert "service:gone" not in c.agent.checks()


def check_ttl(c: Consul) -> None:
    c.agent.service.register("ttl", check=Check.ttl("1h"))
    state = partial(_state, c, "ttl")
    assert state() == "critical", "a TTL check begins critical"
    assert c.agent.check.ttl_pass("service:ttl", "fine")
    assert state() == "passing"
    assert c.agent.checks()["service:ttl"]["Output"] == "fine"
    assert c.agent.check.ttl_warn("service:ttl")
    assert state() == "warning"
    assert c.agent.check.ttl_fail("service:ttl")
    assert state() == "critical"
    c.agent.service.register("brief", check=Check.ttl("1s"))
    c.agent.check.ttl_pass("service:brief")
    eventually("a TTL runs out", lambda: _state(c, "brief") == "critical")


class _Probed(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.headers["x-probe"] == "yes" else 500)
        self.end_headers()
        self.wfile.write(b"probed")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: standard output is the report."""


def check_http(c: Consul) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Probed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/health"
    check = Check.http(url, "1s", timeout="1s", header={"x-probe": ["yes"]})
    c.agent.service.register("probed", check=check)
    eventually("an HTTP probe passes", lambda: _state(c, "probed") == "passing")
    assert c.agent.checks()["service:probed"]["Output"] == f"HTTP GET {url}: 200 OK Output: probed"
    server.shutdown()
    server.server_close()
    eventually("an HTTP probe fails", lambda: _state(c, "probed") == "critical")


def check_tcp(c: Consul) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Probed)
    c.agent.service.register("tcp", check=Check.tcp("127.0.0.1", server.server_port, "1s", timeout="1s"))
    eventually("a TCP probe passes", lambda: _state(c, "tcp") == "passing")
    server.server_close()
    eventually("a TCP probe fails", lambda: _state(c, "tcp") == "critical")


def check_register(c: Consul) -> None:
    c.agent.service.register("checked")
    assert c.agent.check.register("extra", check=Check.ttl("1h"), check_id="extra-1", service_id="checked")
    assert c.agent.checks()["extra-1"]["ServiceName"] == "checked"
    assert _state(c, "checked") == "critical"
    assert c.agent.check.deregister("extra-1")
    assert "extra-1" not in c.agent.checks()
    assert c.agent.check.register("of the node", check=Check.ttl("1h"))
    assert c.agent.checks()["of the node"]["ServiceID"] == ""
    assert c.agent.check.deregister("of the node")


def service_maintenance(c: Consul) -> None:
    c.agent.service.register("kept")
    assert len(c.health.service("kept", passing=True)[1]) == 1
    c.agent.service.maintenance("kept", "true", "for a test")
    assert c.agent.checks()["_service_maintenance:kept"]["Notes"] == "for a test"
    assert c.health.service("kept", passing=True)[1] == []
    c.agent.service.maintenance("kept", "false")
    assert len(c.health.service("kept", passing=True)[1]) == 1


def node_maintenance(c: Consul) -> None:
    c.agent.service.register("of-node")
    c.agent.maintenance("true", "for a test")
    assert c.health.service("of-node", passing=True)[1] == []
    c.agent.maintenance("false")
    assert len(c.health.service("of-node", passing=True)[1]) == 1


def external_node(c: Consul) -> None:
    service = {"Service": "db", "ID": "db1", "Tags": ["primary"], "Port": 5432}
    check = {"Node": "ext", "CheckID": "service:db1", "Name": "db", "Status": "passing", "ServiceID": "db1"}
    assert c.catalog.register("ext", "10.9.9.9", service=service, check=check)
    _, node = c.catalog.node("ext")
    assert node["Node"]["Address"] == "10.9.9.9"
    assert node["Services"]["db1"]["Tags"] == ["primary"]
    _, (row,) = c.catalog.service("db")
    assert (row["Address"], row["ServiceAddress"], row["ServicePort"]) == ("10.9.9.9", "", 5432)
    assert _state(c, "db") == "passing"
    assert c.catalog.deregister("ext", check_id="service:db1")
    assert c.health.checks("db")[1] == []
    assert c.catalog.deregister("ext", service_id="db1")
    assert c.catalog.service("db")[1] == []
    assert c.catalog.deregister("ext")
    assert c.catalog.node("ext")[1] is None
    assert c.catalog.deregister("ext"), "absent is fine too"


def catalog_lists(c: Consul) -> None:
    assert c.catalog.datacenters() == ["dc1"]
    c.agent.service.register("listed", tags=["b", "a"])
    _, services = c.catalog.services()
    assert sorted(services["listed"]) == ["a", "b"]
    assert "consul" in services
    _, nodes = c.catalog.nodes()
    own = c.agent.self()["Config"]["NodeName"]
    assert own in [node["Node"] for node in nodes]
    assert c.catalog.nodes(near="_agent")[1] == nodes, "without coordinates the order stays"
    _, node = c.catalog.node(own)
    assert node["Services"]["listed"]["Service"] == "listed"


def health_service(c: Consul) -> None:
    c.agent.service.register("pair", service_id="pair-1", port=1, tags=["one"], check=Check.ttl("1h"))
    c.agent.service.register("pair", service_id="pair-2", port=2, tags=["two"], check=Check.ttl("1h"))
    c.agent.check.ttl_pass("service:pair-2")
    _, both = c.health.service("pair")
    assert sorted(entry["Service"]["ID"] for entry in both) == ["pair-1", "pair-2"]
    _, (passing,) = c.health.service("pair", passing=True)
    assert passing["Service"]["Port"] == 2
    assert {check["CheckID"] for check in passing["Checks"]} == {"serfHealth", "service:pair-2"}
    assert passing["Node"]["Node"] == c.agent.self()["Config"]["NodeName"]
    _, (tagged,) = c.health.service("pair", tag="one")
    assert tagged["Service"]["ID"] == "pair-1"
    assert c.health.service("nobody")[1] == []


def health_lists(c: Consul) -> None:
    c.agent.service.register("sick", check=Check.ttl("1h"))
    _, (check,) = c.health.checks("sick")
    assert (check["CheckID"], check["ServiceName"], check["Status"]) == ("service:sick", "sick", "critical")
    _, critical = c.health.state("critical")
    assert "service:sick" in [row["CheckID"] for row in critical]
    _, passing = c.health.state("passing")
    assert "service:sick" not in [row["CheckID"] for row in passing]
    assert len(c.health.state("any")[1]) >= len(critical) + len(passing)
    _, of_node = c.health.node(c.agent.self()["Config"]["NodeName"])
    assert {"serfHealth", "service:sick"} <= {row["CheckID"] for row in of_node}


def kv_put_get(c: Consul) -> None:
    index, row = c.kv.get("put-get")
    assert row is None
    assert int(index) > 0
    assert c.kv.put("put-get", "value", flags=2**64 - 1) is True
    index, row = c.kv.get("put-get")
    assert (row["Key"], row["Value"], row["Flags"], row["LockIndex"]) == ("put-get", b"value", 2**64 - 1, 0)
    assert row["CreateIndex"] == row["ModifyIndex"] == int(index)
    assert "Session" not in row
    assert c.kv.put("put-get", "other") is True
    _, after = c.kv.get("put-get")
    assert after["Flags"] == 0
    assert after["CreateIndex"] == row["CreateIndex"] < after["ModifyIndex"]


def kv_values(c: Consul) -> None:
    for key, value in {
        "values/bytes": bytes(range(256)),
        "values/text": "Grüße",
        "values/JSON.json": '{"Value": "00ff"}',
        "values/a b:c": "x",
        "values/ç/ü": "y",
        "values/end/": "z",
    }.items():
        assert c.kv.put(key, value) is True
        _, row = c.kv.get(key)
        assert row["Key"] == key
        assert row["Value"] == (value if isinstance(value, bytes) else value.encode())
    c.kv.put("values/empty", None)
    assert c.kv.get("values/empty")[1]["Value"] is None


def kv_cas(c: Consul) -> None:
    assert c.kv.put("cas", "1", cas=0) is True
    assert c.kv.put("cas", "2", cas=0) is False
    index = c.kv.get("cas")[1]["ModifyIndex"]
    assert c.kv.put("cas", "2", cas=index) is True
    assert c.kv.put("cas", "3", cas=index) is False
    assert c.kv.get("cas")[1]["Value"] == b"2"
    assert c.kv.delete("cas", cas=index) is False
    assert c.kv.delete("cas", cas=c.kv.get("cas")[1]["ModifyIndex"]) is True
    assert c.kv.get("cas")[1] is None


def kv_prefix(c: Consul) -> None:
    for key in ("prefix/a", "prefix/b/c", "prefix/b/d", "prefixed"):
        c.kv.put(key, key)
    _, rows = c.kv.get("prefix/", recurse=True)
    assert [row["Key"] for row in rows] == ["prefix/a", "prefix/b/c", "prefix/b/d"]
    assert c.kv.get("prefix/", keys=True)[1] == ["prefix/a", "prefix/b/c", "prefix/b/d"]
    assert c.kv.get("prefix/", keys=True, separator="/")[1] == ["prefix/a", "prefix/b/"]
    assert c.kv.get("prefix/none", recurse=True)[1] is None


def kv_delete(c: Consul) -> None:
    assert c.kv.delete("never-was") is True
    for key in ("delete/a", "delete/b", "deleted"):
        c.kv.put(key, "x")
    assert c.kv.delete("delete/", recurse=True) is True
    assert c.kv.get("delete", keys=True)[1] == ["deleted"]
    assert c.kv.delete("deleted") is True
    assert c.kv.get("deleted")[1] is None


def kv_same_value(c: Consul) -> None:
    c.kv.put("same", "x", flags=7)
    index, row = c.kv.get("same")
    c.kv.put("same", "x", flags=7)
    assert c.kv.get("same") == (index, row), "a write of the same value moved the index"


def kv_consistency(c: Consul) -> None:
    c.kv.put("consistency", "x")
    assert c.kv.get("consistency", consistency="consistent")[1]["Value"] == b"x"
    assert c.kv.get("consistency", consistency="stale")[1]["Value"] == b"x"


def errors(c: Consul) -> None:
    raises(ConsulException, "500 No path to datacenter", lambda: c.kv.get("x", dc="elsewhere"))
    raises(ConsulException, "400 Missing service name", lambda: c.agent.service.register(""))
    raises(ConsulException, "400 Missing key name", lambda: c.kv.put("", "x"))
    raises(
        ConsulException,
        "Scripts are disabled on this agent",
        lambda: c.agent.service.register("script", check=Check.script(["true"], "10s")),
    )
    raises(ConsulException, "400 Invalid wait time", lambda: c.kv.get("x", index=1, wait="soon"))


def blocking_kv(c: Consul, other: Consul) -> None:
    c.kv.put("block/one", "0")
    row = wakes_only_for(
        partial(other.kv.get, "block/one"),
        elsewhere=lambda: [
            c.kv.put("block/one/below", "x"),
            c.kv.put("block/on", "x"),
            c.kv.put("block/one", "0"),
            c.agent.service.register("block"),
        ],
        here=lambda: c.kv.put("block/one", "1"),
    )
    assert row["Value"] == b"1"


def blocking_kv_missing(c: Consul, other: Consul) -> None:
    query = partial(other.kv.get, "block/missing")
    row = wakes_only_for(
        query,
        elsewhere=lambda: c.kv.put("block/missing2", "x"),
        here=lambda: c.kv.put("block/missing", "here"),
    )
    assert row["Value"] == b"here"
    row = wakes_only_for(
        query,
        elsewhere=lambda: c.kv.delete("block/missing2"),
        here=lambda: c.kv.delete("block/missing"),
    )
    assert row is None


def blocking_kv_prefix(c: Consul, other: Consul) -> None:
    c.kv.put("under/a", "x")
    c.kv.put("under/b", "x")
    rows = wakes_only_for(
        partial(other.kv.get, "under/", recurse=True),
        elsewhere=lambda: [c.kv.put("underneath", "x"), c.kv.delete("underneath"), c.kv.delete("under/none")],
        here=lambda: c.kv.delete("under/a"),
    )
    assert [row["Key"] for row in rows] == ["under/b"]


def blocking_catalog_service(c: Consul, other: Consul) -> None:
    c.agent.service.register("watched", service_id="watched-1")
    rows = wakes_only_for(
        partial(other.catalog.service, "watched"),
        elsewhere=lambda: [
            c.agent.service.register("unwatched"),
            c.agent.service.register("watched", service_id="watched-1"),
            c.agent.service.deregister("unwatched"),
            c.kv.put("watched", "x"),
        ],
        here=lambda: c.agent.service.register("watched", service_id="watched-2"),
    )
    assert sorted(row["ServiceID"] for row in rows) == ["watched-1", "watched-2"]


def blocking_catalog_services(c: Consul, other: Consul) -> None:
    services = wakes_only_for(
        other.catalog.services,
        elsewhere=lambda: c.kv.put("any", "x"),
        here=lambda: c.agent.service.register("newcomer"),
    )
    assert "newcomer" in services


def blocking_health_service(c: Consul, other: Consul) -> None:
    for name in ("well", "unwell"):
        c.agent.service.register(name, check=Check.ttl("1h"))
        c.agent.check.ttl_pass(f"service:{name}")
    entries = wakes_only_for(
        partial(other.health.service, "well", passing=True),
        elsewhere=lambda: [
            c.agent.check.ttl_fail("service:unwell"),
            c.agent.check.ttl_pass("service:well"),
            c.agent.service.register("well", check=Check.ttl("1h")),
        ],
        here=lambda: c.agent.check.ttl_fail("service:well"),
    )
    assert entries == []
    entries = wakes_only_for(
        partial(other.health.service, "well", passing=True),
        elsewhere=lambda: c.agent.check.ttl_pass("service:unwell"),
        here=lambda: c.agent.check.ttl_pass("service:well"),
    )
    assert len(entries) == 1


def blocking_timeout(c: Consul, other: Consul) -> None:
    c.kv.put("quiet", "x")
    index, row = c.kv.get("quiet")
    assert other.kv.get("quiet", index=index, wait="200ms") == (index, row), "nothing happened, nothing moves"


def _state(c: Consul, service: str) -> Any:
    _, (check,) = c.health.checks(service)
    return check["Status"]
