import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { Tab } from './tab.js';
import { type Gateway, token, until, World } from './world.js';

// Tabs on two gateways, of which one is lost in all the ways there are. What the others in the
// room see of it is nothing, as long as the tab comes back in time.

let world: World;
let one: Gateway;
let two: Gateway;
let browser: Browser;
let site: string;

beforeAll(async () => {
  world = await World.start();
  const flags = ['--log-size=5']; // so little is kept that a test can miss more
  [one, two] = [await world.gateway({ flags }), await world.gateway({ flags })];
  browser = await world.browser();
  site = await world.pages(join(import.meta.dirname, 'samples'));
});

afterAll(() => world.close());

const interrupted = [3, 3]; // reconnecting, loginInterrupted
const connected = [2, 0];

const tabs: Tab[] = [];

async function open(): Promise<Tab> {
  const tab = await Tab.open(browser, site);
  tabs.push(tab);
  return tab;
}

afterEach(async () => {
  for (const tab of tabs.splice(0)) {
    await tab.close();
  }
});

/**
 * pair logs ana in by the servers given and bob by gateway two, in one room, with nothing told
 * yet. They are other users in each room: the sessions of closed tabs last for a while.
 */
async function pair(roomID: string, config: object): Promise<{ ana: Tab; bob: Tab }> {
  const [ana, bob] = [await open(), await open()];
  await ana.login(`ana of ${roomID}`, config);
  await ana.call('enterRoom', { roomID, roomName: '' }, { roomAttributes: { topic: 'x' }, roomDestroyDelayTime: 0 });
  await bob.login(`bob of ${roomID}`, { server: two.url });
  await bob.call('joinRoom', roomID);
  await ana.reported('roomMemberJoined', [bob.userID]);
  ana.reports.length = bob.reports.length = 0;
  return { ana, bob };
}

/** comesBack checks what a tab sees of a link that was lost for a while, with this said meanwhile. */
async function comesBack(ana: Tab, bob: Tab, roomID: string, missed: string[]): Promise<void> {
  await ana.reported('roomMessageReceived', [missed.at(-1)]);
  expect(ana.told('connectionStateChanged')).toEqual([interrupted, connected]);
  expect(ana.told('roomStateChanged')).toEqual([[roomID, 1, 1], [roomID, ...connected]]);
  expect(ana.told('roomMessageReceived')).toEqual(missed.map((text) => [text]));
  // The way back holds, too, and nobody has seen anybody leave.
  expect((await ana.say(roomID, 'here again')).message.message).toBe('here again');
  await bob.reported('roomMessageReceived', ['here again']);
  for (const step of ['roomMemberLeft', 'roomMemberJoined', 'roomHistoryLost', 'error']) {
    expect([step, ana.told(step), bob.told(step)]).toEqual([step, [], []]);
  }
}

test('a link that is cut: what was missed comes, once and in order, and a call waits', async () => {
  const relay = await world.relay(one);
  const { ana, bob } = await pair('cut', { server: relay.url });
  relay.cut();
  await ana.reported('connectionStateChanged', interrupted);
  const missed = ['one', 'two', 'three'];
  for (const text of missed) {
    await bob.say('cut', text);
  }
  const sending = ana.say('cut', 'waits');
  relay.restore();
  expect((await sending).message.message).toBe('waits');
  await bob.reported('roomMessageReceived', ['waits']);
  await comesBack(ana, bob, 'cut', missed);
  await expect(ana.call('queryRoomMemberList', 'cut', { count: 10, nextFlag: '' })).resolves.toMatchObject({ nextFlag: '' });
});

test('a link that says nothing any more is found by ping, and another gateway taken', async () => {
  const relay = await world.relay(one);
  const { ana, bob } = await pair('frozen', { server: [relay.url, two.url] });
  relay.freeze();
  await bob.say('frozen', 'one');
  await comesBack(ana, bob, 'frozen', ['one']);
});

test('more was missed than is kept: it is said, and the difference told', async () => {
  // The way back is over a gateway that knows nothing of the room but what Redis keeps.
  const relay = await world.relay(one);
  const back = await world.relay(await world.gateway({ flags: ['--log-size=5'] }));
  const { ana, bob } = await pair('lost', { server: [relay.url, back.url] });
  const cid = await open();
  await cid.login('cid', { server: two.url });
  await cid.call('joinRoom', 'lost');
  const dan = await open();
  await dan.login('dan', { server: two.url });
  await ana.reported('roomMemberJoined', ['cid']);
  await ana.call('queryRoomMemberList', 'lost', { count: 100, nextFlag: '' });
  back.cut();
  relay.cut();
  await ana.reported('connectionStateChanged', interrupted);
  await cid.call('leaveRoom', 'lost');
  await dan.call('joinRoom', 'lost');
  await bob.call('setRoomAttributes', { topic: 'y' }, 'lost', { isForce: true });
  for (let i = 0; i < 6; i++) {
    await bob.say('lost', `${i}`);
  }
  ana.reports.length = 0;
  back.restore();
  await ana.reported('roomMemberJoined', ['dan']);
  await ana.reported('roomAttributesUpdated');
  expect(ana.told('roomHistoryLost')).toEqual(['lost']);
  expect(ana.told('roomMemberLeft')).toEqual([['cid']]);
  expect(ana.told('roomMemberJoined')).toEqual([['dan']]);
  expect(ana.told('roomAttributesUpdated')).toEqual([[{ action: 0, roomAttributes: { topic: 'y' } }]]);
  await bob.say('lost', 'goes on');
  await ana.reported('roomMessageReceived', ['goes on']);
});

test('a gateway that is killed: the tab goes on over another', async () => {
  const victim = await world.gateway();
  const { ana, bob } = await pair('killed', { server: [victim.url, one.url] });
  await victim.process.end('SIGKILL');
  await ana.reported('connectionStateChanged', interrupted);
  await bob.say('killed', 'one');
  await bob.say('killed', 'two');
  await comesBack(ana, bob, 'killed', ['one', 'two']);
});

test('a gateway that is stopped sends the tab to another, while it still serves', async () => {
  const victim = await world.gateway();
  const { ana, bob } = await pair('drained', { server: [victim.url, one.url] });
  const ended = victim.process.end('SIGTERM');
  await ana.reported('connectionStateChanged', connected);
  await bob.say('drained', 'one');
  await comesBack(ana, bob, 'drained', ['one']);
  await ended;
});

test('a tab that does not come back in time is evicted, and comes back in again if it may', async () => {
  const relay = await world.relay(one);
  const { ana, bob } = await pair('evicted', { server: relay.url, reenterAfterEviction: true });
  relay.cut();
  await bob.reported('roomMemberLeft', [ana.userID]);
  relay.restore();
  await bob.reported('roomMemberJoined', [ana.userID]);
  await until('ana to be in the room', () => ana.told('roomStateChanged').length === 4);
  expect(ana.told('roomStateChanged')).toEqual([
    ['evicted', 1, 1], // connecting, networkInterrupted
    ['evicted', 0, 9], // disconnected, connectTimeout
    ['evicted', 1, 6], // connecting, activeEnter
    ['evicted', 2, 0],
  ]);
  expect(ana.told('roomAttributesUpdated')).toHaveLength(1); // of the new entry
});

test('a backend kicks a user, and ends a room', async () => {
  const { ana, bob } = await pair('backend', { server: one.url });
  expect(await two.backend('POST', '/v1/rooms/backend/kick', { userID: ana.userID, reason: 'late' })).toBe(200);
  expect(await ana.reported('roomStateChanged')).toEqual(['backend', 0, 8]); // kickedOut
  expect(await bob.reported('roomMemberLeft')).toEqual([ana.userID]);
  expect(await one.backend('DELETE', '/v1/rooms/backend')).toBe(200);
  expect(await bob.reported('roomStateChanged')).toEqual(['backend', 0, 3]); // roomNotExist
});

test('a user who enters from another tab takes the place of the first, and nobody sees it', async () => {
  const { ana, bob } = await pair('devices', { server: one.url });
  const other = await open();
  await other.login(ana.userID, { server: two.url });
  await other.call('joinRoom', 'devices');
  expect(await ana.reported('roomStateChanged')).toEqual(['devices', 0, 10]); // kickedOutByOtherDevice
  await other.say('devices', 'from here now');
  await bob.reported('roomMessageReceived', ['from here now']);
  expect([bob.told('roomMemberLeft'), bob.told('roomMemberJoined')]).toEqual([[], []]);
});

test('a logout takes effect at once, also when destroy and the end of the page follow', async () => {
  const { ana, bob } = await pair('logout', { server: one.url });
  await ana.page.evaluate(() => {
    const { zim } = window as any;
    zim.logout();
    zim.destroy();
  });
  await bob.reported('roomMemberLeft', [ana.userID]);
  expect(ana.reports).toEqual([]);
});

test('the browser says that it is offline and online again, and the link, which held, stays', async () => {
  const { ana, bob } = await pair('offline', { server: one.url });
  await ana.page.context().setOffline(true);
  await ana.page.context().setOffline(false);
  await bob.say('offline', 'one');
  await ana.reported('roomMessageReceived', ['one']);
  expect(ana.told('connectionStateChanged')).toEqual([]);
});

test('a token is renewed when it is about to expire; one that expires ends the login, and a new one begins another', async () => {
  const gateway = await world.gateway({ tokens: true });
  const ana = await open();
  await expect(ana.login('ana', { server: gateway.url }, 'no token')).rejects.toThrow();
  expect(ana.told('connectionStateChanged')).toEqual([[1, 1], [0, 3]]); // connecting; disconnected, loginInterrupted
  await ana.page.evaluate(() => (window as any).zim.destroy());
  ana.reports.length = 0;

  await ana.login('ana', { server: gateway.url }, token('ana', 25));
  await ana.reported('tokenWillExpire');
  const renewed = token('ana', 10);
  expect(await ana.call('renewToken', renewed)).toEqual({ token: renewed });
  expect(await ana.call('enterRoom', { roomID: 'tokens', roomName: '' })).toMatchObject({ created: true });
  ana.reports.length = 0;
  await ana.reported('connectionStateChanged', [0, 5]); // disconnected, tokenExpired
  expect(ana.told('roomStateChanged')).toEqual([['tokens', 0, 2]]);
  expect(await ana.call('queryRoomAllAttributes', 'tokens')).toMatchObject({ code: 6000121 });

  await ana.call('login', 'ana', { userName: 'ana', token: token('ana', 3600) });
  expect(await ana.call('enterRoom', { roomID: 'tokens', roomName: '' })).toMatchObject({ created: false });
});
