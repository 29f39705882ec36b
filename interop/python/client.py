"""The published Python SDK, unmodified, drives our machine.

Usage: client.py ADDRESS KEY_ID KEY LEG [relay|direct|named]

With `relay` it may only use relays, with `direct` no WebRTC; `named` is what it does anyway: it looks for a name by mDNS. Legs: `list` prints the resources; `dials` connects twenty times, one after another; `told` connects
to each address that is a line of standard input, and tells how long that took until the resources were listed; `power` sets a motor's power and stays for two seconds; `drive` moves the base by a metre and back; `hold` sets a velocity and then waits
until it is killed. Every step is a JSON line on standard output.
"""

import asyncio
import json
import sys
import time

from viam.components.base import Base
from viam.components.motor import Motor
from viam.proto.common import Vector3
from viam.robot.client import RobotClient


def say(step, **facts):
    print(json.dumps({"step": step, "t": time.time(), **facts}), flush=True)


async def dials(address, options):
    seconds = []
    for _ in range(20):
        started = time.monotonic()
        robot = await RobotClient.at_address(address, options)
        seconds.append(time.monotonic() - started)
        await robot.close()
    say("dials", seconds=seconds)


async def told(options):
    for line in sys.stdin:
        started = time.monotonic()
        try:
            robot = await RobotClient.at_address(line.strip(), options)
            seconds = time.monotonic() - started
            names = len(robot.resource_names)
            await robot.close()
            if not names:
                raise RuntimeError("it lists nothing")
        except Exception as error:
            say("dialed", error=repr(error))
        else:
            say("dialed", seconds=seconds)


async def main():
    address, key_id, key, leg = sys.argv[1:5]
    options = RobotClient.Options.with_api_key(api_key=key, api_key_id=key_id)
    options.dial_options.force_relay = sys.argv[5:] == ["relay"]
    options.dial_options.disable_webrtc = sys.argv[5:] == ["direct"]
    if leg == "dials":
        return await dials(address, options)
    if leg == "told":
        return await told(options)
    started = time.monotonic()
    robot = await RobotClient.at_address(address, options)
    say("connected", seconds=time.monotonic() - started)
    say("resources", names=sorted(f"{n.subtype}/{n.name}" for n in robot.resource_names))
    base = Base.from_robot(robot, "base")
    if leg == "drive":
        await base.move_straight(distance=500, velocity=500)
        await base.move_straight(distance=-500, velocity=500)
        say("driven", moving=await base.is_moving())
    if leg == "power":
        await Motor.from_robot(robot, "left").set_power(0.2)
        say("powered")
        await asyncio.sleep(2.1)
    if leg == "hold":
        await base.set_velocity(linear=Vector3(y=150), angular=Vector3())
        say("moving")
        while True:
            await asyncio.sleep(1)
    await robot.close()
    say("closed")


asyncio.run(main())
