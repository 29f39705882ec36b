"""The published Python SDK, unmodified, calls our machine at a fixed pace, whatever becomes of the calls, and tells of them as the example
`openloop` of our client does.

Usage: openloop.py ADDRESS KEY_ID KEY SECONDS [direct]

50 times a second IsMoving of the base, and SetVelocity with a value of its own. With `direct` it uses no WebRTC.
"""

import asyncio
import json
import sys
import time

from viam.components.base import Base
from viam.proto.common import Vector3
from viam.robot.client import RobotClient

RATE = 50


def say(**line):
    print(json.dumps({"t": time.time(), **line}), flush=True)


async def told(kind, number, due, call):
    """Waits for a call and says what became of it, `due` being when it should have been made."""
    try:
        await call
        error = None
    except Exception as failure:
        error = str(failure) or type(failure).__name__
    took = (time.monotonic() - due) * 1e3
    say(call=kind, number=number, took_ms=took, ok=error is None, error=error)


async def main():
    address, key_id, key, seconds = sys.argv[1:5]
    options = RobotClient.Options.with_api_key(api_key=key, api_key_id=key_id)
    options.dial_options.disable_webrtc = sys.argv[5:] == ["direct"]
    started = time.monotonic()
    robot = await RobotClient.at_address(address, options)
    say(connected="the SDK's", took_ms=(time.monotonic() - started) * 1e3)
    base = Base.from_robot(robot, "base")
    begun, calls = time.monotonic(), set()
    for number in range(1, int(float(seconds) * RATE)):
        due = begun + (number - 1) / RATE
        await asyncio.sleep(max(0, due - time.monotonic()))
        velocity = base.set_velocity(linear=Vector3(y=100 + number / 10), angular=Vector3())
        for kind, call in [("motion", velocity), ("read", base.is_moving())]:
            task = asyncio.create_task(told(kind, number, due, call))
            calls.add(task)
            task.add_done_callback(calls.discard)
    await robot.close()
    say(closed=True)


asyncio.run(main())
