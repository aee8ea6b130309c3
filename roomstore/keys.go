package roomstore

import (
	"hash/fnv"
	"strconv"
	"strings"
)

// keys spells every key and channel there is, together with key() and slot()
// in lua/lib/value.lua, which add kind and ID to the prefixes made here. The
// kind stands before the ID and the ID last, since an ID may contain anything
// that the prefix does.
//
// A room lives in one of the partitions, a user in one of as many users' slots;
// all keys of one share a hash tag.
//
// On one Redis all partitions share what is not of one room or user. Where hash
// slots lie apart each has its own: its clock, its list of dead nodes, its term.
type keys struct {
	prefix     string
	partitions int
	apart      bool
}

func (k keys) hash(id string) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	return int(h.Sum32() % uint32(k.partitions))
}

// partition gives the number of a room's partition.
func (k keys) partition(room RoomID) int { return k.hash(string(room)) }

// part gives the prefix of the keys of a partition.
func (k keys) part(p int) string { return k.prefix + ":{" + strconv.Itoa(p) + "}:" }

// userSlot names the slot of a user's keys.
func (k keys) userSlot(user UserID) string { return "u" + strconv.Itoa(k.hash(string(user))) }

// uslot gives the prefix of the keys of a users' slot.
func (k keys) uslot(slot string) string { return k.prefix + ":{" + slot + "}:" }

func (k keys) user(user UserID) string {
	return k.uslot(k.userSlot(user)) + "user:" + string(user)
}

// userAt gives what a script about a room of a partition takes for the user's hash:
// the partition, where that lies apart.
func (k keys) userAt(part string, user UserID) string {
	if k.apart {
		return part
	}
	return k.user(user)
}

// control gives the prefix of the clock and of the list of dead nodes, for what is
// about a key: of a room or a user, or the nodes' leases.
func (k keys) control(key string) string {
	if end := strings.Index(key, "}:"); k.apart && end > 0 {
		return key[:end+2]
	}
	return k.part(0)
}

// term and origin are those of what a key belongs to.
func (k keys) term(key string) string   { return k.control(key) + "term" }
func (k keys) origin(key string) string { return k.control(key) + "origin" }

// nodes is in the slot of partition 0 where slots lie apart: its clock is theirs.
func (k keys) nodes() string {
	if k.apart {
		return k.part(0) + "nodes"
	}
	return k.prefix + ":nodes"
}

func (k keys) partitionsKey(slot string) string {
	if k.apart {
		return slot + "partitions"
	}
	return k.prefix + ":partitions"
}

// slots gives the prefix of everything that has a term of its own.
func (k keys) slots() []string {
	if !k.apart {
		return []string{k.part(0)}
	}
	return append(k.parts(), k.uslots()...)
}

// slotIndex gives the place in slots of what a key belongs to.
func (k keys) slotIndex(key string) int {
	tag := key[len(k.prefix)+2 : strings.Index(key, "}:")]
	n, _ := strconv.Atoi(strings.TrimPrefix(tag, "u"))
	if tag[0] == 'u' {
		n += k.partitions
	}
	return n
}

func (k keys) parts() (all []string) {
	for p := range k.partitions {
		all = append(all, k.part(p))
	}
	return all
}

func (k keys) uslots() (all []string) {
	for p := range k.partitions {
		all = append(all, k.uslot("u"+strconv.Itoa(p)))
	}
	return all
}

// orders gives the channel of a node: in each partition, where slots lie apart.
func (k keys) orders(n string, path int) string {
	if k.apart {
		return k.part(path) + "orders:" + n
	}
	return k.prefix + ":node:" + n
}

func (k keys) events(id RoomID) string { return k.part(k.partition(id)) + "ch:" + string(id) }
