package protocol_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/protocol"
)

var update = flag.Bool("update", false, "write testdata anew")

const epoch = 1790000000000001

var (
	ana = protocol.UserInfo{
		UserID: "ana", UserName: "Ana \"A\" Ñandú", UserAvatarURL: "https://example.com/a.png?x=1&y=<2>", UserExtendedData: `{"level":7}`,
	}
	bo   = protocol.UserInfo{UserID: "bo"}
	at   = protocol.Position{Epoch: epoch, Seq: 12}
	room = protocol.Room{
		RoomInfo: protocol.RoomFullInfo{BaseInfo: protocol.RoomBaseInfo{RoomID: "R", RoomName: "Lobby"}},
		Created:  true, Position: protocol.Position{Epoch: epoch, Seq: 1}, MemberCount: 1,
	}
	create = protocol.EnterParams{
		RoomInfo: protocol.RoomBaseInfo{RoomID: "R", RoomName: "Lobby"},
		Config: &protocol.RoomConfig{
			RoomAttributes: map[string]string{"topic": "golden", "lang": "en"}, RoomDestroyDelayTime: 30,
		},
		RequestKey: 5,
	}
	text = protocol.Message{
		Type: protocol.MessageText, Message: "hi <all> & \u2028 🎉", SubType: 3, ExtendedData: `{"reply":"1"}`, Priority: protocol.PriorityLow,
		SenderUserID: "ana", ConversationID: "R", ConversationType: 1,
		MessageID: "8123456789012345678", MessageSeq: 4, OrderKey: 1790000000000123, Timestamp: 1790000000000,
	}
	command = protocol.Message{
		Type: protocol.MessageCommand, Message: "AAEC/w==", Priority: protocol.PriorityHigh,
		SenderUserID: "bo", ConversationID: "R", ConversationType: 1,
		MessageID: "42", MessageSeq: 4, OrderKey: 1790000000000124, Timestamp: 1790000000001,
	}
	after = int64(12)
)

func raw(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// Every message of the contract, by the name of its file. What is left out of
// a request or an event is left out here, in one file or another.
var (
	requests = map[string]struct {
		method string
		params any
	}{
		"login":                          {protocol.MethodLogin, protocol.LoginParams{UserID: "ana", UserName: ana.UserName, UserAvatarURL: ana.UserAvatarURL, UserExtendedData: ana.UserExtendedData, Token: "secret", DeviceID: "phone", Platform: "web", SDKVersion: "2.20.0"}},
		"login_least":                    {protocol.MethodLogin, protocol.LoginParams{UserID: "bo"}},
		"login_resume":                   {protocol.MethodLogin, protocol.LoginParams{UserID: "ana", Resume: &protocol.Resume{SessionID: "c2Vzc2lvbi1pZA", Rooms: []protocol.ResumeRoom{{RoomID: "R", Position: at}, {RoomID: "S", Position: protocol.Position{Epoch: epoch, Seq: 3}, MembersSeq: 9}}}}},
		"logout":                         {protocol.MethodLogout, nil},
		"renewToken":                     {protocol.MethodRenewToken, protocol.RenewTokenParams{Token: "secret"}},
		"ping":                           {protocol.MethodPing, nil},
		"createRoom":                     {protocol.MethodCreateRoom, create},
		"enterRoom":                      {protocol.MethodEnterRoom, create},
		"enterRoom_least":                {protocol.MethodEnterRoom, protocol.EnterParams{RoomInfo: protocol.RoomBaseInfo{RoomID: "R"}}},
		"joinRoom":                       {protocol.MethodJoinRoom, protocol.RoomParams{RoomID: "R", RequestKey: 6}},
		"switchRoom":                     {protocol.MethodSwitchRoom, protocol.SwitchParams{FromRoomID: "R", ToRoomInfo: protocol.RoomBaseInfo{RoomID: "S", RoomName: "Stage"}, IsCreateWhenRoomNotExisted: true, Config: create.Config, RequestKey: 10}},
		"leaveRoom":                      {protocol.MethodLeaveRoom, protocol.RoomParams{RoomID: "R", RequestKey: 7}},
		"leaveAllRoom":                   {protocol.MethodLeaveAllRoom, protocol.LeaveAllParams{RequestKey: 8}},
		"sendRoomMessage":                {protocol.MethodSendRoomMessage, protocol.SendParams{RoomID: "R", Message: protocol.OutgoingMessage{Type: text.Type, Message: text.Message, SubType: 3, ExtendedData: text.ExtendedData}, RequestKey: 9}},
		"sendRoomMessage_command":        {protocol.MethodSendRoomMessage, protocol.SendParams{RoomID: "R", Message: protocol.OutgoingMessage{Type: command.Type, Message: command.Message}, Config: &protocol.SendConfig{Priority: protocol.PriorityHigh}}},
		"queryRoomMemberList":            {protocol.MethodQueryRoomMemberList, protocol.MemberListParams{RoomID: "R", Config: protocol.PageConfig{Count: 100, NextFlag: "1790000000000001:12"}}},
		"queryRoomMembers":               {protocol.MethodQueryRoomMembers, protocol.MembersParams{UserIDs: []string{"ana", "cy"}, RoomID: "R"}},
		"queryRoomOnlineMemberCount":     {protocol.MethodQueryRoomOnlineMemberCount, protocol.RoomParams{RoomID: "R"}},
		"setRoomAttributes":              {protocol.MethodSetRoomAttributes, protocol.SetAttributesParams{RoomID: "R", RoomAttributes: map[string]string{"lang": "en", "topic": ""}, Config: &protocol.AttributesConfig{IsForce: true, IsUpdateOwner: true, IsDeleteAfterOwnerLeft: true}, RequestKey: 11}},
		"setRoomAttributes_least":        {protocol.MethodSetRoomAttributes, protocol.SetAttributesParams{RoomID: "R", RoomAttributes: map[string]string{"lang": "en"}}},
		"deleteRoomAttributes":           {protocol.MethodDeleteRoomAttributes, protocol.DeleteAttributesParams{RoomID: "R", Keys: []string{"lang", "topic"}, Config: &protocol.AttributesConfig{IsForce: true}, RequestKey: 12}},
		"batchRoomAttributes":            {protocol.MethodBatchRoomAttributes, protocol.BatchAttributesParams{RoomID: "R", Operations: []protocol.AttributesOperation{{Action: protocol.AttributesSet, RoomAttributes: map[string]string{"lang": "en"}}, {Action: protocol.AttributesDelete, Keys: []string{"topic"}}}, Config: &protocol.AttributesConfig{IsDeleteAfterOwnerLeft: true}, RequestKey: 13}},
		"setRoomMembersAttributes":       {protocol.MethodSetRoomMembersAttributes, protocol.SetMembersAttributesParams{RoomID: "R", UserIDs: []string{"ana", "bo"}, Attributes: map[string]string{"level": "7"}, Config: &protocol.MemberAttributesConfig{IsDeleteAfterOwnerLeft: new(bool)}, RequestKey: 14}},
		"setRoomMembersAttributes_least": {protocol.MethodSetRoomMembersAttributes, protocol.SetMembersAttributesParams{RoomID: "R", UserIDs: []string{"ana"}, Attributes: map[string]string{"level": "7"}}},
		"queryRoomHistory":               {protocol.MethodQueryRoomHistory, protocol.HistoryParams{RoomID: "R", Config: protocol.HistoryConfig{Count: 50, BeforeSeq: 7}}},
		"queryRoomMembersAttributes":     {protocol.MethodQueryRoomMembersAttributes, protocol.MembersAttributesParams{RoomID: "R", UserIDs: []string{"ana", "bo"}}},
		"queryRoomMemberAttributesList":  {protocol.MethodQueryRoomMemberAttributesList, protocol.MemberListParams{RoomID: "R", Config: protocol.PageConfig{Count: 100, NextFlag: "ana"}}},
		"queryRoomAllAttributes":         {protocol.MethodQueryRoomAllAttributes, protocol.RoomParams{RoomID: "R"}},
	}
	results = map[string]any{
		"login":                         protocol.LoginResult{SessionID: "c2Vzc2lvbi1pZA", UserID: "ana", Resumed: true, Node: "gateway-1", ServerTime: 1790000000000, HeartbeatIntervalMS: 10000, SessionTTLMS: 35000, TokenExpiresAt: 1790003600000},
		"login_noExpiry":                protocol.LoginResult{SessionID: "c2Vzc2lvbi1pZA", UserID: "ana", Node: "gateway-1", ServerTime: 1790000000000, HeartbeatIntervalMS: 10000, SessionTTLMS: 35000},
		"logout":                        struct{}{},
		"renewToken":                    protocol.RenewTokenResult{TokenExpiresAt: 1790003600000},
		"ping":                          protocol.PingResult{ServerTime: 1790000000000},
		"createRoom":                    room,
		"enterRoom":                     room,
		"joinRoom":                      protocol.Room{RoomInfo: room.RoomInfo, Position: at, MemberCount: 3},
		"switchRoom":                    protocol.Room{RoomInfo: protocol.RoomFullInfo{BaseInfo: protocol.RoomBaseInfo{RoomID: "S", RoomName: "Stage"}}, Created: true, Position: protocol.Position{Epoch: epoch, Seq: 1}, MemberCount: 1},
		"leaveRoom":                     protocol.LeaveResult{RoomID: "R"},
		"leaveAllRoom":                  protocol.LeaveAllResult{RoomIDs: []string{"R", "S"}},
		"leaveAllRoom_none":             protocol.LeaveAllResult{RoomIDs: []string{}},
		"sendRoomMessage":               protocol.SendResult{Message: text, Epoch: 1795320737318034, Seq: 3},
		"queryRoomMemberList":           protocol.MemberListResult{RoomID: "R", MemberList: []json.RawMessage{raw(ana), raw(bo)}, NextFlag: "1790000000000001:12", Position: at},
		"queryRoomMembers":              protocol.MembersResult{RoomID: "R", MemberList: []json.RawMessage{raw(ana)}, ErrorUserList: []protocol.UserError{{UserID: "cy", Reason: protocol.CodeNotInRoom}}, Position: at},
		"queryRoomOnlineMemberCount":    protocol.CountResult{RoomID: "R", Count: 3, Position: at},
		"setRoomAttributes":             protocol.AttributesResult{RoomID: "R", ErrorKeys: []string{"topic"}},
		"deleteRoomAttributes":          protocol.AttributesResult{RoomID: "R", ErrorKeys: []string{}},
		"batchRoomAttributes":           protocol.AttributesResult{RoomID: "R", ErrorKeys: []string{}},
		"setRoomMembersAttributes":      protocol.SetMembersAttributesResult{RoomID: "R", Infos: []protocol.MemberAttributesSet{{AttributesInfo: protocol.MemberAttributes{UserID: "ana", Attributes: map[string]string{"level": "7"}}, ErrorKeys: []string{}}, {AttributesInfo: protocol.MemberAttributes{UserID: "bo", Attributes: map[string]string{}}, ErrorKeys: []string{"level"}}}, ErrorUserList: []string{"cy"}},
		"queryRoomHistory":              protocol.HistoryResult{RoomID: "R", MessageList: []json.RawMessage{raw(text)}, NextSeq: 4, Position: at},
		"queryRoomMembersAttributes":    protocol.MembersAttributesResult{RoomID: "R", Infos: []protocol.MemberAttributes{{UserID: "ana", Attributes: map[string]string{"level": "7"}}}, Position: at},
		"queryRoomMemberAttributesList": protocol.MemberAttributesListResult{RoomID: "R", Infos: []protocol.MemberAttributes{{UserID: "bo", Attributes: map[string]string{"level": "7"}}}, NextFlag: "bo", Position: at},
		"queryRoomAllAttributes":        protocol.AllAttributesResult{RoomID: "R", RoomAttributes: map[string]string{"lang": "en", "topic": "golden", "é\u0000": ""}, Position: at},
		"queryRoomAllAttributes_none":   protocol.AllAttributesResult{RoomID: "R", RoomAttributes: map[string]string{}, Position: at},
	}
	events = map[string]struct {
		method string
		params any
	}{
		"roomStateChanged":                 {protocol.EventRoomStateChanged, protocol.RoomStateChanged{RoomID: "R", State: protocol.RoomConnecting, Event: protocol.RoomActiveEnter}},
		"roomStateChanged_connected":       {protocol.EventRoomStateChanged, protocol.RoomStateChanged{RoomID: "R", State: protocol.RoomConnected, Event: protocol.RoomSuccess, Epoch: epoch, Seq: 12}},
		"roomStateChanged_kickedOut":       {protocol.EventRoomStateChanged, protocol.RoomStateChanged{RoomID: "R", State: protocol.RoomDisconnected, Event: protocol.RoomKickedOut, ExtendedData: `{"room_id":"R","reason":"spam","message":""}`}},
		"roomMemberJoined":                 {protocol.EventRoomMemberJoined, protocol.MembersChanged{RoomID: "R", MemberList: []protocol.UserInfo{ana, bo}, MemberCount: 3, Seq: 13}},
		"roomMemberLeft":                   {protocol.EventRoomMemberLeft, protocol.MembersChanged{RoomID: "R", MemberList: []protocol.UserInfo{bo}, MemberCount: 2, Seq: 14}},
		"roomMemberLeft_difference":        {protocol.EventRoomMemberLeft, protocol.MembersChanged{RoomID: "R", MemberList: []protocol.UserInfo{bo}, MemberCount: 3}},
		"roomMemberJoined_difference":      {protocol.EventRoomMemberJoined, protocol.MembersChanged{RoomID: "R", MemberList: []protocol.UserInfo{ana}, MemberCount: 3, MembersSeq: 19}},
		"roomMessageReceived":              {protocol.EventRoomMessageReceived, protocol.MessageReceived{FromConversationID: "R", MessageList: []protocol.Message{text}, Seq: 15}},
		"roomMessageReceived_membersSeq":   {protocol.EventRoomMessageReceived, protocol.MessageReceived{FromConversationID: "R", MessageList: []protocol.Message{text}, Seq: 15, MembersSeq: 19}},
		"roomMessageReceived_command":      {protocol.EventRoomMessageReceived, protocol.MessageReceived{FromConversationID: "R", MessageList: []protocol.Message{command}, After: &after}},
		"roomAttributesUpdated":            {protocol.EventRoomAttributesUpdated, protocol.AttributesUpdated{RoomID: "R", Infos: []protocol.AttributesInfo{{Action: protocol.AttributesSet, RoomAttributes: map[string]string{"lang": "en", "topic": "golden"}}}, OperatedInfo: protocol.AttributeOperator{UserID: "ana"}, Seq: 16}},
		"roomAttributesUpdated_membersSeq": {protocol.EventRoomAttributesUpdated, protocol.AttributesUpdated{RoomID: "R", Infos: []protocol.AttributesInfo{{Action: protocol.AttributesDelete, RoomAttributes: map[string]string{"topic": ""}}}, OperatedInfo: protocol.AttributeOperator{UserID: "ana"}, Seq: 16, MembersSeq: 19}},
		"roomAttributesBatchUpdated":       {protocol.EventRoomAttributesBatchUpdated, protocol.AttributesUpdated{RoomID: "R", Infos: []protocol.AttributesInfo{{Action: protocol.AttributesSet, RoomAttributes: map[string]string{"lang": "en"}}, {Action: protocol.AttributesDelete, RoomAttributes: map[string]string{"topic": ""}}}, OperatedInfo: protocol.AttributeOperator{UserID: "ana"}, Seq: 17}},
		"roomMemberAttributesUpdated":      {protocol.EventRoomMemberAttributesUpdated, protocol.MemberAttributesUpdated{RoomID: "R", Infos: []protocol.MemberAttributesInfo{{AttributesInfo: protocol.MemberAttributes{UserID: "bo", Attributes: map[string]string{"level": "7"}}}}, OperatedInfo: protocol.AttributeOperator{UserID: "ana"}, Seq: 18, MembersSeq: 19}},
		"roomModeChanged":                  {protocol.EventRoomModeChanged, protocol.RoomModeChanged{RoomID: "R", Mode: protocol.ModeSampled, Seq: 1001}},
		"roomHistoryLost":                  {protocol.EventRoomHistoryLost, protocol.HistoryLost{RoomID: "R", FromSeq: 12, ToSeq: 400}},
		"connectionStateChanged":           {protocol.EventConnectionStateChanged, protocol.ConnectionStateChanged{State: protocol.ConnectionDisconnected, Event: protocol.ConnectionKickedOut}},
		"tokenWillExpire":                  {protocol.EventTokenWillExpire, protocol.TokenWillExpire{Second: 30}},
		"serverDraining":                   {protocol.EventServerDraining, protocol.ServerDraining{ReconnectAfterMS: 1500}},
	}
	errs = map[string]protocol.Error{
		"parseError":     {Code: protocol.CodeParseError, Message: "the text is not JSON"},
		"badParameter":   {Code: protocol.CodeBadParameter, Message: "roomName has 65 bytes, allowed are 64"},
		"unavailable":    {Code: protocol.CodeUnavailable, Message: "the room store did not answer in time", Data: &protocol.ErrorData{Retryable: true}},
		"noRoom":         {Code: protocol.CodeNoRoom, Message: `no such room: "R"`},
		"notLoggedIn":    {Code: protocol.CodeNotLoggedIn, Message: "not logged in"},
		"methodNotFound": {Code: protocol.CodeMethodNotFound, Message: `there is no method "x"`},
	}
)

// A golden message is what its Go value encodes to, decodes to that value and
// to nothing else, and does so whatever later versions add to it.
func TestGolden(t *testing.T) {
	t.Parallel()
	id := json.RawMessage("7")
	for name, r := range requests {
		m := protocol.Request{JSONRPC: protocol.Version, ID: id, Method: r.method}
		if r.params != nil {
			m.Params = raw(r.params)
		}
		got := golden(t, "request_"+name, m)
		if r.params != nil {
			inner(t, "request_"+name, got.Params, r.params)
		}
	}
	for name, result := range results {
		got := golden(t, "result_"+name, protocol.Response{JSONRPC: protocol.Version, ID: id, Result: raw(result)})
		inner(t, "result_"+name, got.Result, result)
	}
	for name, e := range events {
		got := golden(t, "event_"+name, protocol.Notification{JSONRPC: protocol.Version, Method: e.method, Params: raw(e.params)})
		inner(t, "event_"+name, got.Params, e.params)
	}
	for name, e := range errs {
		m := protocol.Response{JSONRPC: protocol.Version, ID: id, Error: &e}
		if e.Code == protocol.CodeParseError {
			m.ID = json.RawMessage("null")
		}
		golden(t, "error_"+name, m)
	}
}

// golden compares a message with its file.
func golden[T any](t *testing.T, name string, want T) (got T) {
	t.Helper()
	file := filepath.Join("testdata", name+".json")
	if *update {
		var b bytes.Buffer
		json.Indent(&b, raw(want), "", "  ")
		b.WriteByte('\n')
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if diff := cmp.Diff(string(raw(want)), b.String()); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
	return inner(t, name, b.Bytes(), want)
}

// inner decodes b, strictly and with additions, and encodes it again.
func inner[T any](t *testing.T, name string, b []byte, want T) T {
	t.Helper()
	decode := func(b []byte, strict bool) T {
		v := reflect.New(reflect.TypeOf(want))
		d := json.NewDecoder(bytes.NewReader(b))
		if strict {
			d.DisallowUnknownFields()
		}
		if err := d.Decode(v.Interface()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return v.Elem().Interface().(T)
	}
	got := decode(b, true)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
	if again := string(raw(got)); again != string(b) {
		t.Errorf("%s: encoded again: got %s, want %s", name, again, b)
	}
	// What is inside raw JSON is another type's.
	more := strings.Replace(string(b), "{", `{"later":{"x":[1,null]},`, 1)
	more = strings.Replace(more, `,}`, `}`, 1)
	if diff := cmp.Diff(want, decode([]byte(more), false)); diff != "" {
		t.Errorf("%s, with additions: %s", name, diff)
	}
	return got
}

// Every message that there is has a file, and every file is of a message.
func TestGolden_complete(t *testing.T) {
	if *update {
		t.Skip("the files are being written")
	}
	t.Parallel()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	add := func(kind string, names ...string) {
		for _, n := range names {
			want = append(want, filepath.Join("testdata", kind+"_"+n+".json"))
		}
	}
	add("request", slices.Collect(maps.Keys(requests))...)
	add("result", slices.Collect(maps.Keys(results))...)
	add("event", slices.Collect(maps.Keys(events))...)
	add("error", slices.Collect(maps.Keys(errs))...)
	slices.Sort(want)
	slices.Sort(files)
	if diff := cmp.Diff(want, files); diff != "" {
		t.Error(diff)
	}

	source, err := os.ReadFile("protocol.go")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(source)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(strings.TrimSpace(value), `"`)
		if name = strings.TrimSpace(name); !ok {
			continue
		}
		switch {
		case strings.HasPrefix(name, "Method"):
			if _, ok := requests[value]; !ok {
				t.Errorf("there is no golden request %s", value)
			}
			if _, ok := results[value]; !ok {
				t.Errorf("there is no golden result of %s", value)
			}
		case strings.HasPrefix(name, "Event"):
			if _, ok := events[value]; !ok {
				t.Errorf("there is no golden event %s", value)
			}
		}
	}
}

// A close code says by its number whether to come back.
func TestCloseCode_Reconnect(t *testing.T) {
	t.Parallel()
	for code, want := range map[protocol.CloseCode]bool{
		protocol.CloseNormal: false, protocol.CloseGoingAway: true, protocol.CloseTooBig: false,
		protocol.CloseServiceRestart: true, protocol.CloseTryAgainLater: true,
		4000: true, protocol.CloseLoginTimeout: true, protocol.CloseNoSignOfLife: true, protocol.CloseSlowConsumer: true, 4499: true,
		protocol.CloseNotThisProtocol: false, protocol.CloseNotAuthorised: false, protocol.CloseKickedByLogin: false,
		protocol.CloseTakenOver: false, protocol.CloseRateAbuse: false, 4999: false,
		1006: true, -1: true, // a broken link
	} {
		if got := code.Reconnect(); got != want {
			t.Errorf("%d: got %v, want %v", code, got, want)
		}
	}
}
