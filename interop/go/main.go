// The published Go client, unmodified, drives our machine.
//
// Usage: go-client ADDRESS KEY_ID KEY LEG
//
// Legs: drive lists the resources, moves the base for a second and stops it; hold sets the base in motion and then waits until it is killed.
// Every step is a JSON line on standard output.
//
// It imports packages under AGPL-3.0 and therefore stands alone, in a module of its own; it is built to be run here and published nowhere.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/golang/geo/r3"
	"go.viam.com/rdk/components/base"
	"go.viam.com/rdk/logging"
	"go.viam.com/rdk/robot/client"
	"go.viam.com/utils/rpc"
)

func say(step string, facts map[string]any) {
	if facts == nil {
		facts = map[string]any{}
	}
	facts["step"], facts["t"] = step, float64(time.Now().UnixMicro())/1e6
	line, err := json.Marshal(facts)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func run(ctx context.Context, address, id, key, leg string) error {
	// Its log goes to standard error: what stands on standard output is for whoever started this.
	logger := logging.NewBlankLogger("client")
	logger.AddAppender(logging.NewWriterAppender(os.Stderr))
	started := time.Now()
	credentials := rpc.WithEntityCredentials(id, rpc.Credentials{Type: rpc.CredentialsTypeAPIKey, Payload: key})
	robot, err := client.New(ctx, address, logger, client.WithDialOptions(credentials))
	if err != nil {
		return err
	}
	say("connected", map[string]any{"seconds": time.Since(started).Seconds()})
	names := []string{}
	for _, name := range robot.ResourceNames() {
		names = append(names, name.API.SubtypeName+"/"+name.Name)
	}
	say("resources", map[string]any{"names": names})
	wheels, err := base.FromRobot(robot, "base")
	if err != nil {
		return err
	}
	if err := wheels.SetVelocity(ctx, r3.Vector{Y: 150}, r3.Vector{}, nil); err != nil {
		return err
	}
	if leg == "hold" {
		say("moving", nil)
		select {}
	}
	time.Sleep(time.Second)
	moving, err := wheels.IsMoving(ctx)
	if err != nil {
		return err
	}
	if err := wheels.Stop(ctx, nil); err != nil {
		return err
	}
	after, err := wheels.IsMoving(ctx)
	if err != nil {
		return err
	}
	say("driven", map[string]any{"moving": moving, "after": after})
	if err := robot.Close(ctx); err != nil {
		return err
	}
	say("closed", nil)
	return nil
}

func main() {
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		say("failed", map[string]any{"error": err.Error()})
		os.Exit(1)
	}
}
