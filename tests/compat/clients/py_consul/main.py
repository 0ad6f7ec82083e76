"""`py-consul`, unmodified, against the server at the address given as the only argument."""

from __future__ import annotations

import sys
from functools import partial

from consul import Check, Consul, ConsulException

import both
from report import Report, raises, wakes_only_for


def main(address: str) -> int:
    host, port = address.split(":")
    report = Report()

    def connect() -> Consul:
        return Consul(host, int(port))

    both.run(report, connect)
    c = connect()
    for name, check in {
        "agent/meta-and-weights": meta_and_weights,
        "agent/service-definition": service_definition,
        "agent/extra-checks": extra_checks,
        "filter/catalog": filter_catalog,
        "filter/health": filter_health,
        "filter/agent": filter_agent,
        "filter/errors": filter_errors,
        "connect/ca-roots": ca_roots,
    }.items():
        report.check(name, partial(check, c))
    report.check("filter/blocking", partial(filter_blocking, c, connect()))
    return 1 if report.failed else 0


def meta_and_weights(c: Consul) -> None:
    c.agent.service.register(
        "weighed",
        address="10.0.0.1",
        port=80,
        meta={"version": "v1"},
        weights={"Passing": 80, "Warning": 0},
        tagged_addresses={"lan": {"address": "10.0.0.1", "port": 81}},
        enable_tag_override=True,
    )
    _, (entry,) = c.health.service("weighed")
    service = entry["Service"]
    assert service["Meta"] == {"version": "v1"}
    assert service["Weights"] == {"Passing": 80, "Warning": 0}
    assert service["TaggedAddresses"]["lan"] == {"Address": "10.0.0.1", "Port": 81}
    assert service["EnableTagOverride"] is True
    c.agent.service.register("unweighed")
    _, (row,) = c.catalog.service("unweighed")
    assert row["ServiceWeights"] == {"Passing": 1, "Warning": 1}
    assert row["ServiceMeta"] == {}


def service_definition(c: Consul) -> None:
    c.agent.service.register("defined", service_id="defined-1", port=9)
    definition = c.agent.service_definition("defined-1")
    assert (definition["ID"], definition["Service"], definition["Port"]) == ("defined-1", "defined", 9)
    assert definition["ContentHash"]


def extra_checks(c: Consul) -> None:
    ttl = Check.ttl("1h")
    c.agent.service.register("many", check=ttl, extra_checks=[ttl, ttl])
    ids = {check["CheckID"] for check in c.health.checks("many")[1]}
    assert ids == {"service:many:1", "service:many:2", "service:many:3"} or ids == {
        "service:many",
        "service:many:2",
        "service:many:3",
    }, ids
    c.agent.service.register("many", check=ttl, replace_existing_checks=True)
    assert len(c.health.checks("many")[1]) == 1


def filter_catalog(c: Consul) -> None:
    c.agent.service.register("filtered", service_id="f1", port=1, tags=["blue"], meta={"version": "v1"})
    c.agent.service.register("filtered", service_id="f2", port=2, tags=["green"], meta={"version": "v2"})

    def found(expression: str) -> list[str]:
        return sorted(row["ServiceID"] for row in c.catalog.service("filtered", filter_expr=expression)[1])

    assert found('ServiceMeta.version == "v1"') == ["f1"]
    assert found('"green" in ServiceTags') == ["f2"]
    assert found("ServicePort == 1 or ServicePort == 2") == ["f1", "f2"]
    assert found('not (ServiceID matches "^f1$")') == ["f2"]
    assert found("ServiceMeta.absent is empty and ServiceTags is not empty") == ["f1", "f2"]
    assert found("`f` in ServiceID and ServiceID != f2") == ["f1"]
    name = c.agent.self()["Config"]["NodeName"]
    assert [node["Node"] for node in c.catalog.nodes(filter_expr=f'Node == "{name}"')[1]] == [name]
    assert c.catalog.nodes(filter_expr='Node == "nobody"')[1] == []
    assert list(c.catalog.services(filter_expr='ServiceName == "filtered"')[1]) == ["filtered"]
    assert sorted(c.catalog.node(name, filter_expr='Service == "filtered"')[1]["Services"]) == ["f1", "f2"]


def filter_health(c: Consul) -> None:
    c.agent.service.register("ill", service_id="ill-1", check=Check.ttl("1h"))
    c.agent.service.register("ill", service_id="ill-2", check=Check.ttl("1h"))
    c.agent.check.ttl_pass("service:ill-2")
    _, (entry,) = c.health.service("ill", filter_expr='Checks.Status == "critical"')
    assert entry["Service"]["ID"] == "ill-1"
    _, (entry,) = c.health.service("ill", filter_expr="Service.ID == `ill-2` and Node.Datacenter == dc1")
    assert entry["Service"]["ID"] == "ill-2"
    _, (check,) = c.health.checks("ill", filter_expr="Status == passing")
    assert check["ServiceID"] == "ill-2"
    _, (check,) = c.health.state("any", filter_expr='ServiceID == "ill-1"')
    assert check["Status"] == "critical"
    node = c.agent.self()["Config"]["NodeName"]
    assert [row["CheckID"] for row in c.health.node(node, filter_expr="ServiceID is empty")[1]] == ["serfHealth"]


def filter_agent(c: Consul) -> None:
    c.agent.service.register("local", tags=["x"], check=Check.ttl("1h"))
    assert list(c.agent.services(filter_expr='Service == "local"')) == ["local"]
    assert list(c.agent.checks(filter_expr='ServiceName == "local"')) == ["service:local"]


def filter_errors(c: Consul) -> None:
    text = "400 Failed to create boolean expression evaluator: "
    raises(ConsulException, text, lambda: c.catalog.nodes(filter_expr="Node =="))
    raises(ConsulException, text, lambda: c.catalog.nodes(filter_expr='Nothing == "x"'))
    raises(ConsulException, text, lambda: c.health.service("x", filter_expr='Service.ID matches "("'))
    raises(ConsulException, text, lambda: c.agent.services(filter_expr="ID = x"))


def ca_roots(c: Consul) -> None:
    for roots in (c.connect.ca.roots(), c.agent.connect.ca.roots()):
        active = roots["ActiveRootID"]
        (root,) = [root for root in roots["Roots"] if root["ID"] == active]
        assert root["Active"] is True
        assert root["RootCert"].startswith("-----BEGIN CERTIFICATE-----")
        assert roots["TrustDomain"].endswith(".consul")


def filter_blocking(c: Consul, other: Consul) -> None:
    c.agent.service.register("sieve", service_id="sieve-1", tags=["x"])
    rows = wakes_only_for(
        partial(other.catalog.service, "sieve", filter_expr='"x" in ServiceTags'),
        elsewhere=lambda: c.agent.service.register("sieves"),
        here=lambda: c.agent.service.register("sieve", service_id="sieve-2", tags=["x"]),
    )
    assert len(rows) == 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
