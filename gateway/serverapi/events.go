package serverapi

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"time"
)

const (
	// quiet is after how long without an event a stream says that it is alive, so
	// that proxies keep the connection.
	quiet = 15 * time.Second
	// readWithin is how long a reader may take for an event.
	readWithin = 10 * time.Second
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
	q, ok := query(w, r, "from")
	if !ok {
		return
	}
	from, ok := number(w, q, "from", 0, 1, MaxSeq)
	if !ok {
		return
	}
	watch, err := a.rooms.Watch(r.Context(), room, from)
	if err != nil {
		a.fail(w, r, "events", room, err)
		return
	}
	defer watch.Close()

	// The server's deadlines are for requests that end soon. Where there are none
	// to set there are none to lift.
	to := http.NewResponseController(w)
	_ = to.SetReadDeadline(time.Time{})
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

// write writes events, or for none a sign of life, and says whether there may be more
// to write. The reader has its time for each.
func write(w http.ResponseWriter, to *http.ResponseController, events []Event) bool {
	last := false
	for _, text := range framed(events) {
		_ = to.SetWriteDeadline(time.Now().Add(readWithin))
		if _, err := w.Write(text); err != nil {
			return false
		}
	}
	for _, e := range events {
		last = last || e.Last
	}
	return to.Flush() == nil && !last
}

// framed gives events as they stand in the stream; for none, a sign of life.
func framed(events []Event) (texts [][]byte) {
	if len(events) == 0 {
		return [][]byte{[]byte(": alive\n\n")}
	}
	for _, e := range events {
		var b bytes.Buffer
		if e.Seq > 0 {
			b.WriteString("id: " + strconv.FormatInt(e.Seq, 10) + "\n")
		}
		b.WriteString("event: " + e.Name + "\ndata: ")
		b.Write(encode(e.Data)) // JSON is one line
		b.WriteString("\n\n")
		texts = append(texts, b.Bytes())
	}
	return texts
}
