// Command client runs Go's github.com/hashicorp/consul/api, unmodified, against the server at the address given as
// the only argument. It prints `ok NAME` or `FAIL NAME why` for each check.
package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/consul/api/watch"
)

const (
	// soon is the time in which a server under test has to do what it does at once; generous, for loaded machines.
	soon = 10 * time.Second
	// quiet is for how long a blocked query is watched after writes elsewhere: if they woke it, it would be at once.
	quiet = 700 * time.Millisecond
)

var checks = []struct {
	name string
	run  func(c *api.Client)
}{
	{"status", status},
	{"agent/self", agentSelf},
	{"agent/register", agentRegister},
	{"agent/register-again", agentRegisterAgain},
	{"agent/deregister", agentDeregister},
	{"agent/check-ttl", checkTTL},
	{"agent/check-http", checkHTTP},
	{"agent/check-register", checkRegister},
	{"agent/maintenance", maintenance},
	{"agent/health", agentHealth},
	{"agent/deregister-critical", deregisterCritical},
	{"catalog/external-node", externalNode},
	{"catalog/lists", catalogLists},
	{"health/service", healthService},
	{"health/lists", healthLists},
	{"filter", filter},
	{"filter/errors", filterErrors},
	{"kv/put-get", kvPutGet},
	{"kv/cas", kvCAS},
	{"kv/prefix", kvPrefix},
	{"query-meta", queryMeta},
	{"errors", errors},
	{"connect/ca-roots", caRoots},
	{"blocking/kv", blockingKV},
	{"blocking/kv-prefix", blockingKVPrefix},
	{"blocking/catalog-service", blockingCatalogService},
	{"blocking/health-service", blockingHealthService},
	{"blocking/service-hash", blockingServiceHash},
	{"watch/plan", watchPlan},
	{"session", sessions},
	{"kv/acquire-release", acquireRelease},
	{"lock/handed-on", lockHandedOn},
	{"lock/lost", lockLost},
	{"semaphore", semaphore},
	{"semaphore/lost", semaphoreLost},
	{"txn", txn},
}

func main() {
	config := api.DefaultConfig()
	config.Address = os.Args[1]
	client, err := api.NewClient(config)
	if err != nil {
		panic(err)
	}
	failed := 0
	for _, check := range checks {
		if why := outcome(check.run, client); why != "" {
			failed++
			fmt.Printf("FAIL %s %s\n", check.name, strings.ReplaceAll(why, "\n", " "))
		} else {
			fmt.Printf("ok %s\n", check.name)
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}

// outcome is empty, or why the check failed.
func outcome(run func(*api.Client), client *api.Client) (why string) {
	defer func() {
		if reason := recover(); reason != nil {
			why = fmt.Sprint(reason)
		}
	}()
	run(client)
	return ""
}

// fail ends a check, naming the line of the check (not of these helpers) that did not hold.
func fail(format string, arguments ...any) {
	where := ""
	for depth := 1; depth < 12; depth++ {
		counter, _, line, ok := runtime.Caller(depth)
		if !ok {
			break
		}
		function := runtime.FuncForPC(counter).Name()
		if strings.HasSuffix(function, "main.outcome") {
			break
		}
		if strings.HasPrefix(function, "main.") {
			where = fmt.Sprintf("line %d: ", line)
		}
	}
	panic(where + fmt.Sprintf(format, arguments...))
}

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func equal(got, want any) {
	if !reflect.DeepEqual(got, want) {
		fail("got %#v, want %#v", got, want)
	}
}

func that(what string, holds bool) {
	if !holds {
		fail("not so: %s", what)
	}
}

func refused(err error, text string) {
	if err == nil || !strings.Contains(err.Error(), text) {
		fail("got error %v, want one with %q", err, text)
	}
}

func eventually(what string, condition func() bool) {
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if condition() {
			return
		}
	}
	fail("not within %v: %s", soon, what)
}

// query is a read that can block; it gives its value and what the headers said.
type query func(*api.QueryOptions) (any, *api.QueryMeta, error)

// wakesOnlyFor holds `read` open: what `elsewhere` writes must leave it alone, what `here` writes must wake it.
func wakesOnlyFor(read query, elsewhere, here func()) any {
	_, before, err := read(nil)
	must(err)
	type answer struct {
		value any
		meta  *api.QueryMeta
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		value, meta, err := read(&api.QueryOptions{WaitIndex: before.LastIndex, WaitTime: 30 * time.Second})
		answered <- answer{value, meta, err}
	}()
	elsewhere()
	select {
	case got := <-answered:
		fail("woken by a write elsewhere: index %d, then %+v %v", before.LastIndex, got.meta, got.err)
	case <-time.After(quiet):
	}
	here()
	select {
	case got := <-answered:
		must(got.err)
		that("the index rose", got.meta.LastIndex > before.LastIndex)
		return got.value
	case <-time.After(soon):
		fail("not woken by its own change")
		return nil
	}
}

func register(c *api.Client, service *api.AgentServiceRegistration) {
	must(c.Agent().ServiceRegister(service))
}

func ttl() *api.AgentServiceCheck {
	return &api.AgentServiceCheck{TTL: "1h"}
}

func state(c *api.Client, service string) string {
	found, _, err := c.Health().Checks(service, nil)
	must(err)
	return found.AggregatedStatus()
}

func nodeName(c *api.Client) string {
	name, err := c.Agent().NodeName()
	must(err)
	return name
}

func status(c *api.Client) {
	leader, err := c.Status().Leader()
	must(err)
	peers, err := c.Status().Peers()
	must(err)
	equal(peers, []string{leader})
}

func agentSelf(c *api.Client) {
	self, err := c.Agent().Self()
	must(err)
	equal(self["Config"]["Datacenter"], "dc1")
	that("DebugConfig is there", self["DebugConfig"] != nil)
	members, err := c.Agent().Members(false)
	must(err)
	equal(len(members), 1)
	equal(members[0].Name, nodeName(c))
	equal(members[0].Status, 1)
}

func agentRegister(c *api.Client) {
	register(c, &api.AgentServiceRegistration{
		ID: "web-1", Name: "web", Address: "10.0.0.1", Port: 80, Tags: []string{"v1", "blue"},
		Meta:            map[string]string{"version": "v1"},
		Weights:         &api.AgentWeights{Passing: 80, Warning: 2},
		TaggedAddresses: map[string]api.ServiceAddress{"wan": {Address: "192.0.2.1", Port: 8080}},
	})
	services, err := c.Agent().Services()
	must(err)
	service := services["web-1"]
	equal(service.Service, "web")
	equal(service.Tags, []string{"v1", "blue"})
	rows, _, err := c.Catalog().ServiceMultipleTags("web", []string{"blue", "V1"}, nil)
	must(err)
	equal(len(rows), 1)
	row := rows[0]
	equal(row.ServiceAddress, "10.0.0.1")
	equal(row.ServicePort, 80)
	equal(row.ServiceMeta, map[string]string{"version": "v1"})
	equal(row.ServiceWeights, api.Weights{Passing: 80, Warning: 2})
	equal(row.ServiceTaggedAddresses["wan"], api.ServiceAddress{Address: "192.0.2.1", Port: 8080})
	equal(row.Node, nodeName(c))
}

func agentRegisterAgain(c *api.Client) {
	again := &api.AgentServiceRegistration{Name: "again", Port: 1, Check: ttl()}
	register(c, again)
	must(c.Agent().PassTTL("service:again", "fine"))
	before, meta, err := c.Health().Service("again", "", false, nil)
	must(err)
	register(c, again)
	after, same, err := c.Health().Service("again", "", false, nil)
	must(err)
	equal(same.LastIndex, meta.LastIndex)
	equal(after, before)
	must(c.Agent().ServiceRegisterOpts(
		&api.AgentServiceRegistration{Name: "again", Port: 2, Check: ttl()},
		api.ServiceRegisterOpts{ReplaceExistingChecks: true},
	))
	entries, _, err := c.Health().Service("again", "", true, nil)
	must(err)
	equal(len(entries), 1)
	equal(entries[0].Service.Port, 2)
}

func agentDeregister(c *api.Client) {
	register(c, &api.AgentServiceRegistration{Name: "gone", Check: ttl()})
	must(c.Agent().ServiceDeregister("gone"))
	rows, _, err := c.Catalog().Service("gone", "", nil)
	must(err)
	equal(len(rows), 0)
	refused(c.Agent().ServiceDeregister("gone"), `Unknown service ID "gone"`)
}

func checkTTL(c *api.Client) {
	register(c, &api.AgentServiceRegistration{Name: "ttl", Check: ttl()})
	equal(state(c, "ttl"), api.HealthCritical)
	must(c.Agent().UpdateTTL("service:ttl", "fine", api.HealthPassing))
	equal(state(c, "ttl"), api.HealthPassing)
	found, err := c.Agent().Checks()
	must(err)
	equal(found["service:ttl"].Output, "fine")
	must(c.Agent().WarnTTL("service:ttl", ""))
	equal(state(c, "ttl"), api.HealthWarning)
	must(c.Agent().FailTTL("service:ttl", ""))
	equal(state(c, "ttl"), api.HealthCritical)
	refused(c.Agent().PassTTL("nothing", ""), `Unknown check ID "nothing"`)
}

func checkHTTP(c *api.Client) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("X-Probe") != "yes" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})}
	go func() { _ = server.Serve(listener) }()
	register(c, &api.AgentServiceRegistration{Name: "probed", Check: &api.AgentServiceCheck{
		HTTP: "http://" + listener.Addr().String() + "/health", Interval: "1s", Timeout: "1s",
		Method: http.MethodPost, Header: map[string][]string{"X-Probe": {"yes"}},
	}})
	eventually("an HTTP probe passes", func() bool { return state(c, "probed") == api.HealthPassing })
	must(server.Close())
	eventually("an HTTP probe fails", func() bool { return state(c, "probed") == api.HealthCritical })
}

func checkRegister(c *api.Client) {
	register(c, &api.AgentServiceRegistration{Name: "checked"})
	extra := &api.AgentCheckRegistration{
		ID: "extra-1", Name: "extra", ServiceID: "checked", AgentServiceCheck: api.AgentServiceCheck{TTL: "1h"},
	}
	must(c.Agent().CheckRegister(extra))
	equal(state(c, "checked"), api.HealthCritical)
	must(c.Agent().CheckDeregister("extra-1"))
	equal(state(c, "checked"), api.HealthPassing)
	extra.ServiceID = "nobody"
	refused(c.Agent().CheckRegister(extra), `ServiceID "nobody" does not exist`)
}

func maintenance(c *api.Client) {
	register(c, &api.AgentServiceRegistration{Name: "kept"})
	must(c.Agent().EnableServiceMaintenance("kept", "for a test"))
	equal(state(c, "kept"), api.HealthMaint)
	must(c.Agent().DisableServiceMaintenance("kept"))
	must(c.Agent().EnableNodeMaintenance("for a test"))
	entries, _, err := c.Health().Service("kept", "", true, nil)
	must(err)
	equal(len(entries), 0)
	must(c.Agent().DisableNodeMaintenance())
	equal(state(c, "kept"), api.HealthPassing)
}

func agentHealth(c *api.Client) {
	register(c, &api.AgentServiceRegistration{ID: "asked-1", Name: "asked", Check: ttl()})
	got, info, err := c.Agent().AgentHealthServiceByID("asked-1")
	must(err)
	equal(got, api.HealthCritical)
	equal(info.Service.Service, "asked")
	must(c.Agent().PassTTL("service:asked-1", ""))
	got, infos, err := c.Agent().AgentHealthServiceByName("asked")
	must(err)
	equal(got, api.HealthPassing)
	equal(len(infos), 1)
	got, _, err = c.Agent().AgentHealthServiceByID("nobody")
	must(err)
	equal(got, api.HealthCritical)
}

// Consul's floor for this is a minute; Spine honours what was asked for.
func deregisterCritical(c *api.Client) {
	register(c, &api.AgentServiceRegistration{Name: "doomed", Check: &api.AgentServiceCheck{
		TTL: "1s", DeregisterCriticalServiceAfter: "2s",
	}})
	eventually("a service that stays critical is deregistered", func() bool {
		rows, _, err := c.Catalog().Service("doomed", "", nil)
		must(err)
		return len(rows) == 0
	})
}

func externalNode(c *api.Client) {
	_, err := c.Catalog().Register(&api.CatalogRegistration{
		Node: "ext", Address: "10.9.9.9", NodeMeta: map[string]string{"rack": "r1"},
		Service: &api.AgentService{ID: "db1", Service: "db", Port: 5432, Tags: []string{"primary"}},
		Checks: api.HealthChecks{
			{Node: "ext", CheckID: "service:db1", Name: "db", Status: api.HealthWarning, ServiceID: "db1"},
			{Node: "ext", CheckID: "host", Name: "host", Status: api.HealthPassing},
		},
	}, nil)
	must(err)
	node, _, err := c.Catalog().Node("ext", nil)
	must(err)
	equal(node.Node.Meta, map[string]string{"rack": "r1"})
	equal(node.Services["db1"].Port, 5432)
	equal(state(c, "db"), api.HealthWarning)
	nodes, _, err := c.Catalog().Nodes(&api.QueryOptions{NodeMeta: map[string]string{"rack": "r1"}})
	must(err)
	equal(len(nodes), 1)
	_, err = c.Catalog().Deregister(&api.CatalogDeregistration{Node: "ext"}, nil)
	must(err)
	node, _, err = c.Catalog().Node("ext", nil)
	must(err)
	that("the node is gone", node == nil)
	rows, _, err := c.Catalog().Service("db", "", nil)
	must(err)
	equal(len(rows), 0)
}

func catalogLists(c *api.Client) {
	register(c, &api.AgentServiceRegistration{Name: "listed", Tags: []string{"b", "a"}})
	services, _, err := c.Catalog().Services(nil)
	must(err)
	tags := services["listed"]
	sort.Strings(tags)
	equal(tags, []string{"a", "b"})
	_, has := services["consul"]
	that("the service consul is listed", has)
	datacenters, err := c.Catalog().Datacenters()
	must(err)
	equal(datacenters, []string{"dc1"})
	list, _, err := c.Catalog().NodeServiceList(nodeName(c), nil)
	must(err)
	that("node-services lists", len(list.Services) > 1)
}

func healthService(c *api.Client) {
	for _, id := range []string{"pair-1", "pair-2"} {
		register(c, &api.AgentServiceRegistration{ID: id, Name: "pair", Tags: []string{id}, Check: ttl()})
	}
	must(c.Agent().PassTTL("service:pair-2", ""))
	both, _, err := c.Health().Service("pair", "", false, nil)
	must(err)
	equal(len(both), 2)
	passing, _, err := c.Health().Service("pair", "", true, nil)
	must(err)
	equal(len(passing), 1)
	equal(passing[0].Service.ID, "pair-2")
	equal(len(passing[0].Checks), 2)
	tagged, _, err := c.Health().ServiceMultipleTags("pair", []string{"pair-1"}, false, nil)
	must(err)
	equal(len(tagged), 1)
}

func healthLists(c *api.Client) {
	register(c, &api.AgentServiceRegistration{Name: "sick", Check: ttl()})
	critical, _, err := c.Health().State(api.HealthCritical, nil)
	must(err)
	all, _, err := c.Health().State(api.HealthAny, nil)
	must(err)
	that("any holds the critical ones and more", len(all) > len(critical) && len(critical) > 0)
	ofNode, _, err := c.Health().Node(nodeName(c), nil)
	must(err)
	names := map[string]bool{}
	for _, check := range ofNode {
		names[check.CheckID] = true
	}
	that("the node has serfHealth and its services' checks", names["serfHealth"] && names["service:sick"])
}

func filter(c *api.Client) {
	for _, version := range []string{"v1", "v2"} {
		register(c, &api.AgentServiceRegistration{
			ID: "f-" + version, Name: "filtered", Meta: map[string]string{"version": version}, Check: ttl(),
		})
	}
	must(c.Agent().PassTTL("service:f-v2", ""))
	with := func(expression string) *api.QueryOptions { return &api.QueryOptions{Filter: expression} }
	rows, _, err := c.Catalog().Service("filtered", "", with(`ServiceMeta.version == v1`))
	must(err)
	equal(len(rows), 1)
	equal(rows[0].ServiceID, "f-v1")
	entries, _, err := c.Health().Service("filtered", "", false, with(`Checks.Status != passing and Service.Meta["version"] == "v1"`))
	must(err)
	equal(len(entries), 1)
	found, _, err := c.Health().Checks("filtered", with(`"f-v2" in ServiceID`))
	must(err)
	equal(len(found), 1)
	local, err := c.Agent().ServicesWithFilter(`ID matches "^f-v[12]$"`)
	must(err)
	equal(len(local), 2)
	localChecks, err := c.Agent().ChecksWithFilter(`ServiceName == "filtered" and Status == "passing"`)
	must(err)
	equal(len(localChecks), 1)
}

func filterErrors(c *api.Client) {
	_, _, err := c.Catalog().Nodes(&api.QueryOptions{Filter: "Nothing == x"})
	refused(err, "Unexpected response code: 400 (Failed to create boolean expression evaluator: ")
}

func kvPutGet(c *api.Client) {
	missing, meta, err := c.KV().Get("absent", nil)
	must(err)
	that("no pair, but an index", missing == nil && meta.LastIndex > 0)
	value := make([]byte, 256)
	for i := range value {
		value[i] = byte(i)
	}
	_, err = c.KV().Put(&api.KVPair{Key: "put get/ü+%2F", Value: value, Flags: 1<<64 - 1}, nil)
	must(err)
	pair, meta, err := c.KV().Get("put get/ü+%2F", nil)
	must(err)
	equal(pair.Key, "put get/ü+%2F")
	that("the value is the same", bytes.Equal(pair.Value, value))
	equal(pair.Flags, uint64(1<<64-1))
	equal(pair.ModifyIndex, meta.LastIndex)
	_, err = c.KV().Put(&api.KVPair{Key: "big", Value: make([]byte, 512*1024+1)}, nil)
	refused(err, "413")
}

func kvCAS(c *api.Client) {
	cas := func(index uint64, value string) bool {
		done, _, err := c.KV().CAS(&api.KVPair{Key: "cas", Value: []byte(value), ModifyIndex: index}, nil)
		must(err)
		return done
	}
	that("a new key is made", cas(0, "1"))
	that("only once", !cas(0, "2"))
	pair, _, err := c.KV().Get("cas", nil)
	must(err)
	that("the right index writes", cas(pair.ModifyIndex, "2"))
	that("the old index doesn't", !cas(pair.ModifyIndex, "3"))
	done, _, err := c.KV().DeleteCAS(pair, nil)
	must(err)
	that("nor does it delete", !done)
	pair, _, err = c.KV().Get("cas", nil)
	must(err)
	equal(string(pair.Value), "2")
	done, _, err = c.KV().DeleteCAS(pair, nil)
	must(err)
	that("the right one deletes", done)
}

func kvPrefix(c *api.Client) {
	for _, key := range []string{"prefix/a", "prefix/b/c", "prefixed"} {
		_, err := c.KV().Put(&api.KVPair{Key: key, Value: []byte(key)}, nil)
		must(err)
	}
	pairs, _, err := c.KV().List("prefix/", nil)
	must(err)
	equal(len(pairs), 2)
	keys, _, err := c.KV().Keys("prefix/", "/", nil)
	must(err)
	equal(keys, []string{"prefix/a", "prefix/b/"})
	_, err = c.KV().DeleteTree("prefix/", nil)
	must(err)
	keys, _, err = c.KV().Keys("prefix", "", nil)
	must(err)
	equal(keys, []string{"prefixed"})
	none, _, err := c.KV().List("prefix/", nil)
	must(err)
	equal(len(none), 0)
}

func queryMeta(c *api.Client) {
	for _, options := range []*api.QueryOptions{nil, {RequireConsistent: true}, {AllowStale: true}} {
		_, meta, err := c.Catalog().Services(options)
		must(err)
		that("the leader is known", meta.KnownLeader)
		that("there is an index", meta.LastIndex > 0)
		equal(meta.LastContact, time.Duration(0))
	}
	_, _, err := c.Catalog().Services(&api.QueryOptions{RequireConsistent: true, AllowStale: true})
	refused(err, "Cannot specify ?stale with ?consistent, conflicting semantics.")
}

func errors(c *api.Client) {
	_, _, err := c.KV().Get("x", &api.QueryOptions{Datacenter: "elsewhere"})
	refused(err, "Unexpected response code: 500 (No path to datacenter")
	err = c.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "any", Address: "0.0.0.0"})
	refused(err, "Invalid service address")
	err = c.Agent().ServiceRegister(&api.AgentServiceRegistration{})
	refused(err, "Missing service name")
	err = c.Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "script", Check: &api.AgentServiceCheck{Args: []string{"true"}, Interval: "10s"},
	})
	refused(err, "Scripts are disabled on this agent")
	_, _, err = c.ACL().TokenReadSelf(nil)
	that("a call of a later issue is refused, not hung", err != nil)
}

func caRoots(c *api.Client) {
	ofAgent, _, err := c.Agent().ConnectCARoots(nil)
	must(err)
	that("a root is active", ofAgent.ActiveRootID != "" && len(ofAgent.Roots) > 0)
	roots, _, err := c.Connect().CARoots(nil)
	must(err)
	equal(roots.ActiveRootID, ofAgent.ActiveRootID)
	that("it is a certificate", strings.HasPrefix(roots.Roots[0].RootCertPEM, "-----BEGIN CERTIFICATE-----"))
}

func blockingKV(c *api.Client) {
	put := func(key, value string) {
		_, err := c.KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, nil)
		must(err)
	}
	put("block/one", "0")
	got := wakesOnlyFor(
		func(o *api.QueryOptions) (any, *api.QueryMeta, error) { return c.KV().Get("block/one", o) },
		func() { put("block/one/below", "x"); put("block/two", "x"); put("block/one", "0") },
		func() { put("block/one", "1") },
	)
	equal(string(got.(*api.KVPair).Value), "1")
}

func blockingKVPrefix(c *api.Client) {
	for _, key := range []string{"under/a", "under/b"} {
		_, err := c.KV().Put(&api.KVPair{Key: key}, nil)
		must(err)
	}
	got := wakesOnlyFor(
		func(o *api.QueryOptions) (any, *api.QueryMeta, error) { return c.KV().List("under/", o) },
		func() {
			_, err := c.KV().Put(&api.KVPair{Key: "underneath"}, nil)
			must(err)
		},
		func() {
			_, err := c.KV().Delete("under/a", nil)
			must(err)
		},
	)
	equal(len(got.(api.KVPairs)), 1)
}

func blockingCatalogService(c *api.Client) {
	register(c, &api.AgentServiceRegistration{ID: "watched-1", Name: "watched"})
	got := wakesOnlyFor(
		func(o *api.QueryOptions) (any, *api.QueryMeta, error) { return c.Catalog().Service("watched", "", o) },
		func() {
			register(c, &api.AgentServiceRegistration{Name: "unwatched"})
			register(c, &api.AgentServiceRegistration{ID: "watched-1", Name: "watched"})
		},
		func() { register(c, &api.AgentServiceRegistration{ID: "watched-2", Name: "watched"}) },
	)
	equal(len(got.([]*api.CatalogService)), 2)
}

func blockingHealthService(c *api.Client) {
	for _, name := range []string{"well", "unwell"} {
		register(c, &api.AgentServiceRegistration{Name: name, Check: ttl()})
		must(c.Agent().PassTTL("service:"+name, ""))
	}
	got := wakesOnlyFor(
		func(o *api.QueryOptions) (any, *api.QueryMeta, error) { return c.Health().Service("well", "", true, o) },
		func() {
			must(c.Agent().FailTTL("service:unwell", ""))
			must(c.Agent().PassTTL("service:well", ""))
		},
		func() { must(c.Agent().FailTTL("service:well", "")) },
	)
	equal(len(got.([]*api.ServiceEntry)), 0)
}

// The agent's read of one service blocks on the hash of its content instead of an index.
func blockingServiceHash(c *api.Client) {
	register(c, &api.AgentServiceRegistration{Name: "hashed", Port: 1})
	before, _, err := c.Agent().Service("hashed", nil)
	must(err)
	answered := make(chan int, 1)
	go func() {
		options := &api.QueryOptions{WaitHash: before.ContentHash, WaitTime: 30 * time.Second}
		if after, _, err := c.Agent().Service("hashed", options); err == nil {
			answered <- after.Port
		}
	}()
	register(c, &api.AgentServiceRegistration{Name: "unhashed"})
	select {
	case <-answered:
		fail("woken by another service")
	case <-time.After(quiet):
	}
	register(c, &api.AgentServiceRegistration{Name: "hashed", Port: 2})
	select {
	case port := <-answered:
		equal(port, 2)
	case <-time.After(soon):
		fail("not woken by its own change")
	}
}

// The client's own loop of blocking queries: its handler runs once for each change, never for others.
func watchPlan(c *api.Client) {
	register(c, &api.AgentServiceRegistration{ID: "planned-1", Name: "planned"})
	plan, err := watch.Parse(map[string]any{"type": "service", "service": "planned"})
	must(err)
	sizes := make(chan int, 16)
	plan.HybridHandler = func(_ watch.BlockingParamVal, found any) { sizes <- len(found.([]*api.ServiceEntry)) }
	go func() { _ = plan.RunWithClientAndHclog(c, nil) }()
	defer plan.Stop()
	next := func(within time.Duration) int {
		select {
		case size := <-sizes:
			return size
		case <-time.After(within):
			return -1
		}
	}
	equal(next(soon), 1)
	register(c, &api.AgentServiceRegistration{Name: "unplanned"})
	equal(next(quiet), -1)
	register(c, &api.AgentServiceRegistration{ID: "planned-2", Name: "planned"})
	equal(next(soon), 2)
	equal(next(quiet), -1)
}
