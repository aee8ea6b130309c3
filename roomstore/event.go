package roomstore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Position is a place in the log of a room. Epoch names one life of the
// room's ID; Seq counts the events of that life from 1, without holes.
type Position struct {
	Epoch int64
	Seq   int64
}

// A Kind says what an event is about.
type Kind byte

// Kinds of events.
const (
	KindJoined    Kind = 'j' // User entered; Data is what others see of it
	KindLeft      Kind = 'l' // User left, for Reason; Data as before
	KindMoved     Kind = 'v' // User's place went from session Old to Origin
	KindMessage   Kind = 'm' // a text or custom message; Data is its payload
	KindCommand   Kind = 'c' // a command or barrage; Seq is the position it comes after
	KindDestroyed Kind = 'd' // the room's life has ended, for Reason

	KindAttributes       Kind = 'a' // User, or its departure, changed Attributes of the room
	KindMemberAttributes Kind = 'u' // User set Attributes of members

	KindHealed Kind = 'h' // Redis lost data: the life goes on under this epoch, which goes back to Lineage
)

// A Reason says why a membership or a room ended.
type Reason string

// Reasons. The first four are kept for a session that comes back.
const (
	ReasonLeft    Reason = "left"
	ReasonKicked  Reason = "kicked"
	ReasonTimeout Reason = "timeout" // the session's deadline passed
	ReasonDevice  Reason = "device"  // the user entered from another device

	ReasonNoRoom    Reason = "noroom"
	ReasonRecreated Reason = "recreated" // the room is in another life
	ReasonReplaced  Reason = "replaced"  // the device has logged in anew; the place is kept for it

	ReasonEmptied   Reason = "emptied"   // nobody was in the room for its delay
	ReasonDestroyed Reason = "destroyed" // a backend's word
)

// An Event is one change of a room, or a command passing through it.
type Event struct {
	Position
	Kind   Kind
	At     int64     // unix ms, on Redis's clock
	Origin SessionID // whose membership it is about, or who sent it
	User   UserID

	Count      int64     // members after it: joined, left, moved, memberattributes
	Uncounted  bool      // Count is not known
	Reason     Reason    // left, destroyed
	Old        SessionID // moved
	MessageSeq int64     // message, command
	OrderKey   int64     // message, command
	MessageID  string    // message, command
	Priority   int       // command
	Lineage    Lineage   // healed

	Attributes *AttributesChanged // attributes, memberattributes

	Data     string // opaque: what others see of the user, or a message's payload
	Extended string // left: what a kicked user is told

	Published string // what it was read from; "" if it was concluded from what else is known
}

// ErrBadEvent means that bytes are not an event of this version.
var ErrBadEvent = errors.New("malformed event")

// envelopeFields is how many values lua/lib/room.lua's event() joins:
// epoch, seq, kind, at, origin, user, a, b, payload.
const envelopeFields = 9

// DecodeEvent reads what a script published or kept. It fails with an error
// that wraps [ErrBadEvent].
func DecodeEvent(s string) (Event, error) {
	var f [envelopeFields]string
	rest := s
	for i := range envelopeFields - 1 {
		field, after, ok := strings.Cut(rest, "\x00")
		if !ok {
			return Event{}, fmt.Errorf("%w: %d fields, want %d", ErrBadEvent, i+1, envelopeFields)
		}
		f[i], rest = field, after
	}
	f[envelopeFields-1] = rest
	e, err := eventOf(f)
	if err == nil {
		e.Published = s
	}
	return e, err
}

func eventOf(f [envelopeFields]string) (Event, error) {
	n := numbers{}
	e := Event{
		Position: Position{Epoch: n.parse("epoch", f[0]), Seq: n.parse("seq", f[1])},
		At:       n.parse("time", f[3]),
		Origin:   SessionID(f[4]),
		User:     UserID(f[5]),
		Data:     f[8],
	}
	a, b := f[6], f[7]
	switch f[2] {
	case "j":
		e.Kind, e.Count = KindJoined, n.parse("count", a)
	case "l":
		e.Kind, e.Count, e.Reason = KindLeft, n.parse("count", a), Reason(b)
		var ok bool
		if e.Data, e.Extended, ok = strings.Cut(e.Data, "\x00"); !ok {
			return Event{}, fmt.Errorf("%w: departure without extended data", ErrBadEvent)
		}
	case "v":
		e.Kind, e.Count, e.Old = KindMoved, n.parse("count", a), SessionID(b)
	case "m":
		e.Kind, e.MessageID = KindMessage, b
		e.MessageSeq, e.OrderKey = n.pair(a)
	case "c":
		priority, id, ok := strings.Cut(b, ":")
		if !ok {
			return Event{}, fmt.Errorf("%w: command without priority", ErrBadEvent)
		}
		e.Kind, e.Priority, e.MessageID = KindCommand, int(n.parse("priority", priority)), id
		e.MessageSeq, e.OrderKey = n.pair(a)
	case "d":
		e.Kind, e.Reason = KindDestroyed, Reason(b)
	case "a":
		set := n.parse("attributes", a)
		if n.err == nil {
			e.Kind = KindAttributes
			e.Attributes, n.err = roomChange(set, e.Data)
			e.Data = ""
		}
	case "u":
		e.Kind, e.Count = KindMemberAttributes, n.parse("count", a)
		if n.err == nil {
			e.Attributes, n.err = membersChange(e.Data)
			e.Data = ""
		}
	case "h":
		e.Kind, e.Lineage = KindHealed, Lineage(b)
	default:
		return Event{}, fmt.Errorf("%w: kind %q", ErrBadEvent, f[2])
	}
	if n.err != nil {
		return Event{}, n.err
	}
	return e, nil
}

// numbers parses numbers and keeps the first error.
type numbers struct{ err error }

func (n *numbers) parse(what, s string) int64 {
	v, err := strconv.ParseInt(s, 10, 64)
	if (err != nil || v < 0) && n.err == nil {
		n.err = fmt.Errorf("%w: %s %q", ErrBadEvent, what, s)
	}
	return v
}

// pair reads "messageSeq:orderKey".
func (n *numbers) pair(s string) (messageSeq, orderKey int64) {
	a, b, _ := strings.Cut(s, ":")
	return n.parse("message seq", a), n.parse("order key", b)
}
