"""A machine made of the published Python SDK's own server classes, for our client to drive.

Usage: machine.py PORT

It has a motor `m1` and a sensor `s1` and speaks gRPC without TLS. What the motor was told is a JSON line on standard output.
"""

import asyncio
import json
import sys
import time
from typing import Any, Mapping, Optional, Tuple

from viam.components.motor import Motor
from viam.components.sensor import Sensor
from viam.rpc.server import Server


def say(step, **facts):
    print(json.dumps({"step": step, "t": time.time(), **facts}), flush=True)


class RecordingMotor(Motor):
    """Remembers its power and tells every command."""

    power = 0.0

    async def set_power(self, power: float, **_: Any):
        self.power = power
        say("set_power", value=power)

    async def go_for(self, rpm: float, revolutions: float, **_: Any):
        say("go_for", rpm=rpm, revolutions=revolutions)

    async def go_to(self, rpm: float, position_revolutions: float, **_: Any):
        say("go_to", rpm=rpm, position=position_revolutions)

    async def set_rpm(self, rpm: float, **_: Any):
        say("set_rpm", rpm=rpm)

    async def reset_zero_position(self, offset: float, **_: Any):
        say("reset_zero_position", offset=offset)

    async def get_position(self, **_: Any) -> float:
        return 0.0

    async def get_properties(self, **_: Any) -> Motor.Properties:
        return Motor.Properties(position_reporting=True)

    async def stop(self, **_: Any):
        self.power = 0.0
        say("stop")

    async def is_powered(self, **_: Any) -> Tuple[bool, float]:
        return self.power != 0.0, self.power

    async def is_moving(self) -> bool:
        return self.power != 0.0


class ConstantSensor(Sensor):
    """Always reads 42."""

    async def get_readings(self, *, extra: Optional[Mapping[str, Any]] = None, timeout: Optional[float] = None, **_: Any):
        return {"answer": 42}


async def main():
    server = Server([RecordingMotor("m1"), ConstantSensor("s1")])
    await server.serve(host="127.0.0.1", port=int(sys.argv[1]), log_level=None)


asyncio.run(main())
