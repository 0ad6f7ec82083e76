package main

import (
	"bytes"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// session makes a session that lives a minute, without a lock delay; it is gone when the check ends.
func session(c *api.Client, entry *api.SessionEntry) (id string, end func()) {
	id, _, err := c.Session().Create(entry, nil)
	must(err)
	return id, func() {
		_, err := c.Session().Destroy(id, nil)
		must(err)
	}
}

func sessions(c *api.Client) {
	id, end := session(c, nil)
	info, meta, err := c.Session().Info(id, nil)
	must(err)
	equal(info.ID, id)
	equal(info.Node, nodeName(c))
	equal(info.Behavior, api.SessionBehaviorRelease)
	equal(info.LockDelay, 15*time.Second)
	equal(info.NodeChecks, []string{"serfHealth"})
	that("the header has an index", meta.LastIndex > 0)
	end()
	info, _, err = c.Session().Info(id, nil)
	must(err)
	that("it is gone", info == nil)

	id, _, err = c.Session().CreateNoChecks(&api.SessionEntry{
		Name: "named", TTL: "60s", LockDelay: 3 * time.Second, Behavior: api.SessionBehaviorDelete,
	}, nil)
	must(err)
	renewed, _, err := c.Session().Renew(id, nil)
	must(err)
	equal(renewed.Name, "named")
	equal(renewed.LockDelay, 3*time.Second)
	equal(renewed.Behavior, api.SessionBehaviorDelete)
	equal(len(renewed.NodeChecks), 0)
	lives, err := time.ParseDuration(renewed.TTL)
	must(err)
	equal(lives, time.Minute)
	listed, _, err := c.Session().List(nil)
	must(err)
	equal(len(listed), 1)
	listed, _, err = c.Session().Node(nodeName(c), nil)
	must(err)
	equal(len(listed), 1)
	// The client's own loop renews it, and destroys it when told to end.
	done := make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- c.Session().RenewPeriodic("60s", id, nil, done) }()
	close(done)
	must(<-ended)
	renewed, _, err = c.Session().Renew(id, nil)
	must(err)
	that("it is gone", renewed == nil)
	_, _, err = c.Session().Create(&api.SessionEntry{TTL: "1s"}, nil)
	refused(err, "Invalid Session TTL")
	_, _, err = c.Session().Create(&api.SessionEntry{Node: "nobody"}, nil)
	refused(err, "Missing node registration")
	_, _, err = c.Session().Create(&api.SessionEntry{NodeChecks: []string{"nothing"}}, nil)
	refused(err, "Missing check 'nothing' registration")
}

func acquireRelease(c *api.Client) {
	one, end := session(c, &api.SessionEntry{LockDelay: time.Nanosecond})
	defer end()
	other, endOther := session(c, &api.SessionEntry{Behavior: api.SessionBehaviorDelete})
	pair := &api.KVPair{Key: "acquired", Value: []byte("one"), Flags: 7, Session: one}
	held, _, err := c.KV().Acquire(pair, nil)
	must(err)
	that("it is free", held)
	held, _, err = c.KV().Acquire(&api.KVPair{Key: "acquired", Session: other}, nil)
	must(err)
	that("it is held", !held)
	got, _, err := c.KV().Get("acquired", nil)
	must(err)
	equal(got.Session, one)
	equal(got.LockIndex, uint64(1))
	equal(got.Flags, uint64(7))
	free, _, err := c.KV().Release(pair, nil)
	must(err)
	that("it is given back", free)
	held, _, err = c.KV().Acquire(&api.KVPair{Key: "acquired", Session: other}, nil)
	must(err)
	that("it is free again", held)
	endOther()
	got, _, err = c.KV().Get("acquired", nil)
	must(err)
	that("the session took its key along", got == nil)
	held, _, err = c.KV().Acquire(pair, nil)
	must(err)
	that("for its lock delay nobody takes it", !held)
	_, _, err = c.KV().Acquire(&api.KVPair{Key: "acquired", Session: "00000000-0000-0000-0000-000000000007"}, nil)
	refused(err, "invalid session")
}

func closed(channel <-chan struct{}) func() bool {
	return func() bool {
		select {
		case <-channel:
			return true
		default:
			return false
		}
	}
}

// contend runs Lock in the background.
func contend(lock *api.Lock) <-chan (<-chan struct{}) {
	got := make(chan (<-chan struct{}), 1)
	go func() {
		leads, err := lock.Lock(nil)
		if err == nil {
			got <- leads
		}
	}()
	return got
}

func lockHandedOn(c *api.Client) {
	first, err := c.LockKey("lock/handed")
	must(err)
	second, err := c.LockKey("lock/handed")
	must(err)
	leads, err := first.Lock(nil)
	must(err)
	that("it leads", leads != nil && !closed(leads)())
	_, err = first.Lock(nil)
	equal(err, api.ErrLockHeld)
	waiting := contend(second)
	select {
	case <-waiting:
		fail("two hold it")
	case <-time.After(quiet):
	}
	must(first.Unlock())
	eventually("the first is told", closed(leads))
	equal(first.Unlock(), api.ErrLockNotHeld)
	select {
	case leads = <-waiting:
	case <-time.After(soon):
		fail("it was not handed on")
	}
	equal(first.Destroy(), api.ErrLockInUse)
	must(second.Unlock())
	must(first.Destroy())
	pair, _, err := c.KV().Get("lock/handed", nil)
	must(err)
	that("the key is gone", pair == nil)
}

func lockLost(c *api.Client) {
	id, end := session(c, &api.SessionEntry{LockDelay: time.Nanosecond})
	lock, err := c.LockOpts(&api.LockOptions{Key: "lock/lost", Session: id})
	must(err)
	leads, err := lock.Lock(nil)
	must(err)
	end()
	eventually("who held it is told", closed(leads))
	equal(lock.Unlock(), nil)

	// Who tries once gives up.
	held, err := c.LockKey("lock/tried")
	must(err)
	_, err = held.Lock(nil)
	must(err)
	tries, err := c.LockOpts(&api.LockOptions{Key: "lock/tried", LockTryOnce: true, LockWaitTime: 300 * time.Millisecond})
	must(err)
	leads, err = tries.Lock(nil)
	must(err)
	that("it was not free", leads == nil)
	must(held.Unlock())
	// A key that is none of a lock's is left alone.
	_, err = c.KV().Put(&api.KVPair{Key: "lock/other", Flags: 1}, nil)
	must(err)
	other, err := c.LockKey("lock/other")
	must(err)
	_, err = other.Lock(nil)
	equal(err, api.ErrLockConflict)
}

func semaphore(c *api.Client) {
	another := func() *api.Semaphore {
		semaphore, err := c.SemaphorePrefix("semaphore/two", 2)
		must(err)
		return semaphore
	}
	one, two, three := another(), another(), another()
	leads, err := one.Acquire(nil)
	must(err)
	_, err = two.Acquire(nil)
	must(err)
	_, err = one.Acquire(nil)
	equal(err, api.ErrSemaphoreHeld)
	waiting := acquire(three)
	select {
	case <-waiting:
		fail("three hold it")
	case <-time.After(quiet):
	}
	must(one.Release())
	eventually("who gave it back is told", closed(leads))
	select {
	case err := <-waiting:
		must(err)
	case <-time.After(soon):
		fail("it was not handed on")
	}
	equal(one.Release(), api.ErrSemaphoreNotHeld)
	equal(one.Destroy(), api.ErrSemaphoreInUse)
	must(two.Release())
	must(three.Release())
	must(one.Destroy())
	three, err = c.SemaphorePrefix("semaphore/two", 3)
	must(err)
	_, err = three.Acquire(nil)
	must(err)
	bad, err := c.SemaphorePrefix("semaphore/two", 2)
	must(err)
	_, err = bad.Acquire(nil)
	that("another limit is a conflict", err != nil && strings.Contains(err.Error(), "limit conflict"))
	must(three.Release())
}

// acquire runs Acquire in the background.
func acquire(semaphore *api.Semaphore) <-chan error {
	got := make(chan error, 1)
	go func() {
		_, err := semaphore.Acquire(nil)
		got <- err
	}()
	return got
}

func semaphoreLost(c *api.Client) {
	id, end := session(c, &api.SessionEntry{Behavior: api.SessionBehaviorDelete})
	semaphore, err := c.SemaphoreOpts(&api.SemaphoreOptions{Prefix: "semaphore/lost", Limit: 1, Session: id})
	must(err)
	leads, err := semaphore.Acquire(nil)
	must(err)
	end()
	eventually("who held it is told", closed(leads))
}

func txn(c *api.Client) {
	id, end := session(c, nil)
	defer end()
	done, answer, _, err := c.KV().Txn(api.KVTxnOps{
		{Verb: api.KVCheckNotExists, Key: "txn/a"},
		{Verb: api.KVLock, Key: "txn/a", Value: []byte("held"), Session: id},
		{Verb: api.KVGet, Key: "txn/a"},
		{Verb: api.KVSet, Key: "txn/b", Value: []byte("set"), Flags: 3},
		{Verb: api.KVGetTree, Key: "txn/"},
		{Verb: api.KVGetOrEmpty, Key: "txn/none"},
	}, nil)
	must(err)
	that("it is done", done)
	equal(len(answer.Errors), 0)
	equal(len(answer.Results), 6)
	that("gets have values", bytes.Equal(answer.Results[1].Value, []byte("held")) && answer.Results[0].Value == nil)
	equal(answer.Results[0].Session, id)
	equal(answer.Results[4].Flags, uint64(3))
	equal(answer.Results[5].Key, "txn/none")

	done, answer, _, err = c.KV().Txn(api.KVTxnOps{
		{Verb: api.KVSet, Key: "txn/b", Value: []byte("lost")},
		{Verb: api.KVCheckIndex, Key: "txn/a", Index: 1},
		{Verb: api.KVGet, Key: "txn/none"},
		{Verb: api.KVCAS, Key: "txn/b", Index: 1},
	}, nil)
	must(err)
	that("it is rolled back", !done)
	var what []string
	for _, failed := range answer.Errors {
		what = append(what, failed.What)
	}
	equal(len(what), 3)
	that("the index check is told", strings.HasPrefix(what[0], `failed index check for key "txn/a", current modify index `))
	equal(what[1], `key "txn/none" doesn't exist`)
	equal(what[2], `failed to set key "txn/b", index is stale`)
	equal(answer.Errors[0].OpIndex, 1)
	pair, _, err := c.KV().Get("txn/b", nil)
	must(err)
	equal(string(pair.Value), "set")

	// Through the general endpoint, and only reading.
	done, general, _, err := c.Txn().Txn(api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVGet, Key: "txn/b"}}}, nil)
	must(err)
	that("it is done", done && len(general.Results) == 1 && string(general.Results[0].KV.Value) == "set")
	var many api.KVTxnOps
	for len(many) <= 128 {
		many = append(many, &api.KVTxnOp{Verb: api.KVGet, Key: "txn/b"})
	}
	_, _, _, err = c.KV().Txn(many, nil)
	refused(err, "Transaction contains too many operations (129 > 128)")
	done, _, _, err = c.KV().Txn(api.KVTxnOps{
		{Verb: api.KVUnlock, Key: "txn/a", Session: id},
		{Verb: api.KVDeleteTree, Key: "txn/"},
	}, nil)
	must(err)
	that("it is done", done)
}
