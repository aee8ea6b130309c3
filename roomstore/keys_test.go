package roomstore

import (
	"strconv"
	"strings"
	"testing"
)

// Different kinds and IDs have different keys, whatever characters they are
// of, and all keys of one slot, and no other, share its hash tag.
func FuzzKeys(f *testing.F) {
	for _, s := range []string{"a", "a:members", "a:log", "}", "{0}", "{u0}:user:a", ":", "members:a", "ch:a"} {
		f.Add(s, "a", uint8(1))
		f.Add(s, "log:"+s, uint8(16))
	}
	kinds := []string{
		"room", "members", "info", "left", "log", "attrs", "memberattrs", "blocked",
		"did", "gone", "node", "nodesessions", "user", "ch",
	}
	f.Fuzz(func(t *testing.T, a, b string, partitions uint8) {
		if checkID("ID", a, 1, 128) != nil || checkID("ID", b, 1, 128) != nil {
			t.Skip()
		}
		k := keys{prefix: "p", partitions: int(partitions%64) + 1}
		made := map[string]string{}
		add := func(what, key, tag string) {
			t.Helper()
			if other, ok := made[key]; ok && other != what {
				t.Errorf("%s and %s are both %q", what, other, key)
			}
			made[key] = what
			open := strings.IndexByte(key, '{')
			if end := strings.IndexByte(key, '}'); key[open+1:end] != tag {
				t.Errorf("%q is in slot %q, want %q", key, key[open+1:end], tag)
			}
		}
		for _, id := range []string{a, b} {
			p := k.partition(RoomID(id))
			if p < 0 || p >= k.partitions {
				t.Errorf("%q is in partition %d of %d", id, p, k.partitions)
			}
			slot := k.userSlot(UserID(id))
			if slot != "u"+strconv.Itoa(p) {
				t.Errorf("%q has the slot %q and the partition %d", id, slot, p)
			}
			for _, kind := range kinds {
				// key() in value.lua
				add(kind+" of "+id, k.part(p)+kind+":"+id, strconv.Itoa(p))
				add(kind+" in the users' slot of "+id, k.uslot(slot)+kind+":"+id, slot)
			}
			if got := k.user(UserID(id)); made[got] != "user in the users' slot of "+id {
				t.Errorf("%q is %s", got, made[got])
			}
			if got := k.events(RoomID(id)); made[got] != "ch of "+id {
				t.Errorf("%q is %s", got, made[got])
			}
			for _, index := range []string{"rooms", "due", "parked", "dead", "clock", "term", "life", "outbox"} {
				add(index, k.part(p)+index, strconv.Itoa(p))
				add(index+" in the users' slot", k.uslot(slot)+index, slot)
			}
		}
		for _, key := range []string{k.nodes(), k.partitionsKey(""), k.orders(a, 0)} {
			if what, ok := made[key]; ok {
				t.Errorf("%q is %s, too", key, what)
			}
		}
	})
}
