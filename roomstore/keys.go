package roomstore

import (
	"hash/fnv"
	"strconv"
)

// keys spells every key and channel there is, together with key() and slot()
// in lua/lib/value.lua, which add kind and ID to the prefixes made here. The
// kind stands before the ID and the ID last, since an ID may contain anything
// that the prefix does.
//
// A room lives in one of the partitions, a user in one of as many users' slots;
// all keys of one share a hash tag.
type keys struct {
	prefix     string
	partitions int
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

// control gives the prefix of the clock and of the list of dead nodes.
func (k keys) control() string { return k.part(0) }

// term and origin are those of all partitions, which are on one Redis.
func (k keys) term() string   { return k.part(0) + "term" }
func (k keys) origin() string { return k.part(0) + "origin" }

func (k keys) nodes() string           { return k.prefix + ":nodes" }
func (k keys) partitionsKey() string   { return k.prefix + ":partitions" }
func (k keys) orders(n string) string  { return k.prefix + ":node:" + n }
func (k keys) events(id RoomID) string { return k.part(k.partition(id)) + "ch:" + string(id) }
