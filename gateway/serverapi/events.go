package serverapi

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

const (
	// quiet is after how long without an event a stream says that it is alive, so
	// that proxies keep the connection.
	quiet = 15 * time.Second
	// readWithin is how long a reader may take for a batch of events.
	readWithin = 10 * time.Second
	// confirmWithin is how long its host may take to say that something has come. Only
	// that shows of one that is gone: little waits for it here.
	confirmWithin = 30 * time.Second
	// MaxSeq is above any seq.
	MaxSeq = 1<<53 - 1
)

// events serves what happens in a room as Server-Sent Events, until that is over or
// the reader goes.
func (a *API) events(w http.ResponseWriter, r *http.Request) {
	room, ok := roomID(w, r)
	if !ok {
		return
	}
	q, ok := query(w, r, "from", "epoch")
	if !ok {
		return
	}
	from, ok := number(w, q, "from", 0, 1, MaxSeq)
	if !ok {
		return
	}
	epoch, ok := number(w, q, "epoch", 0, 1, MaxSeq)
	if !ok {
		return
	}
	if epoch > 0 && from == 0 {
		badParameter(w, "epoch says which life from is of, and there is no from")
		return
	}
	watch, err := a.rooms.Watch(r.Context(), room, from, epoch)
	if err != nil {
		a.fail(w, r, "events", room, err)
		return
	}
	defer watch.Close()

	// The server's deadlines are for requests that end soon. Where there are none
	// to set there are none to lift.
	to := http.NewResponseController(w)
	_ = to.SetReadDeadline(time.Time{})
	if c, ok := r.Context().Value(connOf{}).(syscall.Conn); ok {
		confirm(c, confirmWithin)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // of proxies that hold answers back
	w.Header().Set("Connection", "close")     // its deadlines are not those of the next request
	w.WriteHeader(http.StatusOK)
	_ = to.Flush()
	for {
		ctx, cancel := context.WithTimeout(r.Context(), quiet)
		events := watch.Next(ctx)
		cancel()
		if r.Context().Err() != nil {
			return
		}
		if !write(w, to, events) {
			return
		}
	}
}

// write writes a batch of events, or for none a sign of life, for which the reader has
// its time, and says whether there may be more to write.
func write(w http.ResponseWriter, to *http.ResponseController, events []Event) bool {
	_ = to.SetWriteDeadline(time.Now().Add(readWithin))
	if _, err := w.Write(framed(events)); err != nil {
		return false
	}
	last := len(events) > 0 && events[len(events)-1].Last
	return to.Flush() == nil && !last
}

// framed gives events as they stand in the stream; for none, a sign of life.
func framed(events []Event) []byte {
	if len(events) == 0 {
		return []byte(": alive\n\n")
	}
	var b bytes.Buffer
	for _, e := range events {
		if e.Seq > 0 {
			b.WriteString("id: " + strconv.FormatInt(e.Seq, 10) + "\n")
		}
		b.WriteString("event: " + e.Name + "\ndata: ")
		b.Write(encode(e.Data)) // JSON is one line
		b.WriteString("\n\n")
	}
	return b.Bytes()
}

// connOf is the key of a request's connection in its context.
type connOf struct{}

// WithConn is for the ConnContext of the http.Server that serves an API. By it streams
// find out that the host of their reader is gone.
func WithConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connOf{}, c)
}
