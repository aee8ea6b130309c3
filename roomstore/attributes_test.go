package roomstore_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/roomgate/roomgate/roomstore"
)

func valuesOf(attributes []roomstore.Attribute) map[string]string {
	values := map[string]string{}
	for _, a := range attributes {
		values[a.Key] = a.Value
	}
	return values
}

// attributes gives what is stored of a room's attributes, by key.
func (w *world) attributes(room roomstore.RoomID) (all []roomstore.Attribute) {
	w.Helper()
	stored := w.rdb.HGetAll(w.ctx(), w.part(room)+"attrs:"+string(room)).Val()
	for _, key := range slices.Sorted(maps.Keys(stored)) {
		owner, rest, _ := strings.Cut(stored[key], "\x00")
		leaves, value, ok := strings.Cut(rest, "\x00")
		if !ok || leaves != "0" && leaves != "1" {
			w.Fatalf("attribute %q is stored as %q", key, stored[key])
		}
		all = append(all, roomstore.Attribute{Key: key, Value: value, Owner: roomstore.UserID(owner), Leaves: leaves == "1"})
	}
	return all
}

// owned renders attributes: "key=value owner", with "!" if it goes with its owner.
func owned(attributes []roomstore.Attribute) string {
	var all []string
	for _, a := range attributes {
		mark := ""
		if a.Leaves {
			mark = "!"
		}
		all = append(all, fmt.Sprintf("%s=%s %s%s", a.Key, a.Value, a.Owner, mark))
	}
	return strings.Join(all, ", ")
}

// changes makes a change of room a from words: "k=v" sets, "-k" deletes, "force",
// "own" and "leaves" are flags, "key:7" is the requestKey.
func changes(words string) roomstore.AttributeChange {
	c := roomstore.AttributeChange{Room: "a", MaxKeys: 4, MaxBytes: 20}
	for _, word := range strings.Fields(words) {
		key, value, sets := strings.Cut(word, "=")
		request, isKey := strings.CutPrefix(word, "key:")
		switch {
		case sets:
			c.Operations = append(c.Operations, roomstore.AttributeOperation{Key: key, Value: value})
		case isKey:
			c.RequestKey = roomstore.RequestKey(request)
		case word == "force":
			c.Force = true
		case word == "own":
			c.UpdateOwner = true
		case word == "leaves":
			c.Leaves = true
		default:
			c.Operations = append(c.Operations, roomstore.AttributeOperation{Key: word[1:], Delete: true})
		}
	}
	return c
}

func changeAs(id roomstore.SessionID, words string) func(w *world) (string, error) {
	return func(w *world) (string, error) {
		at, refused, err := w.store.ChangeAttributes(w.ctx(), w.s(id), changes(words))
		if err != nil {
			return "", err
		}
		w.hear()
		return strings.TrimSpace(w.at(at) + " " + strings.Join(refused, " ")), nil
	}
}

func changed(id roomstore.SessionID, words string) func(w *world) {
	return func(w *world) {
		w.Helper()
		_, err := changeAs(id, words)(w)
		w.must(err)
	}
}

func has(attributes string) func(w *world) {
	return func(w *world) {
		w.Helper()
		if got := owned(w.attributes("a")); got != attributes {
			w.Errorf("the room has %q, want %q", got, attributes)
		}
	}
}

// and is do, then a look at what has come of it.
func and(do func(w *world) (string, error), look func(w *world)) func(w *world) (string, error) {
	return func(w *world) (string, error) {
		w.Helper()
		got, err := do(w)
		look(w)
		return got, err
	}
}

// Whose attributes are, who may change them, and what is announced of it.
func TestStore_ChangeAttributes(t *testing.T) {
	both := given(inRoom("ana", "a"), inRoom("ben", "a"))
	having := func(words string) func(w *world) { return given(both, changed("a1", words)) }
	run(t, []row{
		{
			name: "new", given: both, do: and(changeAs("a1", "k=v l="), has("k=v ana, l= ana")),
			want: "#1:3", heard: []string{"a#1:3 attributes ana/a1 +k=v ana +l= ana"},
		},
		{
			name: "its own", given: having("k=v l=1"), do: and(changeAs("a1", "l=2 leaves"), has("k=v ana, l=2 ana!")),
			want: "#1:4", heard: []string{"a#1:4 attributes ana/a1 +l=2 ana!"},
		},
		{name: "another's alone", given: having("k=v"), do: changeAs("b1", "k=w"), err: roomstore.ErrLocked},
		{name: "another's alone, deleted", given: having("k=v"), do: changeAs("b1", "-k"), err: roomstore.ErrLocked},
		{
			name: "another's among others", given: having("k=v"), do: and(changeAs("b1", "k=w k=x l=1"), has("k=v ana, l=1 ben")),
			want: "#1:4 k", heard: []string{"a#1:4 attributes ben/b1 +l=1 ben"},
		},
		{
			name: "another's, and none of the rest is there", given: having("k=v"), do: and(changeAs("b1", "-k -l"), has("k=v ana")),
			want: "#1:3 k", heard: []string{},
		},
		{
			name: "another's, by force", given: having("k=v leaves"), do: and(changeAs("b1", "k=w force"), has("k=w ana")),
			want: "#1:4", heard: []string{"a#1:4 attributes ben/b1 +k=w ana"},
		},
		{
			name: "another's, by force, for good", given: having("k=v"), do: and(changeAs("b1", "k=w force own leaves"), has("k=w ben!")),
			want: "#1:4", heard: []string{"a#1:4 attributes ben/b1 +k=w ben!"},
		},
		{name: "another's, for good, without force", given: having("k=v"), do: changeAs("b1", "k=w own"), err: roomstore.ErrLocked},
		{
			name: "deleted", given: having("k=v l=1"), do: and(changeAs("a1", "-l -m"), has("k=v ana")),
			want: "#1:4", heard: []string{"a#1:4 attributes ana/a1 -l"},
		},
		{
			name: "deleted by force", given: having("k=v"), do: and(changeAs("b1", "-k force"), has("")),
			want: "#1:4", heard: []string{"a#1:4 attributes ben/b1 -k"},
		},
		{
			name: "a batch", given: having("k=v l=1"), do: and(changeAs("a1", "m=1 -k l=2 -m n=1 -n n=2"), has("l=2 ana, n=2 ana")),
			want: "#1:4", heard: []string{"a#1:4 attributes ana/a1 +l=2 ana +n=2 ana -k"},
		},
		{
			name: "deleted and set again is the user's own", given: having("k=v"), do: and(changeAs("b1", "force -k k=w"), has("k=w ben")),
			want: "#1:4", heard: []string{"a#1:4 attributes ben/b1 +k=w ben"},
		},
		{name: "set and deleted", given: both, do: and(changeAs("a1", "k=v -k"), has("")), want: "#1:2", heard: []string{}},
		{name: "nothing", given: both, do: changeAs("a1", ""), want: "#1:2", heard: []string{}},
		{name: "too many keys", given: having("k=v l= m="), do: and(changeAs("b1", "n= o="), has("k=v ana, l= ana, m= ana")), err: roomstore.ErrKeys},
		{name: "as many as may be", given: having("k=v l= m="), do: changeAs("b1", "n="), want: "#1:4", heard: []string{"a#1:4 attributes ben/b1 +n= ben"}},
		{
			name: "one for another", given: having("k= l= m= n="), do: changeAs("a1", "o= -k"),
			want: "#1:4", heard: []string{"a#1:4 attributes ana/a1 +o= ana -k"},
		},
		{name: "too long", given: having("k=1234567890"), do: and(changeAs("b1", "l=123456789"), has("k=1234567890 ana")), err: roomstore.ErrBytes},
		{
			name: "as long as may be", given: having("k=1234567890"), do: changeAs("b1", "l=12345678"),
			want: "#1:4", heard: []string{"a#1:4 attributes ben/b1 +l=12345678 ben"},
		},
		{
			name: "again", given: having("k=v"), want: "#1:4 k", heard: []string{"a#1:4 attributes ben/b1 +l=1 ben"},
			do: func(w *world) (string, error) {
				changed("b1", "key:5 k=w l=1")(w)
				before := w.dump()
				defer func() { w.unchanged(before) }()
				return changeAs("b1", "key:5 k=w l=1")(w)
			},
		},
		{
			name: "the key of another request", given: given(both, func(w *world) {
				_, err := w.store.Send(w.ctx(), w.s("a1"), roomstore.Message{Room: "a", RequestKey: "5", Payload: "x"})
				w.must(err)
			}),
			do: changeAs("a1", "key:5 k=v"), err: roomstore.ErrMisused,
		},
		{name: "not in it", given: given(inRoom("ana", "a"), loggedIn("ben")), do: changeAs("b1", "k=v"), err: roomstore.ErrNotMember},
		{name: "no such room", given: loggedIn("ana"), do: changeAs("a1", "k=v"), err: roomstore.ErrNoRoom},
		{name: "older generation", given: given(inRoom("ana", "a"), older("a1")), do: changeAs("old", "k=v"), err: roomstore.ErrFenced},
		{name: "parked", given: given(inRoom("ana", "a"), parked("a1")), do: changeAs("a1", "k=v"), err: roomstore.ErrFenced},
	})
}

// What the creator of a room gives it is the creator's, and stays.
func TestStore_ChangeAttributes_created(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		_, err := w.try(ana(w), roomstore.EntryRequest{Room: "a", Mode: roomstore.ModeCreate, Attributes: map[string]string{"k": "v"}})
		w.must(err)
		w.enter(ben(w), "a")
		has("k=v ana")(w)
		_, _, err = w.store.ChangeAttributes(w.ctx(), w.s("b1"), changes("k=w"))
		w.refused(err, roomstore.ErrLocked)
		w.leave(w.s("a1"), "a")
		has("k=v ana")(w)
	})
}

// Whatever way an owner takes out of the room, its attributes that go with it go, and
// the others hear first of it and then of them. Its place going to another device
// is no way out.
func TestStore_bequests(t *testing.T) {
	ways := map[string]struct {
		reason string
		go_    func(w *world)
	}{
		"leave":  {"left", func(w *world) { w.leave(w.s("a1"), "a") }},
		"switch": {"left", func(w *world) { switchTo(w, "a1", "a", "b") }},
		"leave all": {"left", func(w *world) {
			_, err := w.store.LeaveAll(w.ctx(), w.s("a1"), "", false)
			w.must(err)
		}},
		"logout": {"left", func(w *world) {
			_, err := w.store.LeaveAll(w.ctx(), w.s("a1"), "", true)
			w.must(err)
		}},
		"kick": {"kicked", func(w *world) { w.must(w.store.Kick(w.ctx(), "a", "ana", "")) }},
		"eviction": {"timeout", func(w *world) {
			w.park(w.s("a1"), 0)
			w.sweep("n1")
		}},
		"too many devices": {"kicked", func(w *world) { w.loginOn("n1", "ana", "a2", ""); w.loginOn("n1", "ana", "a3", "") }},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			contract(t, roomstore.Config{MaxDevices: 2}, func(w *world) {
				w.enter(ana(w), "a")
				w.enter(ben(w), "a")
				changed("a1", "k=1 l=2 leaves")(w)
				changed("a1", "m=3")(w)
				changed("b1", "n=4 leaves")(w)
				set := func(leaves bool, users ...roomstore.UserID) {
					_, _, err := w.store.SetMemberAttributes(w.ctx(), w.s("b1"), roomstore.MemberAttributesChange{
						Room: "a", Users: users, Attributes: []roomstore.Pair{{Key: "x" + fmt.Sprint(leaves), Value: "1"}}, Leaves: leaves,
						MaxUsers: 9, MaxPairs: 9, MaxBytes: 99,
					})
					w.must(err)
				}
				set(true, "ana", "ben")
				set(false, "ana")
				w.forget()
				way.go_(w)
				w.hear()
				var got []string
				for _, said := range w.said {
					if strings.HasPrefix(said, "a#") {
						got = append(got, said)
					}
				}
				w.said = nil
				want := []string{"a#1:8 " + way.reason + " ana/a1 n=1", "a#1:9 attributes ana/ -k -l"}
				if d := cmp.Diff(want, got); d != "" {
					w.Errorf("published (-want +got):\n%s", d)
				}
				has("m=3 ana, n=4 ben!")(w)
				w.enter(w.login("ana", "a9"), "a")
				if got := w.members("ana", "ben"); got != "ana xfalse=1, ben xtrue=1" {
					w.Errorf("members have %q", got)
				}
				h, err := w.store.Catchup(w.ctx(), "a", roomstore.Position{Epoch: w.epoch("a"), Seq: 7})
				w.must(err)
				if !h.Complete {
					w.Errorf("the history is not complete: %+v", h.Events)
				}
			})
		})
	}
	t.Run("another device", func(t *testing.T) {
		contract(t, roomstore.Config{}, func(w *world) {
			w.enter(ana(w), "a")
			changed("a1", "k=1 leaves")(w)
			w.enter(w.login("ana", "a2"), "a")
			has("k=1 ana!")(w)
		})
	})
	t.Run("the last one, and the room lasts", func(t *testing.T) {
		contract(t, roomstore.Config{}, func(w *world) {
			w.create(ana(w), "a", 60)
			changed("a1", "k=1 leaves")(w)
			changed("a1", "l=1")(w)
			w.leave(w.s("a1"), "a")
			has("l=1 ana")(w)
		})
	})
}

func switchTo(w *world, id roomstore.SessionID, from, to roomstore.RoomID) {
	w.Helper()
	who := w.s(id)
	_, _, err := w.store.Switch(w.ctx(), who, from, roomstore.EntryRequest{Room: to, Mode: roomstore.ModeEnter, Data: dataOf(who.User, who.ID)})
	w.must(err)
}

// epoch is that of a room that is there.
func (w *world) epoch(room roomstore.RoomID) (epoch int64) {
	w.Helper()
	w.must(w.rdb.HGet(w.ctx(), w.part(room)+"room:"+string(room), "epoch").Scan(&epoch))
	return epoch
}

// members renders the attributes of some members of room a, as ben gets them.
func (w *world) members(users ...roomstore.UserID) string {
	w.Helper()
	_, found, err := w.store.MembersAttributes(w.ctx(), w.s("b1"), "a", users)
	w.must(err)
	return memberText(found)
}

func memberText(found []roomstore.MemberAttributes) string {
	var all []string
	for _, m := range found {
		text := string(m.User)
		for _, p := range m.Pairs {
			text += " " + p.Key + "=" + p.Value
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// setAs sets attributes of members of room a: words are "k=v", users, "stay" and
// "key:7".
func setAs(id roomstore.SessionID, words string) func(w *world) (string, error) {
	return func(w *world) (string, error) {
		c := roomstore.MemberAttributesChange{Room: "a", Leaves: true, MaxUsers: 3, MaxPairs: 3, MaxBytes: 12}
		for _, word := range strings.Fields(words) {
			key, value, sets := strings.Cut(word, "=")
			request, isKey := strings.CutPrefix(word, "key:")
			switch {
			case sets:
				c.Attributes = append(c.Attributes, roomstore.Pair{Key: key, Value: value})
			case isKey:
				c.RequestKey = roomstore.RequestKey(request)
			case word == "stay":
				c.Leaves = false
			default:
				c.Users = append(c.Users, roomstore.UserID(word))
			}
		}
		at, all, err := w.store.SetMemberAttributes(w.ctx(), w.s(id), c)
		if err != nil {
			return "", err
		}
		w.hear()
		text := w.at(at)
		for _, o := range all {
			text += " " + string(o.User)
			switch {
			case errors.Is(o.Err, roomstore.ErrNotMember):
				text += ":notin"
			case errors.Is(o.Err, roomstore.ErrUsers):
				text += ":users"
			case len(o.Refused) > 0:
				text += ":" + strings.Join(o.Refused, "/")
			}
		}
		return text, nil
	}
}

// Attributes of members are set for each, as far as that can be.
func TestStore_SetMemberAttributes(t *testing.T) {
	four := given(inRoom("ana", "a"), inRoom("ben", "a"), inRoom("cy", "a"), inRoom("dan", "a"), loggedIn("eve"))
	having := func(words string) func(w *world) {
		return given(four, func(w *world) { _, err := setAs("a1", words)(w); w.must(err) })
	}
	have := func(members string) func(w *world) {
		return func(w *world) {
			w.Helper()
			if got := w.members("ana", "ben", "cy", "dan"); got != members {
				w.Errorf("members have %q, want %q", got, members)
			}
		}
	}
	run(t, []row{
		{
			name: "of itself", given: four, do: and(setAs("a1", "k=v l= ana"), have("ana k=v l=")),
			want: "#1:5 ana", heard: []string{"a#1:5 memberattributes ana/a1 n=4 ana k=v l="},
		},
		{
			name: "of others", given: having("k=v ben"), do: and(setAs("a1", "k=w m=1 ben cy"), have("ben k=w m=1, cy k=w m=1")),
			want: "#1:6 ben cy", heard: []string{"a#1:6 memberattributes ana/a1 n=4 ben k=w m=1, cy k=w m=1"},
		},
		{
			name: "of one who is not there", given: four, do: and(setAs("a1", "k=v eve ben ghost"), have("ben k=v")),
			want: "#1:5 eve:notin ben ghost:notin", heard: []string{"a#1:5 memberattributes ana/a1 n=4 ben k=v"},
		},
		{name: "of nobody who is there", given: four, do: setAs("a1", "k=v eve"), want: "#1:4 eve:notin", heard: []string{}},
		{
			name: "too many of one", given: having("k=1 l=1 m=1 ben"), do: and(setAs("a1", "k=2 n=2 ben cy"), have("ben k=2 l=1 m=1, cy k=2 n=2")),
			want: "#1:6 ben:n cy", heard: []string{"a#1:6 memberattributes ana/a1 n=4 ben k=2, cy k=2 n=2"},
		},
		{name: "too many of all", given: having("k=1 l=1 m=1 ben"), do: setAs("a1", "n=2 ben"), err: roomstore.ErrKeys},
		{
			name: "too long for one", given: having("k=1234567890 ben"), do: and(setAs("a1", "l=12 m= ben cy"), have("ben k=1234567890 m=, cy l=12 m=")),
			want: "#1:6 ben:l cy", heard: []string{"a#1:6 memberattributes ana/a1 n=4 ben m=, cy l=12 m="},
		},
		{name: "too long for all", given: having("k=1234567890 ben"), do: setAs("a1", "l=1 ben"), err: roomstore.ErrBytes},
		{
			name: "shorter than before", given: having("k=12345678901 ben"), do: and(setAs("a1", "k=1 l=12345678 ben"), have("ben k=1 l=12345678")),
			want: "#1:6 ben", heard: []string{"a#1:6 memberattributes ana/a1 n=4 ben k=1 l=12345678"},
		},
		{
			name: "too many users", given: having("k=v ana ben"), do: and(setAs("a1", "k=w cy dan ana"), have("ana k=w, ben k=v, cy k=w")),
			want: "#1:6 cy dan:users ana", heard: []string{"a#1:6 memberattributes ana/a1 n=4 cy k=w, ana k=w"},
		},
		{name: "too many users, all of them", given: having("k=v ana ben cy"), do: setAs("a1", "k=w dan"), err: roomstore.ErrUsers},
		{
			name: "again", given: having("k=v ana ben"), want: "#1:6 cy dan:users eve:notin", heard: []string{"a#1:6 memberattributes ana/a1 n=4 cy k=w"},
			do: func(w *world) (string, error) {
				_, err := setAs("a1", "key:5 k=w cy dan eve")(w)
				w.must(err)
				before := w.dump()
				defer func() { w.unchanged(before) }()
				return setAs("a1", "key:5 k=w cy dan eve")(w)
			},
		},
		{name: "not in it", given: four, do: setAs("e1", "k=v ana"), err: roomstore.ErrNotMember},
		{name: "no such room", given: loggedIn("ana"), do: setAs("a1", "k=v ana"), err: roomstore.ErrNoRoom},
		{name: "parked", given: given(inRoom("ana", "a"), parked("a1")), do: setAs("a1", "k=v ana"), err: roomstore.ErrFenced},
	})
}

// A walk over the pages gives everybody who is there and has attributes, once.
func TestStore_MemberAttributesList(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.enter(ben(w), "a")
		var want []string
		for i := range 12 {
			user := roomstore.UserID(fmt.Sprintf("u%02d", 11-i))
			w.enter(w.login(user, roomstore.SessionID(user)), "a")
			if i%4 == 3 {
				continue
			}
			_, _, err := w.store.SetMemberAttributes(w.ctx(), w.s("b1"), roomstore.MemberAttributesChange{
				Room: "a", Users: []roomstore.UserID{user}, Attributes: []roomstore.Pair{{Key: "\x00", Value: "0:\x00" + string(user)}},
				MaxUsers: 99, MaxPairs: 9, MaxBytes: 99,
			})
			w.must(err)
			if i == 0 {
				w.leave(w.s(roomstore.SessionID(user)), "a") // it keeps them, and is not there
				continue
			}
			want = append(want, fmt.Sprintf("%s \x00=0:\x00%s", user, user))
		}
		slices.Sort(want)
		for _, count := range []int{1, 2, 3, 8, 9, 100} {
			var got []string
			for after, pages := roomstore.UserID(""), 0; ; pages++ {
				at, page, more, err := w.store.MemberAttributesList(w.ctx(), w.s("b1"), "a", after, count)
				w.must(err)
				if at.Epoch != w.epoch("a") || len(page) > count || pages > len(want) {
					w.Fatalf("%d per page: at %+v %d", count, at, len(page))
				}
				if len(page) > 0 {
					got = append(got, strings.Split(memberText(page), ", ")...)
				}
				if !more {
					break
				}
				after = page[len(page)-1].User
			}
			if d := cmp.Diff(want, got); d != "" {
				w.Errorf("%d per page (-want +got):\n%s", count, d)
			}
		}
	})
}

// Whatever users do with attributes, come and go, the room has what a model of
// it has, and the events lead from one to the other.
func TestStore_attributes_model(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.enter(w.login("keeper", "keeper"), "a")
		users := []roomstore.UserID{"ana", "ben", "cy"}
		for _, u := range users {
			w.login(u, roomstore.SessionID(u))
		}
		checks := 0
		model, heardOf, in := map[string]roomstore.Attribute{}, map[string]roomstore.Attribute{}, map[roomstore.UserID]bool{}
		rapid.Check(w.T, func(r *rapid.T) {
			if checks++; checks > 20 {
				return // each world has its share
			}
			for range rapid.IntRange(1, 20).Draw(r, "steps") {
				u := rapid.SampledFrom(users).Draw(r, "user")
				who := w.s(roomstore.SessionID(u))
				switch {
				case !in[u]:
					w.enter(who, "a")
					in[u] = true
				case rapid.IntRange(0, 5).Draw(r, "leaves") == 0:
					w.leave(who, "a")
					in[u] = false
					maps.DeleteFunc(model, func(_ string, a roomstore.Attribute) bool { return a.Owner == u && a.Leaves })
				default:
					c := roomstore.AttributeChange{
						Room: "a", MaxKeys: 3, MaxBytes: 12, Force: rapid.Bool().Draw(r, "force"),
						UpdateOwner: rapid.Bool().Draw(r, "own"), Leaves: rapid.Bool().Draw(r, "leaves"),
					}
					for range rapid.IntRange(1, 4).Draw(r, "operations") {
						o := roomstore.AttributeOperation{Key: rapid.SampledFrom([]string{"", "k", "\x00", "l:"}).Draw(r, "key")}
						if o.Delete = rapid.Bool().Draw(r, "delete"); !o.Delete {
							o.Value = rapid.SampledFrom([]string{"", "1:", "\x00\x00", "12345"}).Draw(r, "value")
						}
						c.Operations = append(c.Operations, o)
					}
					next, refused, want := expected(model, u, c)
					_, got, err := w.store.ChangeAttributes(w.ctx(), who, c)
					if !errors.Is(err, want) || err == nil && !slices.Equal(got, refused) {
						r.Fatalf("%+v by %s: %v %q, want %v %q", c, u, err, got, want, refused)
					}
					model = next
				}
				var stored []roomstore.Attribute
				for _, k := range slices.Sorted(maps.Keys(model)) {
					stored = append(stored, model[k])
				}
				if d := cmp.Diff(stored, w.attributes("a")); d != "" {
					r.Fatalf("stored (-want +got):\n%s", d)
				}
			}
			w.hear()
			for _, e := range w.events {
				for _, a := range e.Attributes.Set {
					heardOf[a.Key] = a
				}
				for _, k := range e.Attributes.Deleted {
					if _, ok := heardOf[k]; !ok {
						r.Fatalf("%q is deleted, and was not there", k)
					}
					delete(heardOf, k)
				}
			}
			w.events = nil
			if d := cmp.Diff(model, heardOf); d != "" {
				r.Fatalf("as announced (-want +got):\n%s", d)
			}
		})
	})
}

// expected is what a change has to come to.
func expected(model map[string]roomstore.Attribute, u roomstore.UserID, c roomstore.AttributeChange) (map[string]roomstore.Attribute, []string, error) {
	size := func(m map[string]roomstore.Attribute) (n int) {
		for k, a := range m {
			n += len(k) + len(a.Value)
		}
		return n
	}
	next, refused, touched := maps.Clone(model), []string(nil), map[string]bool{}
	for _, o := range c.Operations {
		a, there := next[o.Key]
		switch {
		case there && a.Owner != u && !c.Force:
			if !touched[o.Key] && !slices.Contains(refused, o.Key) {
				refused = append(refused, o.Key)
			}
			continue
		case o.Delete:
			delete(next, o.Key)
		default:
			owner := u
			if there && !c.UpdateOwner {
				owner = a.Owner
			}
			next[o.Key] = roomstore.Attribute{Key: o.Key, Value: o.Value, Owner: owner, Leaves: c.Leaves}
		}
		touched[o.Key] = true
	}
	switch {
	case len(touched) == 0:
		return model, nil, roomstore.ErrLocked
	case len(next) > c.MaxKeys && len(next) > len(model):
		return model, nil, roomstore.ErrKeys
	case size(next) > c.MaxBytes && size(next) > size(model):
		return model, nil, roomstore.ErrBytes
	}
	return next, refused, nil
}
