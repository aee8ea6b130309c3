package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

// Log in, enter a room, say something, and print what the others say.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	c, err := client.Dial(ctx, client.Config{
		URLs:  []string{"ws://localhost:8080"},
		User:  protocol.UserInfo{UserID: "ana", UserName: "Ana"},
		Token: "any, with --dev",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	room, err := c.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: "lobby", RoomName: "The lobby"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("members:", room.MemberCount)

	hello := protocol.OutgoingMessage{Type: protocol.MessageText, Message: "hello"}
	if _, err := c.SendRoomMessage(ctx, "lobby", hello, nil); err != nil {
		log.Fatal(err)
	}

	for ev := range c.Events() {
		switch ev := ev.(type) {
		case *client.MessageReceived:
			for _, m := range ev.MessageList {
				fmt.Printf("%s: %s\n", m.SenderUserID, m.Message)
			}
		case *client.MemberLeft:
			fmt.Println("members:", ev.MemberCount)
			if err := c.Logout(ctx); err != nil {
				log.Print(err)
			}
		}
	}
	fmt.Println(c.Err()) // logged out
}

// Tell what the service refused from what may or may not have happened.
func ExampleUnansweredError() {
	var c *client.Client // from Dial

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := c.LeaveRoom(ctx, "lobby")

	if refused, ok := errors.AsType[*protocol.Error](err); ok {
		fmt.Println("refused:", refused.Code)
	} else if lost, ok := errors.AsType[*client.UnansweredError](err); ok && lost.Unknown {
		fmt.Println("left or not, nobody knows")
	}
}
