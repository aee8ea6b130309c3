package roomstore

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
)

// A RoomID names a room. Only [ParseRoomID] makes one from outside text.
type RoomID string

// A UserID names a user. Only [ParseUserID] makes one from outside text.
type UserID string

// A SessionID names one login of one device. It is hard to guess, since who
// knows it may ask to go on with the session.
type SessionID string

const (
	maxRoomID    = 128
	maxUserID    = 32
	maxDeviceID  = 128
	maxSessionID = 128

	idAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789" +
		"!#$%&()+-:;<=.>?@[]^_{}|~, "
)

var idByte = func() (ok [256]bool) {
	for i := range len(idAlphabet) {
		ok[idAlphabet[i]] = true
	}
	return ok
}()

// ParseRoomID accepts 1–128 bytes of the characters that ZIM allows in IDs. It
// fails with an error that wraps [ErrBadID] and is fit to show.
func ParseRoomID(s string) (RoomID, error) {
	return RoomID(s), checkID("roomID", s, 1, maxRoomID)
}

// ParseUserID accepts 1–32 bytes of the same characters, and fails likewise.
func ParseUserID(s string) (UserID, error) {
	return UserID(s), checkID("userID", s, 1, maxUserID)
}

// CheckSearch accepts what a roomID may begin with, and fails likewise.
func CheckSearch(s string) error {
	return checkID("search", s, 1, maxRoomID)
}

// CheckDeviceID accepts up to 128 bytes of the same characters, and fails
// likewise.
func CheckDeviceID(s string) error {
	return checkID("deviceID", s, 0, maxDeviceID)
}

// CheckSessionID accepts 1–128 bytes of the same characters, and fails
// likewise. What [NewSessionID] makes is shorter.
func CheckSessionID(s string) error {
	return checkID("sessionID", s, 1, maxSessionID)
}

func checkID(what, s string, least, most int) error {
	if len(s) < least || len(s) > most {
		return fmt.Errorf("%w: %s has %d bytes, allowed are %d to %d", ErrBadID, what, len(s), least, most)
	}
	for i := range len(s) {
		if !idByte[s[i]] {
			return fmt.Errorf("%w: %s has the byte %q at position %d, allowed are A-Z a-z 0-9 space and %s",
				ErrBadID, what, s[i:i+1], i+1, strings.TrimSpace(idAlphabet[62:]))
		}
	}
	return nil
}

// NewSessionID makes a session ID of 96 random bits.
func NewSessionID() SessionID {
	return SessionID(randomText(12))
}

// NewNodeID makes the name of one incarnation of a node.
func NewNodeID() string {
	return randomText(9)
}

func randomText(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}
