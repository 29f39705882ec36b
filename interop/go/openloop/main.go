// The published Go client, unmodified, calls our machine at a fixed pace, whatever becomes of the calls, and tells of them as the example
// `openloop` of our client does.
//
// Usage: go-openloop ADDRESS KEY_ID KEY SECONDS [direct]
//
// 50 times a second IsMoving of the base, and SetVelocity with a value of its own. With `direct` it uses no WebRTC.
//
// It imports packages under AGPL-3.0 and therefore stands alone, in a module of its own; it is built to be run here and published nowhere.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/golang/geo/r3"
	"go.viam.com/rdk/components/base"
	"go.viam.com/rdk/logging"
	"go.viam.com/rdk/robot/client"
	"go.viam.com/utils/rpc"
)

const rate = 50

// Calls end side by side; each line is whole.
var output sync.Mutex

func say(line map[string]any) {
	line["t"] = float64(time.Now().UnixMicro()) / 1e6
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	output.Lock()
	defer output.Unlock()
	fmt.Println(string(text))
}

// told makes a call and says what became of it, due being when it should have been made.
func told(kind string, number int, due time.Time, call func() error) {
	err := call()
	line := map[string]any{"call": kind, "number": number, "took_ms": time.Since(due).Seconds() * 1e3, "ok": err == nil}
	if err != nil {
		line["error"] = err.Error()
	}
	say(line)
}

func run(ctx context.Context, address, id, key string, seconds float64, direct bool) error {
	// Its log goes to standard error: what stands on standard output is for whoever started this.
	logger := logging.NewBlankLogger("client")
	logger.AddAppender(logging.NewWriterAppender(os.Stderr))
	options := []rpc.DialOption{rpc.WithEntityCredentials(id, rpc.Credentials{Type: rpc.CredentialsTypeAPIKey, Payload: key})}
	if direct {
		options = append(options, rpc.WithForceDirectGRPC())
	}
	started := time.Now()
	robot, err := client.New(ctx, address, logger, client.WithDialOptions(options...))
	if err != nil {
		return err
	}
	say(map[string]any{"connected": "the client's", "took_ms": time.Since(started).Seconds() * 1e3})
	wheels, err := base.FromRobot(robot, "base")
	if err != nil {
		return err
	}
	begun := time.Now()
	for number := 1; number < int(seconds*rate); number++ {
		due := begun.Add(time.Duration(number-1) * time.Second / rate)
		time.Sleep(time.Until(due))
		velocity := r3.Vector{Y: 100 + float64(number)/10}
		go told("motion", number, due, func() error { return wheels.SetVelocity(ctx, velocity, r3.Vector{}, nil) })
		go told("read", number, due, func() error {
			_, err := wheels.IsMoving(ctx)
			return err
		})
	}
	if err := robot.Close(ctx); err != nil {
		return err
	}
	say(map[string]any{"closed": true})
	return nil
}

func main() {
	seconds, err := strconv.ParseFloat(os.Args[4], 64)
	if err == nil {
		direct := len(os.Args) > 5 && os.Args[5] == "direct"
		err = run(context.Background(), os.Args[1], os.Args[2], os.Args[3], seconds, direct)
	}
	if err != nil {
		say(map[string]any{"failed": err.Error()})
		os.Exit(1)
	}
}
