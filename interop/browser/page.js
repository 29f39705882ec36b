// What the page does with the SDK: connect, list, drive, look, live through a restart of the machine, and then drive until it is killed.

const say = (step, facts = {}) =>
  fetch('/say', { method: 'POST', body: JSON.stringify({ step, t: Date.now() / 1000, ...facts }) });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const straight = (y) => [
  { x: 0, y, z: 0 },
  { x: 0, y: 0, z: 0 },
];

async function main() {
  const { host, signalingAddress, id, key } = await (await fetch('/conf')).json();
  const started = performance.now();
  const robot = await sdk.createRobotClient({
    host,
    signalingAddress,
    credentials: { type: 'api-key', authEntity: id, payload: key },
  });
  await say('connected', { seconds: (performance.now() - started) / 1000 });

  const base = new sdk.BaseClient(robot, 'base');
  await base.setPower(...straight(0.3));
  const moving = await base.isMoving();
  await pause(1000);
  await base.stop();
  await say('driven', { moving, after: await base.isMoving() });

  const names = await robot.resourceNames();
  await say('resources', { names: names.map((n) => `${n.subtype}/${n.name}`).sort() });

  const { images } = await new sdk.CameraClient(robot, 'camera').getImages();
  await say('images', { images: images.map((i) => ({ bytes: i.image.length, mime: i.mimeType })) });

  // The machine is killed and started again now.
  let lost = null;
  for (;;) {
    try {
      const answer = await Promise.race([robot.resourceNames(), pause(1000).then(() => Promise.reject(new Error('no answer')))]);
      if (lost !== null && answer.length > 0) {
        break;
      }
    } catch (error) {
      lost ??= performance.now();
    }
    await pause(50);
  }
  await say('back', { seconds: (performance.now() - lost) / 1000 });

  await base.setPower(...straight(0.3));
  await say('moving');
}

main().catch((error) => say('failed', { error: `${error}`, stack: error?.stack }));
