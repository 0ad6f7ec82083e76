// npm `consul`, unmodified, against the server at the address given as the only argument.
// Prints `ok NAME` or `FAIL NAME why` for each check.
"use strict";

const { EventEmitter } = require("node:events");
const assert = require("node:assert/strict");
const http = require("node:http");
const Consul = require("consul");

// Milliseconds in which a server under test has to do what it does at once; generous, for loaded machines.
const SOON = 10_000;
// Milliseconds for which a blocked query is watched after writes elsewhere: if they woke it, it would be at once.
const QUIET = 700;

const [host, port] = process.argv[2].split(":");
const consul = new Consul({ host, port: Number(port) });

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function eventually(what, condition) {
  const deadline = Date.now() + SOON;
  while (Date.now() < deadline) {
    if (await condition()) return;
    await sleep(50);
  }
  assert.fail(`not within ${SOON} ms: ${what}`);
}

// Value and X-Consul-Index of one call: the second is only told to an emitter that asks for the response.
async function indexed(call, options) {
  const ctx = Object.assign(new EventEmitter(), { includeResponse: true });
  const [response, data] = await call({ ...options, ctx });
  return { index: BigInt(response.headers["x-consul-index"]), data };
}

// Holds `call` open: what `elsewhere` writes must leave it alone, what `here` writes must wake it.
async function wakesOnlyFor(call, options, elsewhere, here) {
  const before = await indexed(call, options);
  let answer;
  const blocked = indexed(call, { ...options, index: String(before.index), wait: "30s" }).then(
    (told) => (answer = told),
  );
  await elsewhere();
  await sleep(QUIET);
  assert.equal(answer, undefined, "woken by a write elsewhere");
  await here();
  await Promise.race([blocked, sleep(SOON)]);
  assert.ok(answer, "not woken by its own change");
  assert.ok(answer.index > before.index, `woken with index ${answer.index} after ${before.index}`);
  return answer.data;
}

// The call is refused with this status, and a body that says why.
async function refuses(call, status, text) {
  await assert.rejects(call, (error) => {
    assert.equal(error.response.statusCode, status);
    assert.match(error.response.body.toString(), text);
    return true;
  });
}

const state = async (service) => (await consul.health.checks(service))[0].Status;

const checks = {
  async status() {
    const leader = await consul.status.leader();
    assert.ok(leader);
    assert.ok((await consul.status.peers()).includes(leader));
  },

  async "agent/self"() {
    const self = await consul.agent.self();
    assert.equal(self.Config.Datacenter, "dc1");
    const members = await consul.agent.members();
    assert.deepEqual(members.map((member) => member.Name), [self.Config.NodeName]);
  },

  async "agent/register"() {
    await consul.agent.service.register({
      name: "web",
      id: "web-1",
      address: "10.0.0.1",
      port: 80,
      tags: ["v1"],
      meta: { version: "v1" },
      weights: { passing: 80, warning: 1 },
    });
    const [row] = await consul.catalog.service.nodes("web");
    assert.equal(row.ServiceID, "web-1");
    assert.equal(row.ServiceAddress, "10.0.0.1");
    assert.equal(row.ServicePort, 80);
    assert.deepEqual(row.ServiceTags, ["v1"]);
    assert.deepEqual(row.ServiceMeta, { version: "v1" });
    assert.equal((await consul.agent.service.list())["web-1"].Service, "web");
    assert.deepEqual(await consul.catalog.service.nodes({ service: "web", tag: "v2" }), []);
  },

  async "agent/deregister"() {
    await consul.agent.service.register("gone");
    await consul.agent.service.deregister("gone");
    assert.deepEqual(await consul.catalog.service.nodes("gone"), []);
    await refuses(consul.agent.service.deregister("gone"), 404, /^Unknown service ID "gone"/);
  },

  async "agent/check-ttl"() {
    await consul.agent.service.register({ name: "ttl", check: { ttl: "1h" } });
    assert.equal(await state("ttl"), "critical");
    await consul.agent.check.pass({ id: "service:ttl", note: "fine" });
    assert.equal(await state("ttl"), "passing");
    assert.equal((await consul.agent.check.list())["service:ttl"].Output, "fine");
    await consul.agent.check.warn("service:ttl");
    assert.equal(await state("ttl"), "warning");
    await consul.agent.check.fail("service:ttl");
    assert.equal(await state("ttl"), "critical");
  },

  async "agent/check-http"() {
    const server = http.createServer((_, response) => response.end("probed"));
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${server.address().port}/health`;
    await consul.agent.service.register({ name: "probed", check: { http: url, interval: "1s", timeout: "1s" } });
    await eventually("an HTTP probe passes", async () => (await state("probed")) === "passing");
    server.close();
    server.closeAllConnections();
    await eventually("an HTTP probe fails", async () => (await state("probed")) === "critical");
  },

  async "agent/check-register"() {
    await consul.agent.service.register("checked");
    await consul.agent.check.register({ name: "extra", id: "extra-1", serviceid: "checked", ttl: "1h" });
    assert.equal((await consul.agent.check.list())["extra-1"].ServiceID, "checked");
    await consul.agent.check.deregister("extra-1");
    assert.equal((await consul.agent.check.list())["extra-1"], undefined);
  },

  async "agent/maintenance"() {
    const passing = () => consul.health.service({ service: "kept", passing: true });
    await consul.agent.service.register("kept");
    assert.equal((await passing()).length, 1);
    await consul.agent.service.maintenance({ id: "kept", enable: true, reason: "for a test" });
    assert.equal((await passing()).length, 0);
    await consul.agent.service.maintenance({ id: "kept", enable: false });
    await consul.agent.maintenance({ enable: true });
    assert.equal((await passing()).length, 0);
    await consul.agent.maintenance({ enable: false });
    assert.equal((await passing()).length, 1);
  },

  async catalog() {
    await consul.agent.service.register({ name: "listed", tags: ["a"] });
    assert.deepEqual(await consul.catalog.datacenters(), ["dc1"]);
    const services = await consul.catalog.service.list();
    assert.deepEqual(services.listed, ["a"]);
    assert.ok("consul" in services);
    const [node] = await consul.catalog.node.list();
    assert.ok("listed" in (await consul.catalog.node.services(node.Node)).Services);
    assert.equal(await consul.catalog.node.services("nobody"), undefined); // how this client gives `null`
  },

  async health() {
    for (const id of ["pair-1", "pair-2"]) {
      await consul.agent.service.register({ name: "pair", id, tags: [id], check: { ttl: "1h" } });
    }
    await consul.agent.check.pass("service:pair-2");
    const both = await consul.health.service("pair");
    assert.deepEqual(both.map((entry) => entry.Service.ID).sort(), ["pair-1", "pair-2"]);
    const [passing] = await consul.health.service({ service: "pair", passing: true });
    assert.equal(passing.Service.ID, "pair-2");
    const [tagged] = await consul.health.service({ service: "pair", tag: "pair-1" });
    assert.equal(tagged.Service.ID, "pair-1");
    const critical = (await consul.health.state("critical")).map((check) => check.CheckID);
    assert.ok(critical.includes("service:pair-1") && !critical.includes("service:pair-2"));
    const ofNode = (await consul.health.node(passing.Node.Node)).map((check) => check.CheckID);
    assert.ok(ofNode.includes("serfHealth") && ofNode.includes("service:pair-1"));
  },

  async "filter/catalog"() {
    await consul.agent.service.register({ name: "filtered", id: "f1", meta: { version: "v1" } });
    await consul.agent.service.register({ name: "filtered", id: "f2", meta: { version: "v2" } });
    const rows = await consul.catalog.service.nodes({ service: "filtered", filter: "ServiceMeta.version == v2" });
    assert.deepEqual(rows.map((row) => row.ServiceID), ["f2"]);
    const [entry] = await consul.health.service({ service: "filtered", filter: 'Service.ID == "f1"' });
    assert.equal(entry.Service.Meta.version, "v1");
    assert.deepEqual(Object.keys(await consul.agent.service.list({ filter: "ID == f1" })), ["f1"]);
  },

  async "filter/errors"() {
    const wrong = consul.catalog.service.nodes({ service: "filtered", filter: "Nothing == x" });
    await refuses(wrong, 400, /^Failed to create boolean expression evaluator: /);
  },

  async "kv/get-set"() {
    assert.equal(await consul.kv.get("absent"), undefined);
    assert.equal(await consul.kv.set({ key: "get set/ü", value: "value", flags: 7 }), true);
    const row = await consul.kv.get("get set/ü");
    assert.equal(row.Key, "get set/ü");
    assert.equal(row.Value, "value");
    assert.equal(row.Flags, 7);
    assert.deepEqual(await consul.kv.get({ key: "get set/ü", raw: true }), Buffer.from("value"));
    assert.equal((await consul.kv.get({ key: "get set/ü", consistent: true })).Value, "value");
    assert.equal((await consul.kv.get({ key: "get set/ü", stale: true })).Value, "value");
  },

  async "kv/values"() {
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
    await consul.kv.set("values/bytes", bytes);
    assert.deepEqual((await consul.kv.get({ key: "values/bytes", buffer: true })).Value, bytes);
    await consul.kv.set("values/empty", "");
    assert.equal((await consul.kv.get("values/empty")).Value, null);
  },

  async "kv/cas"() {
    // This client gives undefined where the server says `false`.
    const set = (value, cas) => consul.kv.set({ key: "cas", value, cas: String(cas) });
    assert.equal(await set("1", 0), true);
    assert.equal(await set("2", 0), undefined);
    const { ModifyIndex } = await consul.kv.get("cas");
    assert.equal(await set("2", ModifyIndex), true);
    assert.equal(await set("3", ModifyIndex), undefined);
    assert.equal((await consul.kv.get("cas")).Value, "2");
    assert.equal(await consul.kv.del({ key: "cas", cas: String(ModifyIndex) }), undefined);
  },

  async "kv/prefix"() {
    for (const key of ["prefix/a", "prefix/b/c", "prefixed"]) await consul.kv.set(key, key);
    const rows = await consul.kv.get({ key: "prefix/", recurse: true });
    assert.deepEqual(rows.map((row) => row.Key), ["prefix/a", "prefix/b/c"]);
    assert.deepEqual(await consul.kv.keys({ key: "prefix/", separator: "/" }), ["prefix/a", "prefix/b/"]);
    assert.equal(await consul.kv.del({ key: "prefix/", recurse: true }), true);
    assert.deepEqual(await consul.kv.keys("prefix"), ["prefixed"]);
  },

  async errors() {
    const elsewhere = consul.kv.get({ key: "x", dc: "elsewhere" });
    await refuses(elsewhere, 500, /^No path to datacenter/);
    const script = { name: "script", check: { args: ["true"], interval: "10s" } };
    await refuses(consul.agent.service.register(script), 400, /Scripts are disabled on this agent/);
  },

  async "blocking/kv"() {
    await consul.kv.set("block/one", "0");
    const row = await wakesOnlyFor(
      (options) => consul.kv.get(options),
      { key: "block/one" },
      async () => {
        await consul.kv.set("block/one/below", "x");
        await consul.kv.set("block/two", "x");
        await consul.kv.set("block/one", "0");
      },
      () => consul.kv.set("block/one", "1"),
    );
    assert.equal(row.Value, "1");
  },

  async "blocking/catalog-service"() {
    await consul.agent.service.register({ name: "watched", id: "watched-1" });
    const rows = await wakesOnlyFor(
      (options) => consul.catalog.service.nodes(options),
      { service: "watched" },
      async () => {
        await consul.agent.service.register("unwatched");
        await consul.agent.service.register({ name: "watched", id: "watched-1" });
        await consul.kv.set("watched", "x");
      },
      () => consul.agent.service.register({ name: "watched", id: "watched-2" }),
    );
    assert.equal(rows.length, 2);
  },

  async "blocking/health-service"() {
    for (const name of ["well", "unwell"]) {
      await consul.agent.service.register({ name, check: { ttl: "1h" } });
      await consul.agent.check.pass(`service:${name}`);
    }
    const entries = await wakesOnlyFor(
      (options) => consul.health.service(options),
      { service: "well", passing: true },
      async () => {
        await consul.agent.check.fail("service:unwell");
        await consul.agent.check.pass("service:well");
      },
      () => consul.agent.check.fail("service:well"),
    );
    assert.deepEqual(entries, []);
  },

  // The client's own loop of blocking queries: one event for each change of its key, none for others.
  async watch() {
    await consul.kv.set("watch", "0");
    const watch = consul.watch({ method: consul.kv.get, options: { key: "watch", wait: "30s" } });
    const seen = [];
    const failures = [];
    watch.on("change", (row) => seen.push(row.Value));
    watch.on("error", (error) => failures.push(error.message));
    try {
      await eventually("the watch begins", () => seen.length === 1);
      await consul.kv.set("watch/below", "x");
      await sleep(QUIET);
      await consul.kv.set("watch", "1");
      await eventually("the watch sees its change", () => seen.length === 2);
      assert.deepEqual(seen, ["0", "1"]);
      assert.deepEqual(failures, []);
    } finally {
      watch.end();
    }
  },
};

async function main() {
  let failed = 0;
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      const place = (error.stack || "").split("\n").find((line) => line.includes(__filename)) || "";
      console.log(`FAIL ${name} ${String(error.message).replaceAll("\n", " ")} ${place.trim()}`);
    }
  }
  // Not by itself: a blocked query that should have ended keeps its connection open.
  process.exit(failed ? 1 : 0);
}

main();
