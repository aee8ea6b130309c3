package roomstore

import "errors"

// Refusals. Nothing was changed, and trying again will not help until
// something else changes.
var (
	ErrBadID     = errors.New("malformed ID")
	ErrBlocked   = errors.New("the user is blocked from the room")
	ErrExists    = errors.New("the room exists already")
	ErrFenced    = errors.New("the session or its gateway has been replaced")
	ErrFull      = errors.New("the room is full")
	ErrLocked    = errors.New("all of these attributes belong to others")
	ErrMisused   = errors.New("the requestKey was that of another request")
	ErrLate      = errors.New("the call came after the time it was valid for")
	ErrNoRoom    = errors.New("no such room")
	ErrNotMember = errors.New("not in the room")
	ErrNotFrom   = errors.New("not in the room to switch from")
	ErrRoomLimit = errors.New("as many rooms exist as are allowed")
	ErrUserLimit = errors.New("the user is in as many rooms as are allowed")

	// ErrKeys and ErrBytes mean that a room, or each of the users named, would have
	// more attributes, or longer ones, than are allowed.
	ErrKeys  = errors.New("more attributes than are allowed")
	ErrBytes = errors.New("the attributes are longer together than is allowed")
	// ErrUsers means that as many users of the room have attributes as are allowed.
	ErrUsers = errors.New("as many members of the room have attributes as are allowed")

	// ErrEpoch means that the room is in another life than the one asked about.
	ErrEpoch = errors.New("the room was destroyed and created again")
	// ErrRecreated means that the room is in a life of its own, which does not go
	// back to the one that was to be put back.
	ErrRecreated = errors.New("the room is in another life")
	// ErrTerm means that what is stored is not what the gateway knows: data was
	// lost, and is being put back. Nothing was changed; trying again will help.
	ErrTerm = errors.New("data was lost and is being put back")
	// ErrPaused means that a sweep only noted a gap in time.
	ErrPaused = errors.New("a gap in time is not counted")
	// ErrHeld means that something still names the node.
	ErrHeld = errors.New("the node still holds sessions")
	// ErrMemory means that Redis is full. Nothing was changed.
	ErrMemory = errors.New("redis has no memory left")
	// errStale means that the reservation which an entry showed has been given back.
	errStale = errors.New("the reservation has been given back")
	// errUnadmitted means that a room would have been created, which has to have a place
	// among those that may exist first.
	errUnadmitted = errors.New("the room has no place among those that may exist")
	// errUncounted means that it is not known how many rooms exist.
	errUncounted = errors.New("the rooms have to be counted")
	// ErrPartitions means that the deployment has another number of partitions.
	ErrPartitions = errors.New("the deployment has another number of partitions")
)

// ErrBadReply means that a script did not answer as its header says, which is
// a bug in one of the two.
var ErrBadReply = errors.New("script broke its contract")

// refusals maps the status a script returns to the error it means.
var refusals = map[string]error{
	"blocked":    ErrBlocked,
	"bytes":      ErrBytes,
	"epoch":      ErrEpoch,
	"exists":     ErrExists,
	"fenced":     ErrFenced,
	"full":       ErrFull,
	"held":       ErrHeld,
	"keys":       ErrKeys,
	"late":       ErrLate,
	"locked":     ErrLocked,
	"misused":    ErrMisused,
	"noroom":     ErrNoRoom,
	"notfrom":    ErrNotFrom,
	"notin":      ErrNotMember,
	"partitions": ErrPartitions,
	"pairs":      ErrKeys,
	"paused":     ErrPaused,
	"recreated":  ErrRecreated,
	"roomlimit":  ErrRoomLimit,
	"stale":      errStale,
	"term":       ErrTerm,
	"unadmitted": errUnadmitted,
	"uncounted":  errUncounted,
	"userlimit":  ErrUserLimit,
	"users":      ErrUsers,
}

// An OpError says which operation failed, and on which room or user.
//
// If [Refused] holds for it, nothing was changed. Otherwise the outcome is
// unknown: Redis may have made the change and failed to say so.
type OpError struct {
	Op  string // the script, such as "enter"
	On  string // the room or user, if it is about one
	Err error
}

func (e *OpError) Error() string {
	if e.On == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + e.On + ": " + e.Err.Error()
}

func (e *OpError) Unwrap() error { return e.Err }

// Refused says whether err is a script's own answer, so that its outcome is
// known: nothing was changed.
func Refused(err error) bool {
	if errors.Is(err, ErrTerm) {
		return false // it is not decided yet
	}
	for _, r := range refusals {
		if errors.Is(err, r) {
			return true
		}
	}
	return errors.Is(err, ErrMemory) || errors.Is(err, ErrBadID) || errors.Is(err, ErrBadReply)
}
