package gateway

import (
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// Limits of what clients send (docs/protocol.md, section 8). Those that an operator
// can change are in the store's Config.
const (
	maxRoomName         = 64
	maxUserName         = 256
	maxUserText         = 1024 // avatar URL, extended data
	maxDelay            = 10800
	maxAttributes       = roomstore.MaxAttributes
	maxAttrKey          = 16
	maxAttrValue        = 1024
	maxAttrTotal        = roomstore.MaxAttributeBytes
	maxMembersWithAttrs = 500
	maxMemberAttrs      = roomstore.MaxMemberAttributes
	maxMemberAttrKey    = 8
	maxMemberAttrValue  = 64
	maxMemberAttrTotal  = roomstore.MaxMemberAttributeBytes
	maxText             = 2 << 10
	maxCommand          = 5 << 10
	maxExtendedData     = 1 << 10
	maxPage             = 100
	maxLookup           = 10
	maxResumed          = 500
	maxWhole            = 1 << 53 // no whole number on the wire is as large, or as far below 0
)

func checkText(what, s string, most int) *protocol.Error {
	if len(s) > most {
		return badParameter("%s has %d bytes, allowed are %d", what, len(s), most)
	}
	if !utf8.ValidString(s) {
		return badParameter("%s is not valid UTF-8", what)
	}
	return nil
}

func checkRequestKey(k int64) *protocol.Error {
	if k < 0 || k >= maxWhole {
		return badParameter("requestKey %d is not between 1 and 2^53 - 1", k)
	}
	return nil
}

// delayOf reads roomDestroyDelayTime: whole seconds from 0 to 10800.
func delayOf(seconds float64) (int, *protocol.Error) {
	if seconds < 0 || seconds > maxDelay || seconds != math.Trunc(seconds) {
		return 0, badParameter("roomDestroyDelayTime %v is not a whole number of seconds from 0 to %d", seconds, maxDelay)
	}
	return int(seconds), nil
}

func checkAttributes(a map[string]string) *protocol.Error {
	if len(a) > maxAttributes {
		return fail(protocol.CodeAttributeCount, "roomAttributes has %d keys, allowed are %d", len(a), maxAttributes)
	}
	total := 0
	for _, k := range sortedKeys(a) {
		v := a[k]
		if err := checkAttributeKey(k); err != nil {
			return err
		}
		if len(v) > maxAttrValue {
			return fail(protocol.CodeAttributeValue, "the attribute %q has a value of %d bytes, allowed are %d", k, len(v), maxAttrValue)
		}
		total += len(k) + len(v)
	}
	if total > maxAttrTotal {
		return fail(protocol.CodeAttributesSize, "roomAttributes has %d bytes in all, allowed are %d", total, maxAttrTotal)
	}
	return nil
}

// sortedKeys gives the keys in one order: what is refused twice over is so for one
// reason.
func sortedKeys(a map[string]string) []string { return slices.Sorted(maps.Keys(a)) }

func checkAttributeKey(k string) *protocol.Error {
	if k == "" || len(k) > maxAttrKey {
		return fail(protocol.CodeAttributeKey, "the attribute key %q has %d bytes, allowed are 1 to %d", k, len(k), maxAttrKey)
	}
	return nil
}

// checkMemberAttributes checks what each of some users is to get. Whether it is too much
// together depends on what they have.
func checkMemberAttributes(a map[string]string) *protocol.Error {
	if len(a) == 0 {
		return badParameter("there are no attributes to set")
	}
	if len(a) > maxMemberAttrs {
		return fail(protocol.CodeMemberAttributeCount, "attributes has %d keys, allowed are %d", len(a), maxMemberAttrs)
	}
	for _, k := range sortedKeys(a) {
		if k == "" || len(k) > maxMemberAttrKey {
			return fail(protocol.CodeMemberAttributeKey, "the attribute key %q has %d bytes, allowed are 1 to %d", k, len(k), maxMemberAttrKey)
		}
		if len(a[k]) > maxMemberAttrValue {
			return fail(protocol.CodeMemberAttributeValue, "the attribute %q has a value of %d bytes, allowed are %d", k, len(a[k]), maxMemberAttrValue)
		}
	}
	return nil
}

func checkPage(count int) *protocol.Error {
	if count < 1 || count > maxPage {
		return badParameter("config.count %d is not between 1 and %d", count, maxPage)
	}
	return nil
}

// checkMessage checks a message and gives its priority.
func checkMessage(m *protocol.OutgoingMessage, config *protocol.SendConfig) (protocol.MessagePriority, *protocol.Error) {
	most := maxText
	switch m.Type {
	case protocol.MessageText, protocol.MessageCustom:
	case protocol.MessageCommand, protocol.MessageBarrage:
		most = maxCommand
	default:
		return 0, badParameter("message.type %d is none of 1 (text), 2 (command), 20 (barrage), 200 (custom)", m.Type)
	}
	size := len(m.Message)
	if m.Type == protocol.MessageCommand {
		n, ok := base64Size(m.Message)
		if !ok {
			return 0, badParameter("message.message of a command is not base64")
		}
		size = n
	}
	if size == 0 {
		return 0, badParameter("message.message is empty")
	}
	if size > most {
		return 0, badParameter("message.message has %d bytes, allowed are %d for type %d", size, most, m.Type)
	}
	if err := checkText("message.extendedData", m.ExtendedData, maxExtendedData); err != nil {
		return 0, err
	}
	if m.SubType < 0 || m.SubType > 200 {
		return 0, badParameter("message.subType %d is not between 0 and 200", m.SubType)
	}
	priority := protocol.PriorityLow
	if config != nil && config.Priority != 0 {
		priority = config.Priority
	}
	if priority < protocol.PriorityLow || priority > protocol.PriorityHigh {
		return 0, badParameter("config.priority %d is none of 1 (low), 2 (medium), 3 (high)", priority)
	}
	return priority, nil
}

// base64Size gives how many bytes standard base64 (RFC 4648, section 4) stands
// for, padded or not.
func base64Size(s string) (int, bool) {
	digits := strings.TrimRight(s, "=")
	pad := len(s) - len(digits)
	if pad > 2 || pad > 0 && len(s)%4 != 0 || len(digits)%4 == 1 {
		return 0, false
	}
	for i := range len(digits) {
		c := digits[i]
		if !('A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '+' || c == '/') {
			return 0, false
		}
	}
	return len(digits) * 3 / 4, true
}
