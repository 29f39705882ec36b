// The published Go client, unmodified, drives our machine.
//
// Usage: go-client ADDRESS KEY_ID KEY LEG [direct|named]
//
// Legs: drive lists the resources, moves the base for a second and stops it; hold sets the base in motion and then waits until it is killed;
// told connects to each address that is a line of standard input, one after another, and tells how long that took until a call was answered.
// With direct it uses no WebRTC; named is what it does anyway: it looks for a name by mDNS. Every step is a JSON line on standard output.
//
// It imports packages under AGPL-3.0 and therefore stands alone, in a module of its own; it is built to be run here and published nowhere.
package main

import (
	"bufio"
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

// How long a dial may take before it counts as failed. The client by itself gives up after 20 s.
const patience = 25 * time.Second

// dialer connects to an address with the same credentials and options each time.
func dialer(id, key string, direct bool) func(context.Context, string) (*client.RobotClient, error) {
	// Its log goes to standard error: what stands on standard output is for whoever started this.
	logger := logging.NewBlankLogger("client")
	logger.AddAppender(logging.NewWriterAppender(os.Stderr))
	credentials := rpc.WithEntityCredentials(id, rpc.Credentials{Type: rpc.CredentialsTypeAPIKey, Payload: key})
	options := []rpc.DialOption{credentials}
	if direct {
		options = append(options, rpc.WithForceDirectGRPC())
	}
	return func(ctx context.Context, address string) (*client.RobotClient, error) {
		return client.New(ctx, address, logger, client.WithDialOptions(options...))
	}
}

// dialed connects once and lists the resources, which client.New already does by a call: only then it returns.
func dialed(ctx context.Context, address string, direct bool, dial func(context.Context, string) (*client.RobotClient, error)) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	started := time.Now()
	robot, err := dial(ctx, address)
	if err != nil {
		return 0, err
	}
	seconds, names, webrtc := time.Since(started).Seconds(), len(robot.ResourceNames()), robot.WebRTCStats() != nil
	if err := robot.Close(ctx); err != nil {
		return 0, err
	}
	if names == 0 || webrtc == direct {
		return 0, fmt.Errorf("%d resources, over WebRTC: %t", names, webrtc)
	}
	return seconds, nil
}

func told(ctx context.Context, direct bool, dial func(context.Context, string) (*client.RobotClient, error)) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if seconds, err := dialed(ctx, lines.Text(), direct, dial); err != nil {
			say("dialed", map[string]any{"error": err.Error()})
		} else {
			say("dialed", map[string]any{"seconds": seconds})
		}
	}
	return lines.Err()
}

func run(ctx context.Context, address, id, key, leg string, direct bool) error {
	dial := dialer(id, key, direct)
	if leg == "told" {
		return told(ctx, direct, dial)
	}
	started := time.Now()
	robot, err := dial(ctx, address)
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
	direct := len(os.Args) > 5 && os.Args[5] == "direct"
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3], os.Args[4], direct); err != nil {
		say("failed", map[string]any{"error": err.Error()})
		os.Exit(1)
	}
}
