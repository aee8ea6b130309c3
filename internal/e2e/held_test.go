//go:build linux

package e2e

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

var long = flag.Bool("long", false, "also the tests that take minutes")

const (
	// holdTTL is how long sessions are kept where Redis is held.
	holdTTL = 5 * time.Second
	// lostFrom is from when on a hold costs sessions no time at all.
	lostFrom = 5100 * time.Millisecond
	// backWithin is how soon after Redis answers again all is served.
	backWithin = 2 * time.Second
)

// parkedUntil is the deadline of a user's only session, on the awake clock. The
// session has to be parked.
func parkedUntil(t testing.TB, rdb redis.UniversalClient, user string) (ms int64, parked bool) {
	t.Helper()
	fields, err := rdb.HGetAll(t.Context(), userKey(rdb, user)).Result()
	if err != nil {
		t.Fatal(err)
	}
	for field, value := range fields {
		if strings.HasPrefix(field, "s:") {
			ms, err := strconv.ParseInt(strings.Split(value, "\x00")[2], 10, 64)
			return ms, err == nil
		}
	}
	return 0, false
}

// unshaken makes sure that no gateway was given up.
func unshaken(t testing.TB, gates ...*gateway) {
	t.Helper()
	for i, g := range gates {
		if n := g.Metric("roomgate_gateway_incarnations_total"); n != 1 {
			t.Errorf("gateway %d has begun %v times", i, n)
		}
	}
}

// A Redis that stands still for whatever time costs nobody their place: what is
// asked meanwhile fails in time, no connection ends, no gateway is given up, and
// a session that is to come back has as long for it as it had. Only rooms end
// when their time has come on Redis's clock.
func TestRedisHeld(t *testing.T) {
	t.Parallel()
	holds := []time.Duration{time.Second, lostFrom, 12 * time.Second}
	if *long {
		holds = append(holds, time.Minute)
	}
	for _, hold := range holds {
		t.Run(hold.String(), func(t *testing.T) {
			t.Parallel()
			server, rdb := anyRedis(t)
			a, b := startPair(t, server.Addr(), fmt.Sprintf("--session-ttl=%v", holdTTL), "--log-ttl=5m", "--rate-limits=false")
			ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
			bo.enter("R")
			ana.enter("R")
			bo.until("R +ana 2")
			// $few has little time left when Redis is held, the others all of it.
			few, full, back := enroll(a, t, "few"), enroll(b, t, "full"), connect(t, a.URL())
			session := back.login(`{"userID":"back"}`).SessionID
			few.enter("R")
			full.enter("R")
			known := back.enter("R").Position
			for _, w := range []*wire{ana, bo} {
				w.until("R +back 5")
			}
			book, short, lasting := follow(t, rdb, "R"), follow(t, rdb, "SHORT"), follow(t, rdb, "LASTING")
			few.drop()
			var fewUntil int64
			eventually(t, "few to be parked", func() (parked bool) {
				fewUntil, parked = parkedUntil(t, rdb, "few")
				return parked
			})
			during(t, rdb, holdTTL/2)
			full.drop()
			back.drop()
			var fullUntil int64
			eventually(t, "the others to be parked", func() bool {
				_, parked := parkedUntil(t, rdb, "back")
				var p bool
				fullUntil, p = parkedUntil(t, rdb, "full")
				return parked && p
			})
			// Rooms without members: one ends while Redis is held, one after that.
			ends := map[string]int64{}
			for room, delay := range map[string]int{"SHORT": 1, "LASTING": int(hold.Seconds()) + 2} {
				ana.ask(protocol.MethodEnterRoom, fmt.Sprintf(`{"roomInfo":{"roomID":%q},"config":{"roomDestroyDelayTime":%d}}`, room, delay), nil)
				ana.ask(protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%q}`, room), nil)
				end, err := rdb.HGet(t.Context(), roomKey(rdb, "room", room), "deadline").Int64()
				if err != nil {
					t.Fatal(err)
				}
				ends[room] = end
				ana.until(room + " disconnected success")
			}
			ana.settled()

			before := map[string]int64{"few": pausedFor(t, rdb, "few", "R"), "full": pausedFor(t, rdb, "full", "R")}
			server.Pause()
			began := time.Now()
			var slowest time.Duration
			asked := 0
			for time.Since(began) < hold {
				asked++
				at := time.Now()
				bo.send(protocol.MethodEnterRoom, fmt.Sprintf(`{"roomInfo":{"roomID":"N%d"}}`, asked))
				ana.send(protocol.MethodSendRoomMessage, textMessage("R", fmt.Sprintf("lost %d", asked)))
				// What is asked for at the end of a hold may still be served.
				events, r := bo.response()
				if time.Since(began) > hold {
					ana.response()
					break
				}
				if len(events) != 2 || r.Error == nil || r.Error.Code != protocol.CodeUnavailable {
					t.Errorf("an entry: got %v %s %v, want 6000007", events, r.Result, r.Error)
				}
				if _, r := ana.response(); r.Error == nil || r.Error.Code != protocol.CodeUnavailable {
					t.Errorf("a message: got %s %v, want 6000007", r.Result, r.Error)
				}
				slowest = max(slowest, time.Since(at))
			}
			held := time.Since(began)
			if slowest > 3*time.Second { // the timeout is 1 s
				t.Errorf("an answer took %v, want the timeout of 1 s", slowest)
			}

			server.Resume()
			answers := time.Now()
			for room, w := range map[string]*wire{"BACK-A": ana, "BACK-B": bo} {
				eventually(t, "the service to be back", func() bool {
					w.send(protocol.MethodEnterRoom, fmt.Sprintf(`{"roomInfo":{"roomID":%q}}`, room))
					_, r := w.response()
					return r.Error == nil
				})
			}
			served := time.Since(answers)
			ana.say("R", "ana is back")
			bo.until("R ana: ana is back")
			bo.say("R", "bo is back")
			ana.until("R bo: bo is back")
			heard := time.Since(answers)
			if served > backWithin || heard > backWithin {
				t.Errorf("served again after %v, heard after %v, want %v", served, heard, backWithin)
			}
			for _, g := range []*gateway{a, b} {
				eventually(t, "the gateway to be ready again", g.Ready)
				// The subscription stood still as everything did, and is as good as it was.
				if _, remade := g.Said("subscription is deaf, making it anew"); remade {
					t.Error("a gateway has made its subscription anew")
				}
			}
			t.Logf("ready again after %v", time.Since(answers))
			t.Logf("held for %v: %d asked, answered in %v at most; served again after %v, heard after %v", held, asked, slowest, served, heard)

			again, resumed := resume(t, b, "back", session, at("R", known))
			if !resumed {
				t.Error("a session with time left has ended")
			}
			again.until("R bo: bo is back")
			for user, until := range map[string]int64{"few": fewUntil, "full": fullUntil} {
				at := book.eviction(user)
				if left := time.Duration(at-before[user]-until) * time.Millisecond; hold >= lostFrom && left < held {
					t.Errorf("%s was evicted %v after the deadline on Redis's clock, want %v more than in awake time", user, left, held)
				}
				late := time.Duration(at-pausedFor(t, rdb, user, "R")-until) * time.Millisecond
				t.Logf("%s was evicted %v after the deadline, in awake time", user, late)
				if late < 0 || late > lateness {
					t.Errorf("%s was evicted %v after the deadline, want 0 to %v", user, late, lateness)
				}
			}
			for room, book := range map[string]*ledger{"SHORT": short, "LASTING": lasting} {
				at := book.find("the end of "+room, func(e roomstore.Event) bool { return e.Kind == roomstore.KindDestroyed }).At
				// No sooner than its time, and no later than it can be seen to.
				if late := at - ends[room]; late < 0 || late > (held+lateness).Milliseconds() || room == "LASTING" && late > lateness.Milliseconds() {
					t.Errorf("%s ended %d ms after its deadline", room, late)
				}
			}
			for _, user := range []string{"ana", "bo", "back"} {
				if book.evicted(user) {
					t.Errorf("%s was evicted", user)
				}
			}
			for _, w := range []*wire{ana, bo} { // the connections that they had
				w.ask(protocol.MethodPing, "{}", nil)
			}
			unshaken(t, a, b)
		})
	}
}

// evicted says whether a user was evicted, as far as is known.
func (l *ledger) evicted(user string) bool {
	for _, e := range l.all() {
		if e.Kind == roomstore.KindLeft && e.User == roomstore.UserID(user) && e.Reason == roomstore.ReasonTimeout {
			return true
		}
	}
	return false
}
