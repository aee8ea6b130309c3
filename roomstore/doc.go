// Package roomstore keeps rooms in Redis: who is in which room and for which
// session, what happened in what order, and when an empty room or an absent
// session ends. It knows rooms, keys and scripts, and nothing of sockets, HTTP
// or who is listening.
//
// A room's life is named by its epoch; its events are numbered by seq, from 1
// and without holes. Together they are a [Position]. A membership belongs to a
// (session, generation): what an older generation asks for changes nothing.
//
// Every operation is one script in package lua: decided, applied and announced
// in one step on Redis's clock. Deadlines of sessions and leases run on awake
// time, which leaves out the time in which nobody could have served.
package roomstore
