package serverapi

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/roomgate/roomgate/protocol"
)

// This file is what each route does, but for the stream of events.

func (a *API) list(w http.ResponseWriter, r *http.Request) {
	q, ok := query(w, r, "count", "nextFlag", "search")
	if !ok {
		return
	}
	count, ok := number(w, q, "count", MaxCount, 1, MaxCount)
	if !ok {
		return
	}
	search := q.Get("search")
	if len(search) > MaxSearch {
		badParameter(w, fmt.Sprintf("search has %d bytes, the limit is %d", len(search), MaxSearch))
		return
	}
	page, err := a.rooms.List(r.Context(), search, q.Get("nextFlag"), int(count))
	if err != nil {
		a.fail(w, r, "list", "", err)
		return
	}
	answer(w, http.StatusOK, page)
}

func (a *API) room(w http.ResponseWriter, r *http.Request) {
	room, ok := roomID(w, r)
	if !ok {
		return
	}
	if _, ok := query(w, r); !ok {
		return
	}
	detail, err := a.rooms.Room(r.Context(), room)
	if err != nil {
		a.fail(w, r, "room", room, err)
		return
	}
	answer(w, http.StatusOK, detail)
}

func (a *API) members(w http.ResponseWriter, r *http.Request) {
	room, ok := roomID(w, r)
	if !ok {
		return
	}
	q, ok := query(w, r, "count", "nextFlag")
	if !ok {
		return
	}
	count, ok := number(w, q, "count", MaxCount, 1, MaxCount)
	if !ok {
		return
	}
	page, err := a.rooms.Members(r.Context(), room, q.Get("nextFlag"), int(count))
	if err != nil {
		a.fail(w, r, "members", room, err)
		return
	}
	answer(w, http.StatusOK, page)
}

func (a *API) create(w http.ResponseWriter, r *http.Request) {
	if _, ok := query(w, r); !ok {
		return
	}
	var n NewRoom
	if !decode(w, r, map[string]any{
		"roomID": &n.RoomID, "roomName": &n.RoomName, "roomDestroyDelayTime": &n.RoomDestroyDelayTime,
		"roomAttributes": &n.RoomAttributes, "creatorUserID": &n.CreatorUserID,
	}) {
		return
	}
	if n.RoomID == "" {
		badParameter(w, "roomID is required")
		return
	}
	detail, err := a.rooms.Create(r.Context(), n)
	if err != nil {
		a.fail(w, r, "create", n.RoomID, err)
		return
	}
	// Whoever follows a URL takes these for steps between folders, also escaped.
	if n.RoomID != "." && n.RoomID != ".." {
		w.Header().Set("Location", "/v1/rooms/"+url.PathEscape(n.RoomID))
	}
	answer(w, http.StatusCreated, detail)
}

func (a *API) send(w http.ResponseWriter, r *http.Request) {
	room, ok := roomID(w, r)
	if !ok {
		return
	}
	if _, ok := query(w, r); !ok {
		return
	}
	var m NewMessage
	var kind, subType int64
	if !decode(w, r, map[string]any{
		"senderUserID": &m.SenderUserID, "type": &kind, "message": &m.Message.Message, "subType": &subType,
		"extendedData": &m.Message.ExtendedData, "priority": &m.Priority,
	}) {
		return
	}
	if m.SenderUserID == "" {
		badParameter(w, "senderUserID is required")
		return
	}
	m.Message.Type, m.Message.SubType = protocol.MessageType(kind), int(subType)
	sent, err := a.rooms.Send(r.Context(), room, m)
	if err != nil {
		a.fail(w, r, "send", room, err)
		return
	}
	answer(w, http.StatusOK, sent)
}

func (a *API) destroy(w http.ResponseWriter, r *http.Request) {
	room, ok := roomID(w, r)
	if !ok {
		return
	}
	if _, ok := query(w, r); !ok {
		return
	}
	if err := a.rooms.Destroy(r.Context(), room); err != nil {
		a.fail(w, r, "destroy", room, err)
		return
	}
	answer(w, http.StatusOK, struct {
		RoomID string `json:"roomID"`
	}{room})
}

// kickExtendedData is what the clients of the kicked user get with their
// roomStateChanged, in the spelling of ZIM.
type kickExtendedData struct {
	RoomID  string `json:"room_id"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (a *API) kick(w http.ResponseWriter, r *http.Request) {
	room, ok := roomID(w, r)
	if !ok {
		return
	}
	if _, ok := query(w, r); !ok {
		return
	}
	var user, reason, message string
	if !decode(w, r, map[string]any{"userID": &user, "reason": &reason, "message": &message}) {
		return
	}
	switch {
	case user == "":
		badParameter(w, "userID is required")
		return
	case len(reason) > MaxReason:
		badParameter(w, fmt.Sprintf("reason has %d bytes, the limit is %d", len(reason), MaxReason))
		return
	case len(message) > MaxMessage:
		badParameter(w, fmt.Sprintf("message has %d bytes, the limit is %d", len(message), MaxMessage))
		return
	}
	extendedData := encode(kickExtendedData{RoomID: room, Reason: reason, Message: message})
	if err := a.rooms.Kick(r.Context(), room, user, string(extendedData)); err != nil {
		a.fail(w, r, "kick", room, err)
		return
	}
	answer(w, http.StatusOK, struct {
		RoomID string `json:"roomID"`
		UserID string `json:"userID"`
	}{room, user})
}

func (a *API) cluster(w http.ResponseWriter, r *http.Request) {
	if _, ok := query(w, r); !ok {
		return
	}
	cluster, err := a.rooms.Cluster(r.Context())
	if err != nil {
		a.fail(w, r, "cluster", "", err)
		return
	}
	answer(w, http.StatusOK, cluster)
}
