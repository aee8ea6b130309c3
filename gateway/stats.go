package gateway

import "sync/atomic"

// Stats counts what a gateway has done since it was made.
type Stats struct {
	Accepted     atomic.Uint64 // connections
	Messages     atomic.Uint64 // taken from clients and backends
	Deliveries   atomic.Uint64 // events queued for a member each
	Occupied     atomic.Int64  // rooms with members here
	Watches      atomic.Int64  // streams of a room's events that are open
	Fills        atomic.Uint64 // times a feed asked the store for what it missed
	HistoryLost  atomic.Uint64 // times something could not be had any more
	CommandsLate atomic.Uint64 // commands that came after what should follow them
	ParkRetries  atomic.Uint64
	Evicted      atomic.Uint64 // members, by this node's sweeps
	Finished     atomic.Uint64 // rooms, likewise
	Claimed      atomic.Uint64 // memberships of dead nodes, likewise
	Probes       atomic.Uint64 // of the delivery path, that came back
	Incarnations atomic.Uint64
	Heals        atomic.Uint64 // times what is known was put back
	Healed       atomic.Uint64 // rooms that went on under a new epoch

	spoken atomic.Uint64 // messages and commands that rooms here have heard

	AuditFound atomic.Int64 // what the last audit of the deployment left unrepaired
	AuditedAt  atomic.Int64 // when that was, in unix s; 0: there was none
}

// Counted says what each number of [Gateway.Snapshot] means.
var Counted = map[string]string{
	"gateway_connections":          "Open WebSocket connections.",
	"gateway_sessions":             "Sessions whose socket is on this gateway.",
	"gateway_lingering_sessions":   "Sessions of a crowd whose sockets have closed, and of which Redis has not been told yet.",
	"gateway_feeds":                "Rooms this gateway is subscribed to.",
	"gateway_accepted_total":       "WebSocket connections accepted.",
	"gateway_messages_total":       "Messages taken from clients and backends.",
	"gateway_deliveries_total":     "Room events queued for members, one each.",
	"gateway_occupied_rooms":       "Rooms with members on this gateway.",
	"gateway_watches":              "Streams of a room's events that backends have open here.",
	"gateway_fills_total":          "Times a room's missing events were asked for from Redis.",
	"gateway_history_lost_total":   "Times members were told that events are lost for good.",
	"gateway_commands_late_total":  "Commands dropped because what should follow them had been seen.",
	"gateway_park_retries_total":   "Times noting a closed socket in Redis had to be repeated.",
	"gateway_evicted_total":        "Members evicted by this gateway's sweeps.",
	"gateway_rooms_finished_total": "Empty rooms destroyed by this gateway's sweeps.",
	"gateway_claimed_total":        "Memberships of dead gateways parked by this gateway's sweeps.",
	"gateway_probes_total":         "Delivery probes that came back.",
	"gateway_incarnations_total":   "Leases this gateway has begun.",
	"gateway_audit_findings":       "Disagreements in Redis that the last roomgate fsck left.",
	"gateway_audit_time_seconds":   "When the last roomgate fsck ended, in unix time; 0 if there was none.",
	"gateway_heals_total":          "Times this gateway put back what it knows, since Redis was started anew or lost data.",
	"gateway_rooms_healed_total":   "Rooms with members here that go on under a new epoch, since Redis lost data.",
}

// Snapshot gives everything countable by name, for metrics.
func (g *Gateway) Snapshot() map[string]float64 {
	g.mu.Lock()
	connections, sessions, lingering := len(g.open), len(g.sessions), len(g.lingerers.all)
	g.mu.Unlock()
	g.hub.mu.Lock()
	feeds := len(g.hub.feeds)
	g.hub.mu.Unlock()
	s := &g.stats
	return map[string]float64{
		"gateway_connections":          float64(connections),
		"gateway_sessions":             float64(sessions),
		"gateway_lingering_sessions":   float64(lingering),
		"gateway_feeds":                float64(feeds),
		"gateway_accepted_total":       float64(s.Accepted.Load()),
		"gateway_messages_total":       float64(s.Messages.Load()),
		"gateway_deliveries_total":     float64(s.Deliveries.Load()),
		"gateway_occupied_rooms":       float64(s.Occupied.Load()),
		"gateway_watches":              float64(s.Watches.Load()),
		"gateway_fills_total":          float64(s.Fills.Load()),
		"gateway_history_lost_total":   float64(s.HistoryLost.Load()),
		"gateway_commands_late_total":  float64(s.CommandsLate.Load()),
		"gateway_park_retries_total":   float64(s.ParkRetries.Load()),
		"gateway_evicted_total":        float64(s.Evicted.Load()),
		"gateway_rooms_finished_total": float64(s.Finished.Load()),
		"gateway_claimed_total":        float64(s.Claimed.Load()),
		"gateway_probes_total":         float64(s.Probes.Load()),
		"gateway_incarnations_total":   float64(s.Incarnations.Load()),
		"gateway_audit_findings":       float64(s.AuditFound.Load()),
		"gateway_audit_time_seconds":   float64(s.AuditedAt.Load()),
		"gateway_heals_total":          float64(s.Heals.Load()),
		"gateway_rooms_healed_total":   float64(s.Healed.Load()),
	}
}
