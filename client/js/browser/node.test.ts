import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Gateway, World } from './world.js';

// The SDK as it is built, in a program of Node.

let world: World;
let gateway: Gateway;
let sdk: string;

beforeAll(async () => {
  world = await World.start();
  gateway = await world.gateway();
  sdk = world.sdk();
});

afterAll(() => world.close());

// Node 20 has a WebSocket behind this flag, and Node 22 without.
const flag = '--experimental-websocket';

test.runIf(process.allowedNodeEnvironmentFlags.has(flag))('a program enters a room, speaks, and ends by itself', async () => {
  const out = await world.node(
    `import { ZIM, ZIMRoomState } from '${sdk}/index.js';
    const zim = ZIM.create({ appID: 1, server: '${gateway.url}' });
    zim.on('roomStateChanged', (zim, { state }) => console.log(ZIMRoomState[state]));
    await zim.login('ana', { userName: 'Ana', token: '' });
    await zim.enterRoom({ roomID: 'r', roomName: 'R' });
    const { message } = await zim.sendMessage({ type: 2, message: Uint8Array.of(1, 255) }, 'r', 1, { priority: 1 });
    console.log(message.message.join());
    zim.logout();
    zim.destroy();`,
    [flag, '--no-warnings'],
  );
  expect(out.trim().split('\n')).toEqual(['Connecting', 'Connected', '1,255']);
});

test('where there is no WebSocket, login says what to do', async () => {
  const out = await world.node(
    `import { ZIM } from '${sdk}/index.js';
    delete globalThis.WebSocket;
    const zim = ZIM.create({ appID: 1, server: '${gateway.url}' });
    await zim.login('ana', { userName: 'Ana', token: '' }).catch((err) => console.log(JSON.stringify(err)));`,
  );
  expect(JSON.parse(out)).toEqual({ code: 6000001, message: expect.stringMatching(/give a constructor in ZIM.create/) });
});
