package roomstore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/roomstore"
)

func joined(fields ...string) string { return strings.Join(fields, "\x00") }

// Every kind of event is read as it was written, and nothing else is.
func TestDecodeEvent(t *testing.T) {
	t.Parallel()
	at := roomstore.Position{Epoch: 9, Seq: 7}
	for _, tt := range []struct {
		name string
		in   string
		want roomstore.Event
		err  error
	}{
		{
			name: "joined", in: joined("9", "7", "j", "5", "s", "u", "3", "", "data"),
			want: roomstore.Event{Position: at, Kind: roomstore.KindJoined, At: 5, Origin: "s", User: "u", Count: 3, Data: "data"},
		},
		{
			name: "left", in: joined("9", "7", "l", "5", "s", "u", "3", "kicked", "data", "why"),
			want: roomstore.Event{
				Position: at, Kind: roomstore.KindLeft, At: 5, Origin: "s", User: "u", Count: 3,
				Reason: roomstore.ReasonKicked, Data: "data", Extended: "why",
			},
		},
		{
			name: "moved", in: joined("9", "7", "v", "5", "s", "u", "3", "old", "data"),
			want: roomstore.Event{Position: at, Kind: roomstore.KindMoved, At: 5, Origin: "s", User: "u", Count: 3, Old: "old", Data: "data"},
		},
		{
			name: "message", in: joined("9", "7", "m", "5", "s", "u", "4:88", "id", "a\x00b\xff"),
			want: roomstore.Event{
				Position: at, Kind: roomstore.KindMessage, At: 5, Origin: "s", User: "u", MessageSeq: 4, OrderKey: 88,
				MessageID: "id", Data: "a\x00b\xff",
			},
		},
		{
			name: "command", in: joined("9", "7", "c", "5", "s", "u", "4:88", "2:i:d", ""),
			want: roomstore.Event{
				Position: at, Kind: roomstore.KindCommand, At: 5, Origin: "s", User: "u", MessageSeq: 4, OrderKey: 88,
				Priority: 2, MessageID: "i:d",
			},
		},
		{
			name: "destroyed", in: joined("9", "7", "d", "5", "", "", "", "emptied", ""),
			want: roomstore.Event{Position: at, Kind: roomstore.KindDestroyed, At: 5, Reason: roomstore.ReasonEmptied},
		},
		{
			name: "attributes", in: joined("9", "7", "a", "5", "s", "u", "2", "", "1:k4:o\x001\x000:6:\x000\x00a:\x001:d3:e\x00f"),
			want: roomstore.Event{
				Position: at, Kind: roomstore.KindAttributes, At: 5, Origin: "s", User: "u",
				Attributes: &roomstore.AttributesChanged{
					Set:     []roomstore.Attribute{{Key: "k", Owner: "o", Leaves: true}, {Value: "a:\x00"}},
					Deleted: []string{"d", "e\x00f"},
				},
			},
		},
		{
			name: "attributes of members", in: joined("9", "7", "u", "5", "s", "u", "3", "", "3:ana1:21:k1:v0:2:\x00:2:bo1:0"),
			want: roomstore.Event{
				Position: at, Kind: roomstore.KindMemberAttributes, At: 5, Origin: "s", User: "u", Count: 3,
				Attributes: &roomstore.AttributesChanged{Members: []roomstore.MemberAttributes{
					{User: "ana", Pairs: []roomstore.Pair{{Key: "k", Value: "v"}, {Value: "\x00:"}}}, {User: "bo"},
				}},
			},
		},
		{name: "attributes too few", in: joined("9", "7", "a", "5", "s", "u", "2", "", "1:k4:o\x001\x00"), err: roomstore.ErrBadEvent},
		{name: "attributes uncounted", in: joined("9", "7", "a", "5", "s", "u", "", "", ""), err: roomstore.ErrBadEvent},
		{name: "attribute without owner", in: joined("9", "7", "a", "5", "s", "u", "1", "", "1:k1:v"), err: roomstore.ErrBadEvent},
		{name: "attribute of no such flag", in: joined("9", "7", "a", "5", "s", "u", "1", "", "1:k5:o\x002\x00v"), err: roomstore.ErrBadEvent},
		{name: "attributes cut off", in: joined("9", "7", "a", "5", "s", "u", "0", "", "2:k"), err: roomstore.ErrBadEvent},
		{name: "attributes of length below 0", in: joined("9", "7", "a", "5", "s", "u", "0", "", "-1:k"), err: roomstore.ErrBadEvent},
		{name: "member attributes cut off", in: joined("9", "7", "u", "5", "s", "u", "3", "", "3:ana1:21:k1:v"), err: roomstore.ErrBadEvent},
		{name: "member attributes uncounted", in: joined("9", "7", "u", "5", "s", "u", "3", "", "3:ana"), err: roomstore.ErrBadEvent},
		{name: "empty", in: "", err: roomstore.ErrBadEvent},
		{name: "field missing", in: joined("9", "7", "j", "5", "s", "u", "3", ""), err: roomstore.ErrBadEvent},
		{name: "kind unknown", in: joined("9", "7", "z", "5", "s", "u", "3", "", ""), err: roomstore.ErrBadEvent},
		{name: "kind too long", in: joined("9", "7", "jj", "5", "s", "u", "3", "", ""), err: roomstore.ErrBadEvent},
		{name: "seq not a number", in: joined("9", "x", "j", "5", "s", "u", "3", "", ""), err: roomstore.ErrBadEvent},
		{name: "seq negative", in: joined("9", "-1", "j", "5", "s", "u", "3", "", ""), err: roomstore.ErrBadEvent},
		{name: "epoch empty", in: joined("", "7", "j", "5", "s", "u", "3", "", ""), err: roomstore.ErrBadEvent},
		{name: "time not a number", in: joined("9", "7", "j", "", "s", "u", "3", "", ""), err: roomstore.ErrBadEvent},
		{name: "count not a number", in: joined("9", "7", "j", "5", "s", "u", "", "", ""), err: roomstore.ErrBadEvent},
		{name: "left without extended data", in: joined("9", "7", "l", "5", "s", "u", "3", "left", "data"), err: roomstore.ErrBadEvent},
		{name: "command without priority", in: joined("9", "7", "c", "5", "s", "u", "4:88", "id", ""), err: roomstore.ErrBadEvent},
		{name: "message without order key", in: joined("9", "7", "m", "5", "s", "u", "4", "id", ""), err: roomstore.ErrBadEvent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := roomstore.DecodeEvent(tt.in)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if tt.err == nil {
				tt.want.Published = tt.in
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Any bytes are read or refused, and what is read has no number below zero.
func FuzzDecodeEvent(f *testing.F) {
	for _, s := range []string{
		"", joined("9", "7", "j", "5", "s", "u", "3", "", "data"), joined("9", "7", "l", "5", "s", "u", "3", "kicked", "data", "why"),
		joined("9", "7", "m", "5", "s", "u", "4:88", "id", "a\x00b"), joined("9", "7", "c", "5", "s", "u", "4:88", "2:id", ""),
		joined("9", "7", "a", "5", "s", "u", "1", "", "1:k4:o\x001\x001:d"), joined("9", "7", "u", "5", "s", "u", "3", "", "3:ana1:11:k1:v"),
		joined("9", "7", "d", "5", "", "", "", "emptied", ""), joined("99999999999999999999", "7", "v", "5", "", "", "1", "o", ""),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := roomstore.DecodeEvent(s)
		switch {
		case err != nil && (!errors.Is(err, roomstore.ErrBadEvent) || e != roomstore.Event{}):
			t.Errorf("%q: %+v, %v", s, e, err)
		case err == nil && (min(e.Epoch, e.Seq, e.At, e.Count, e.MessageSeq, e.OrderKey, int64(e.Priority)) < 0 || e.Kind == 0):
			t.Errorf("%q: %+v", s, e)
		case err == nil && !strings.HasSuffix(s, e.Data+map[bool]string{true: "\x00" + e.Extended}[e.Kind == roomstore.KindLeft]):
			t.Errorf("%q: data %q, extended %q", s, e.Data, e.Extended)
		}
	})
}

// An order is a probe, or says which sockets to close.
func TestDecodeOrder(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   string
		want roomstore.Order
		err  error
	}{
		{name: "close", in: joined("4510", "s1", "12"), want: roomstore.Order{Code: 4510, Session: "s1", Generation: 12}},
		{name: "probe", in: joined("probe", "x\x00y"), want: roomstore.Order{Probe: "x\x00y"}},
		{name: "empty", in: "", err: roomstore.ErrBadOrder},
		{name: "too few", in: joined("4510", "s1"), err: roomstore.ErrBadOrder},
		{name: "too many", in: joined("4510", "s1", "12", ""), err: roomstore.ErrBadOrder},
		{name: "code not a number", in: joined("x", "s1", "12"), err: roomstore.ErrBadOrder},
		{name: "generation not a number", in: joined("4510", "s1", "x"), err: roomstore.ErrBadOrder},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := roomstore.DecodeOrder(tt.in)
			if !errors.Is(err, tt.err) || got != tt.want {
				t.Errorf("got %+v, %v, want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

// Any bytes are an order or refused.
func FuzzDecodeOrder(f *testing.F) {
	for _, s := range []string{"", joined("4510", "s1", "12"), joined("probe", "x"), joined("probe", ""), joined("4510", "", "-1")} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := roomstore.DecodeOrder(s)
		if err != nil && (!errors.Is(err, roomstore.ErrBadOrder) || o != roomstore.Order{}) {
			t.Errorf("%q: %+v, %v", s, o, err)
		}
		if probe := strings.HasPrefix(s, "probe\x00"); err == nil && !probe && strings.Count(s, "\x00") != 2 {
			t.Errorf("%q: %+v", s, o)
		}
	})
}
