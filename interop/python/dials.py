"""The published Python SDK, unmodified, dials two machines in turn: in clear, without credentials, as it can dial its own kind.

Usage: dials.py THEIRS OURS

Each `host:port`. A JSON line on standard output tells how long each of twenty dials to either took, until the machine's parts were listed.
"""

import asyncio
import json
import sys
import time

from viam.robot.client import RobotClient
from viam.rpc.dial import DialOptions


async def dial(address):
    # Without the native library: that one looks for WebRTC first, which its own kind of machine has none of.
    options = RobotClient.Options(dial_options=DialOptions(insecure=True, disable_webrtc=True))
    started = time.monotonic()
    robot = await RobotClient.at_address(address, options)
    seconds = time.monotonic() - started
    names = len(robot.resource_names)
    await robot.close()
    if not names:
        raise RuntimeError(f"{address} lists nothing")
    return seconds


async def main():
    theirs, ours = sys.argv[1:3]
    await dial(theirs)
    await dial(ours)
    told = {"theirs": [], "ours": []}
    for _ in range(20):
        told["theirs"].append(await dial(theirs))
        told["ours"].append(await dial(ours))
    print(json.dumps({"step": "compared", "t": time.time(), **told}), flush=True)


asyncio.run(main())
