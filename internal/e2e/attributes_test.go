//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

const (
	setR    = `{"roomID":"R","roomAttributes":%s}`
	deleteR = `{"roomID":"R","keys":%s}`
)

// attributesSet and attributesDeleted are how a change of attributes reads.
func attributesSet(pairs string) string {
	return `R attributes [{"action":"set","roomAttributes":{` + pairs + `}}]`
}

func attributesDeleted(pairs string) string {
	return `R attributes [{"action":"delete","roomAttributes":{` + pairs + `}}]`
}

// attributesPair are ana and bo, in R on two gateways.
func attributesPair(t *testing.T, flags ...string) (ana, bo *wire, a, b *gateway) {
	t.Helper()
	server, _ := anyRedis(t)
	a, b = startPair(t, server.Addr(), flags...)
	ana, bo = enroll(a, t, "ana"), enroll(b, t, "bo")
	ana.enter("R")
	bo.enter("R")
	ana.until("R +bo 2")
	return ana, bo, a, b
}

// Who changes attributes is answered first and then hears of it, like everybody else.
func TestRoomAttributes_changed(t *testing.T) {
	for _, flags := range [][]string{{"--partitions=1"}, {"--partitions=16"}} {
		t.Run(flags[0], func(t *testing.T) {
			t.Parallel()
			ana, bo, a, _ := attributesPair(t, flags...)
			both := func(want string) {
				t.Helper()
				ana.hears("ok", want)
				bo.hears(want)
			}
			ana.send(protocol.MethodSetRoomAttributes, fmt.Sprintf(setR, `{"k":"v","l":""}`))
			both(attributesSet(`"k":"v","l":""`))
			ana.send(protocol.MethodDeleteRoomAttributes, fmt.Sprintf(deleteR, `["l","nothing"]`))
			both(attributesDeleted(`"l":""`))
			ana.send(protocol.MethodBatchRoomAttributes, `{"roomID":"R","operations":[{"action":"delete","keys":["k"]},{"action":"set","roomAttributes":{"m":"1","n":"2"}}]}`)
			both(`R attributes batch [{"action":"set","roomAttributes":{"m":"1","n":"2"}},{"action":"delete","roomAttributes":{"k":""}}]`)
			ana.send(protocol.MethodDeleteRoomAttributes, fmt.Sprintf(deleteR, `["nothing"]`))
			ana.hears("ok")

			bo.send(protocol.MethodSetRoomAttributes, fmt.Sprintf(setR, `{"m":"x"}`))
			bo.hears("error 6000331")
			var r protocol.AttributesResult
			bo.ask(protocol.MethodSetRoomAttributes, fmt.Sprintf(setR, `{"m":"x","o":"3"}`), &r)
			if d := cmp.Diff(protocol.AttributesResult{RoomID: "R", ErrorKeys: []string{"m"}}, r); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			bo.hears(attributesSet(`"o":"3"`))
			ana.hears(attributesSet(`"o":"3"`))
			bo.send(protocol.MethodSetRoomAttributes, strings.TrimSuffix(fmt.Sprintf(setR, `{"m":"x"}`), "}")+`,"config":{"isForce":true,"isUpdateOwner":true,"isDeleteAfterOwnerLeft":true}}`)
			bo.hears("ok", attributesSet(`"m":"x"`))
			ana.hears(attributesSet(`"m":"x"`))

			cy := enroll(a, t, "cy")
			cy.send(protocol.MethodSetRoomAttributes, fmt.Sprintf(setR, `{"k":"v"}`))
			cy.hears("error 6000321")
			cy.send(protocol.MethodJoinRoom, joinR)
			cy.hears("R connecting activeEnter", attributesSet(`"m":"x","n":"2","o":"3"`), "R connected success", "ok")
			ana.hears("R +cy 3")
			bo.hears("R +cy 3")

			bo.send(protocol.MethodLeaveRoom, joinR)
			bo.hears("R disconnected success", "ok")
			ana.hears("R -bo 2", attributesDeleted(`"m":""`))
			cy.hears("R -bo 2", attributesDeleted(`"m":""`))
			bo.settled()
			var all protocol.AllAttributesResult
			cy.ask(protocol.MethodQueryRoomAllAttributes, joinR, &all)
			if d := cmp.Diff(map[string]string{"n": "2", "o": "3"}, all.RoomAttributes); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			cy.send(protocol.MethodSetRoomAttributes, `{"roomID":"none","roomAttributes":{"k":"v"}}`)
			cy.hears("error 6000322")
		})
	}
}

// The answer comes first, always, and what others do meanwhile keeps its order.
func TestRoomAttributes_order(t *testing.T) {
	t.Parallel()
	ana, bo, _, _ := attributesPair(t, "--rate-limits=false")
	const n = 200
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			bo.send(protocol.MethodSendRoomMessage, fmt.Sprintf(`{"roomID":"R","message":{"type":1,"message":"%d"}}`, i))
		}
	}()
	var last int64
	for i := range n {
		id := ana.send(protocol.MethodSetRoomAttributes, fmt.Sprintf(setR, fmt.Sprintf(`{"k":"%d"}`, i)))
		for answered, heard := false, false; !heard; {
			frame := ana.take()
			switch b := brief(frame); {
			case b == "ok" && strings.Contains(frame, fmt.Sprintf(`"id":%d,`, id)):
				answered = true
			case b == attributesSet(fmt.Sprintf(`"k":"%d"`, i)):
				if heard = true; !answered {
					t.Fatalf("%d: heard of it before the answer", i)
				}
			case !strings.HasPrefix(b, "R bo: "):
				t.Fatalf("%d: got %q", i, b)
			}
			if seq := seqOf(t, frame); seq > 0 {
				if seq <= last {
					t.Fatalf("seq %d after %d", seq, last)
				}
				last = seq
			}
		}
	}
	<-done
}

// seqOf gives the seq of an event, 0 for an answer.
func seqOf(t *testing.T, frame string) int64 {
	t.Helper()
	if !strings.Contains(frame, `"params"`) {
		return 0
	}
	return params[struct {
		Seq int64 `json:"seq"`
	}](t, frame).Seq
}

// Who comes back gets the changes it has missed, its own ones, too, in their place
// among the messages; and an answer that was lost can be had again.
func TestRoomAttributes_missed(t *testing.T) {
	t.Parallel()
	ana, bo, a, b := attributesPair(t)
	for name, g := range map[string]*gateway{"the same gateway": b, "another gateway": a} {
		t.Run(name, func(t *testing.T) {
			user := strings.ReplaceAll(name, " ", "-")
			cy := connect(t, b.URL())
			session := cy.login(`{"userID":"` + user + `"}`).SessionID
			known := cy.enter("R")
			cy.send(protocol.MethodSetRoomAttributes, `{"roomID":"R","roomAttributes":{"own":"1"},"config":{"isForce":true},"requestKey":5}`)
			bo.until(attributesSet(`"own":"1"`))
			cy.drop()
			ana.say("R", "hello")
			ana.ask(protocol.MethodSetRoomAttributes, fmt.Sprintf(setR, `{"k":"1"}`), nil)
			ana.ask(protocol.MethodSetRoomMembersAttributes, `{"roomID":"R","userIDs":["ana"],"attributes":{"x":"1"}}`, nil)
			ana.say("R", "bye")
			cy, resumed := resume(t, g, user, session, at("R", known.Position))
			if !resumed {
				t.Fatal("the session did not go on")
			}
			cy.hears("R connected success", attributesSet(`"own":"1"`), "R ana: hello", attributesSet(`"k":"1"`),
				`R ana sets ana {"x":"1"}`, "R ana: bye")
			cy.ask(protocol.MethodSetRoomAttributes, `{"roomID":"R","roomAttributes":{"own":"1"},"config":{"isForce":true},"requestKey":5}`, nil)
			cy.settled()
			cy.send(protocol.MethodLogout, "{}")
			bo.until("R -" + user + " 2")
		})
	}
}

// Attributes of members: everybody hears of them, per-user errors are told, and a
// member's go with it unless they are to stay.
func TestMemberAttributes(t *testing.T) {
	t.Parallel()
	ana, bo, a, _ := attributesPair(t)
	var set protocol.SetMembersAttributesResult
	ana.ask(protocol.MethodSetRoomMembersAttributes, `{"roomID":"R","userIDs":["bo","ghost","ana"],"attributes":{"level":"7","seat":""}}`, &set)
	own := func(user string) protocol.MemberAttributesSet {
		return protocol.MemberAttributesSet{
			AttributesInfo: protocol.MemberAttributes{UserID: user, Attributes: map[string]string{"level": "7", "seat": ""}}, ErrorKeys: []string{},
		}
	}
	want := protocol.SetMembersAttributesResult{RoomID: "R", Infos: []protocol.MemberAttributesSet{own("bo"), own("ana")}, ErrorUserList: []string{"ghost"}}
	if d := cmp.Diff(want, set); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	heard := `R ana sets bo {"level":"7","seat":""}, ana {"level":"7","seat":""}`
	ana.hears(heard)
	bo.hears(heard)
	bo.ask(protocol.MethodSetRoomMembersAttributes, `{"roomID":"R","userIDs":["bo"],"attributes":{"stays":"1"},"config":{"isDeleteAfterOwnerLeft":false}}`, nil)
	bo.hears(`R bo sets bo {"stays":"1"}`)
	ana.hears(`R bo sets bo {"stays":"1"}`)

	var one protocol.MembersAttributesResult
	ana.ask(protocol.MethodQueryRoomMembersAttributes, `{"roomID":"R","userIDs":["ghost","bo"]}`, &one)
	if d := cmp.Diff([]protocol.MemberAttributes{{UserID: "bo", Attributes: map[string]string{"level": "7", "seat": "", "stays": "1"}}}, one.Infos); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	bo.ask(protocol.MethodLeaveRoom, joinR, nil)
	ana.hears("R -bo 1")
	bo.enter("R")
	ana.hears("R +bo 2")
	var users []string
	for next, last := "", false; !last; {
		var page protocol.MemberAttributesListResult
		ana.ask(protocol.MethodQueryRoomMemberAttributesList, fmt.Sprintf(`{"roomID":"R","config":{"count":1,"nextFlag":%q}}`, next), &page)
		for _, info := range page.Infos {
			users = append(users, fmt.Sprint(info.UserID, info.Attributes))
		}
		next, last = page.NextFlag, page.NextFlag == ""
	}
	if d := cmp.Diff([]string{"anamap[level:7 seat:]", "bomap[stays:1]"}, users); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	cy := enroll(a, t, "cy")
	for method, params := range map[string]string{
		protocol.MethodSetRoomMembersAttributes:      `{"roomID":"R","userIDs":["ana"],"attributes":{"a":"b"}}`,
		protocol.MethodQueryRoomMembersAttributes:    `{"roomID":"R","userIDs":["ana"]}`,
		protocol.MethodQueryRoomMemberAttributesList: `{"roomID":"R","config":{"count":1}}`,
	} {
		cy.send(method, params)
		cy.hears("error 6000321")
	}
}

// Each limit refuses by its own code, and names it; nothing has happened then.
func TestAttributes_limits(t *testing.T) {
	t.Parallel()
	ana, bo, _, _ := attributesPair(t, "--rate-limits=false")
	many := func(n, key, value int) string {
		var all []string
		for i := range n {
			k := fmt.Sprintf("%0*d", key, i)
			all = append(all, fmt.Sprintf("%q:%q", k, strings.Repeat("v", value)))
		}
		return "{" + strings.Join(all, ",") + "}"
	}
	members := func(attributes string) string {
		return `{"roomID":"R","userIDs":["bo"],"attributes":` + attributes + `}`
	}
	users := func(n int) string {
		return `["` + strings.Repeat(`u","`, n-1) + `u"]`
	}
	for _, tt := range []struct {
		method, params string
		code           protocol.Code
		words          []string
	}{
		{"setRoomAttributes", fmt.Sprintf(setR, many(21, 2, 1)), protocol.CodeAttributeCount, []string{"21", "20"}},
		{"setRoomAttributes", fmt.Sprintf(setR, many(1, 17, 1)), protocol.CodeAttributeKey, []string{"17", "16"}},
		{"setRoomAttributes", fmt.Sprintf(setR, `{"":"v"}`), protocol.CodeAttributeKey, []string{"0 bytes"}},
		{"setRoomAttributes", fmt.Sprintf(setR, many(1, 1, 1025)), protocol.CodeAttributeValue, []string{"1025", "1024"}},
		{"setRoomAttributes", fmt.Sprintf(setR, many(6, 2, 1000)), protocol.CodeAttributesSize, []string{"6012", "5120"}},
		{"setRoomAttributes", fmt.Sprintf(setR, `{}`), protocol.CodeBadParameter, []string{"no attributes"}},
		{"deleteRoomAttributes", fmt.Sprintf(deleteR, `[]`), protocol.CodeBadParameter, []string{"0 keys", "1 to 20"}},
		{"deleteRoomAttributes", fmt.Sprintf(deleteR, users(21)), protocol.CodeBadParameter, []string{"21 keys", "1 to 20"}},
		{"deleteRoomAttributes", fmt.Sprintf(deleteR, `[""]`), protocol.CodeAttributeKey, []string{"0 bytes"}},
		{"batchRoomAttributes", `{"roomID":"R","operations":[]}`, protocol.CodeBadParameter, []string{"0 entries", "1 to 20"}},
		{"batchRoomAttributes", `{"roomID":"R","operations":[{"action":"paint"}]}`, protocol.CodeBadParameter, []string{`"paint"`}},
		{"batchRoomAttributes", `{"roomID":"R","operations":[{"action":"set","roomAttributes":{"a":"b"}},{"action":"delete","roomAttributes":{"a":"b"}}]}`,
			protocol.CodeBadParameter, []string{"operations[1]", "delete"}},
		{"batchRoomAttributes", `{"roomID":"R","operations":[{"action":"set","roomAttributes":{"a":"b"}},{"action":"set","keys":["a"]}]}`,
			protocol.CodeBadParameter, []string{"operations[1]", "set"}},
		{"setRoomMembersAttributes", members(many(31, 2, 1)), protocol.CodeMemberAttributeCount, []string{"31", "30"}},
		{"setRoomMembersAttributes", members(many(1, 9, 1)), protocol.CodeMemberAttributeKey, []string{"9", "8"}},
		{"setRoomMembersAttributes", members(many(1, 1, 65)), protocol.CodeMemberAttributeValue, []string{"65", "64"}},
		{"setRoomMembersAttributes", members(`{}`), protocol.CodeBadParameter, []string{"no attributes"}},
		{"setRoomMembersAttributes", `{"roomID":"R","userIDs":[],"attributes":{"a":"b"}}`, protocol.CodeBadParameter, []string{"0 users", "1 to 100"}},
		{"setRoomMembersAttributes", `{"roomID":"R","userIDs":` + users(101) + `,"attributes":{"a":"b"}}`, protocol.CodeBadParameter, []string{"101 users", "1 to 100"}},
		{"setRoomMembersAttributes", `{"roomID":"R","userIDs":["a/b"],"attributes":{"a":"b"}}`, protocol.CodeBadParameter, []string{"userIDs[0]"}},
		{"queryRoomMemberAttributesList", `{"roomID":"R","config":{"count":101}}`, protocol.CodeBadParameter, []string{"101", "100"}},
		{"queryRoomMemberAttributesList", `{"roomID":"R","config":{"count":1,"nextFlag":"a/b"}}`, protocol.CodeBadParameter, []string{"nextFlag"}},
	} {
		ana.send(tt.method, tt.params)
		e := ana.refused(tt.code)
		for _, word := range tt.words {
			if !strings.Contains(e.Message, word) {
				t.Errorf("%s %.80s: %q does not say %q", tt.method, tt.params, e.Message, word)
			}
		}
	}
	// What is there already counts.
	ana.ask(protocol.MethodSetRoomAttributes, fmt.Sprintf(setR, many(20, 2, 1)), nil)
	bo.send(protocol.MethodSetRoomAttributes, fmt.Sprintf(setR, `{"x":""}`))
	bo.until("error 6000334")
	ana.ask(protocol.MethodDeleteRoomAttributes, fmt.Sprintf(deleteR, `["00","01","02","03","04","05"]`), nil)
	ana.ask(protocol.MethodSetRoomAttributes, fmt.Sprintf(setR, many(5, 1, 1010)), nil)
	bo.send(protocol.MethodSetRoomAttributes, fmt.Sprintf(setR, `{"x":"`+strings.Repeat("v", 100)+`"}`))
	bo.until("error 6000337")
	ana.ask(protocol.MethodSetRoomMembersAttributes, members(many(2, 1, 60)), nil)
	ana.send(protocol.MethodSetRoomMembersAttributes, members(`{"x":"`+strings.Repeat("v", 22)+`"}`))
	ana.until("error 6000351")
	ana.ask(protocol.MethodSetRoomMembersAttributes, `{"roomID":"R","userIDs":["ana"],"attributes":`+many(30, 2, 0)+`}`, nil)
	ana.send(protocol.MethodSetRoomMembersAttributes, `{"roomID":"R","userIDs":["ana"],"attributes":{"x":""}}`)
	ana.until("error 6000350")
}

// The Go SDK speaks all of it.
func TestClient_attributes(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr())
	c, err := client.Dial(t.Context(), client.Config{URLs: []string{g.URL()}, User: protocol.UserInfo{UserID: "ana"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := t.Context()
	if _, err := c.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: "R"}, nil); err != nil {
		t.Fatal(err)
	}
	var errs []error
	check := func(_ any, err error) { errs = append(errs, err) }
	check(c.SetRoomAttributes(ctx, "R", map[string]string{"k": "v", "l": "1"}, &protocol.AttributesConfig{IsForce: true}))
	check(c.DeleteRoomAttributes(ctx, "R", []string{"l"}, nil))
	check(c.BatchRoomAttributes(ctx, "R", []protocol.AttributesOperation{
		{Action: protocol.AttributesSet, RoomAttributes: map[string]string{"m": "2"}}, {Action: protocol.AttributesDelete, Keys: []string{"k"}},
	}, nil))
	check(c.SetRoomMembersAttributes(ctx, "R", []string{"ana"}, map[string]string{"x": "1"}, nil))
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	var heard []string
	for len(heard) < 4 {
		select {
		case e := <-c.Events():
			switch e := e.(type) {
			case *client.AttributesUpdated:
				heard = append(heard, fmt.Sprint(e.Infos))
			case *client.AttributesBatchUpdated:
				heard = append(heard, fmt.Sprint("batch", e.Infos))
			case *client.MemberAttributesUpdated:
				heard = append(heard, fmt.Sprint(e.Infos))
			}
		case <-ctx.Done():
			t.Fatalf("heard only %q", heard)
		}
	}
	want := []string{"[{set map[k:v l:1]}]", "[{delete map[l:]}]", "batch[{set map[m:2]} {delete map[k:]}]", "[{{ana map[x:1]}}]"}
	if d := cmp.Diff(want, heard); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	all, err := c.QueryRoomMembersAttributes(ctx, "R", []string{"ana"})
	if err != nil || len(all.Infos) != 1 {
		t.Errorf("got %+v, %v", all, err)
	}
	page, err := c.QueryRoomMemberAttributesList(ctx, "R", protocol.PageConfig{Count: 1})
	if err != nil || len(page.Infos) != 1 || page.NextFlag != "" {
		t.Errorf("got %+v, %v", page, err)
	}
}
