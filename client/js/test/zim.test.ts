import { setImmediate as nextTurn } from 'node:timers';
import { expect, test, vi } from 'vitest';
import packageJSON from '../package.json' with { type: 'json' };
import { ZIM, ZIMConnectionState, ZIMRoomEvent } from '../src/index.js';
import { failure, Gateway, room, settle, timed, user, wireMessage, World } from './fake.js';

timed();

test('create makes one instance, and null while there is one; destroy frees it', () => {
  expect(ZIM.getInstance()).toBeNull();
  const zim = ZIM.create({ appID: 1 });
  expect(zim).toBeInstanceOf(ZIM);
  expect(ZIM.create({ appID: 1 })).toBeNull();
  expect(ZIM.create(1)).toBeNull();
  expect(ZIM.getInstance()).toBe(zim);
  zim?.destroy();
  expect(ZIM.getInstance()).toBeNull();
  const other = ZIM.create(1);
  expect(other).toBeInstanceOf(ZIM);
  zim?.destroy(); // the old one once more
  expect(ZIM.getInstance()).toBe(other);
});

test('the version is that of the package', () => {
  expect(ZIM.getVersion()).toBe(packageJSON.version);
});

test('create with a number connects to where the page comes from', async () => {
  vi.stubGlobal('location', { origin: 'https://rooms.example.com' });
  const gateway = new Gateway();
  vi.stubGlobal('WebSocket', gateway.WebSocket);
  try {
    const login = ZIM.create(1)?.login('ana', {} as never);
    await settle();
    expect(gateway.socket.url).toBe('wss://rooms.example.com/v1/ws');
    expect(gateway.socket.protocols).toEqual(['roomgate.v1']);
    ZIM.getInstance()?.destroy();
    await failure(login as Promise<void>);
  } finally {
    vi.unstubAllGlobals();
  }
});

test.each([
  ['ws://one', 'ws://one/v1/ws'],
  ['https://one:8080/', 'wss://one:8080/v1/ws'],
  ['http://one/rooms?x=1', 'ws://one/rooms?x=1'],
  [['wss://one', 'wss://two'], 'wss://one/v1/ws'],
])('the server %s is %s', async (server, url) => {
  const world = new World({ server });
  const login = failure(world.zim.login('ana', {} as never));
  await settle();
  expect(world.socket.url).toBe(url);
  world.zim.destroy();
  await login;
});

test.each([
  ['ftp://one', /server "ftp:\/\/one" does not begin with ws:/],
  ['one', /server "one" is no URL/],
  [[], /no server/],
  [undefined, /no server/],
])('the server %s is refused by login', async (server, message) => {
  const { zim } = new World({ server: server as string });
  const err = await failure(zim.login('ana', {} as never));
  expect(err.code).toBe(6000001);
  expect(err.message).toMatch(message);
});

test('without a WebSocket the error of login says what to do', async () => {
  vi.stubGlobal('WebSocket', undefined);
  try {
    const zim = ZIM.create({ appID: 1, server: 'ws://one' }) as ZIM;
    const err = await failure(zim.login('ana', {} as never));
    expect(err.code).toBe(6000001);
    expect(err.message).toMatch(/no WebSocket here.*version 22.*give a constructor in ZIM\.create/);
  } finally {
    vi.unstubAllGlobals();
  }
});

test.each([
  ['loginTimeout', 99],
  ['requestTimeout', Number.NaN],
])('%s has bounds', async (name, value) => {
  const { zim } = new World({ [name]: value });
  expect((await failure(zim.login('ana', {} as never))).message).toMatch(/has to be 100 to 3600000 milliseconds/);
});

test('login with an object and a token sends all that others see', async () => {
  const world = new World({ deviceID: 'tab' });
  const login = world.zim.login({ userID: 'ana', userName: 'Ana', userAvatarUrl: 'a.png', userExtendedData: 'x' }, 'T');
  world.acceptLogin();
  await login;
  expect(world.socket.asked('login').params).toEqual({
    userID: 'ana',
    userName: 'Ana',
    userAvatarUrl: 'a.png',
    userExtendedData: 'x',
    token: 'T',
    deviceID: 'tab',
    platform: 'web',
  });
  expect(world.told()).toEqual(['connection (1, 1)', 'connection (2, 0)']);
});

test('login with an ID and a config ignores what has no meaning here', async () => {
  const world = new World();
  const config = { userName: 'Ana', token: 'T', isOfflineLogin: true, customStatus: 'busy', customStatusDuration: 5 };
  const login = world.zim.login('ana', config);
  world.acceptLogin();
  await login;
  expect(world.socket.asked('login').params).toEqual({ userID: 'ana', userName: 'Ana', token: 'T', platform: 'web' });
});

test('a second login is 6000111, and the first goes on', async () => {
  const world = await World.loggedIn();
  expect(await failure(world.zim.login('bob', {} as never))).toMatchObject({ code: 6000111 });
  expect(world.gateway.sockets).toHaveLength(1);
  expect(world.told()).toEqual([]);
});

test.each([
  [6000103, 'connection (0, 3)'],
  [6000107, 'connection (0, 3)'],
  [6000106, 'connection (0, 5)'],
])('a login that is refused with %d rejects, and is not tried again', async (code, told) => {
  const world = new World();
  const login = failure(world.zim.login('ana', { token: 'T' } as never));
  world.socket.open();
  world.socket.refuse('login', code, 'no');
  expect(await login).toMatchObject({ code, message: 'no' });
  expect(world.told()).toEqual(['connection (1, 1)', told]);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(world.gateway.sockets).toHaveLength(1);
  const again = world.zim.login('ana', { token: 'U' } as never);
  world.acceptLogin();
  await again; // another login may follow
});

test('a login that no gateway answers ends with loginTimeout, and says what the last attempt came to', async () => {
  const world = new World({ server: ['ws://one', 'ws://two'] });
  const login = failure(world.zim.login('ana', {} as never));
  world.socket.closed(1006);
  await vi.advanceTimersByTimeAsync(500);
  expect(world.socket.url).toBe('ws://two/v1/ws');
  await vi.advanceTimersByTimeAsync(30_000);
  const err = await login;
  expect(err.code).toBe(6000105);
  expect(err.message).toMatch(/no login within 30000 ms; at the last attempt there was no/);
  expect(world.told()).toEqual(['connection (1, 1)', 'connection (0, 2)']);
  const before = world.gateway.sockets.length;
  await vi.advanceTimersByTimeAsync(60_000);
  expect(world.gateway.sockets).toHaveLength(before);
});

test.each([
  [6000007, undefined],
  [6000005, undefined],
  [-32603, undefined],
  [6000999, { retryable: true }],
])('a login that the gateway cannot carry out for now, by %d, is tried again', async (code, data) => {
  const world = new World();
  const login = world.zim.login('ana', {} as never);
  world.socket.open();
  world.socket.refuse('login', code, 'not now', data);
  await vi.advanceTimersByTimeAsync(500);
  expect(world.gateway.sockets).toHaveLength(2);
  world.acceptLogin();
  await login;
  expect(world.told()).toEqual(['connection (1, 1)', 'connection (2, 0)']);
});

test('a page that may not connect is told so at once', async () => {
  const world = new World({
    WebSocket: class {
      constructor() {
        throw new Error('SecurityError');
      }
    } as never,
  });
  const err = await failure(world.zim.login('ana', {} as never));
  expect(err).toMatchObject({ code: 6000104, message: expect.stringMatching(/needs wss:/) });
});

test('before a login calls are 6000121, after destroy 6000002', async () => {
  const { zim } = new World();
  expect(await failure(zim.joinRoom('r'))).toMatchObject({ code: 6000121, message: 'joinRoom: not logged in' });
  expect(await failure(zim.renewToken('x'))).toMatchObject({ code: 6000121 });
  zim.logout(); // of nobody is nothing
  zim.destroy();
  expect(await failure(zim.joinRoom('r'))).toMatchObject({ code: 6000002 });
  expect(await failure(zim.login('ana', {} as never))).toMatchObject({ code: 6000002 });
});

test('on overwrites, off and null take away, and a listener gets the instance first', async () => {
  const world = await World.loggedIn();
  const [first, second] = [vi.fn(), vi.fn()];
  world.zim.on('tokenWillExpire', first);
  world.zim.on('tokenWillExpire', second);
  world.socket.event('tokenWillExpire', { second: 30 });
  expect(first).not.toHaveBeenCalled();
  expect(second).toHaveBeenCalledExactlyOnceWith(world.zim, { second: 30 });
  world.zim.off('tokenWillExpire');
  world.socket.event('tokenWillExpire', { second: 29 });
  world.zim.on('tokenWillExpire', second);
  world.zim.on('tokenWillExpire', null as never);
  world.socket.event('tokenWillExpire', { second: 28 });
  expect(second).toHaveBeenCalledOnce();
});

test('a listener that throws keeps nothing from the others, and its error is not lost', async () => {
  const world = await World.loggedIn();
  const errors = vi.spyOn(console, 'error').mockImplementation(() => {});
  const thrown = vi.spyOn(globalThis, 'setTimeout');
  await world.entered('r');
  world.zim.on('roomMessageReceived', () => {
    throw new Error('of the application');
  });
  thrown.mockClear();
  world.message('r', 'one', 11);
  expect(world.said.map(([type]) => type)).toEqual(['receiveRoomMessage']);
  const rethrow = thrown.mock.calls[0]?.[0] as () => void;
  expect(rethrow).toThrow('of the application');
  vi.clearAllTimers(); // or the test itself would fail of it
  expect(errors).toHaveBeenCalledExactlyOnceWith('roomgate: the listener of roomMessageReceived has thrown');
  errors.mockRestore();
  thrown.mockRestore();
});

test('logout tells of rooms, then of the connection, and gives nothing', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  expect(world.zim.logout()).toBeUndefined();
  world.zim.logout(); // once is enough
  expect(world.socket.count('logout')).toBe(1);
  expect(await failure(world.zim.joinRoom('s'))).toMatchObject({ code: 6000121 });
  world.socket.state('r', 'disconnected', 'success');
  world.socket.event('connectionStateChanged', { state: 'disconnected', event: 'success', extendedData: '' });
  expect(world.told()).toEqual(['r (0, 0)', 'connection (0, 0)']);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(world.gateway.sockets).toHaveLength(1);
});

test('logout goes out when destroy follows at once, and nothing is heard of it', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.zim.logout();
  world.zim.destroy();
  expect(world.socket.count('logout')).toBe(1);
  expect(world.socket.closedByClient).toBe(false); // not before the gateway has it
  world.socket.state('r', 'disconnected', 'success');
  world.socket.answer('logout');
  expect(world.socket.closedByClient).toBe(true);
  expect(world.told()).toEqual([]);
});

test('a logout that is not answered ends all the same', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.zim.logout();
  await vi.advanceTimersByTimeAsync(5_000);
  expect(world.told()).toEqual(['r (0, 0)', 'connection (0, 0)']);
  expect(world.socket.closedByClient).toBe(true);
});

test('a login waits for the logout before it', async () => {
  const world = await World.loggedIn();
  world.zim.logout();
  const login = world.zim.login('bob', {} as never);
  await settle();
  expect(world.gateway.sockets).toHaveLength(1);
  world.socket.closed(1000);
  await settle();
  world.acceptLogin();
  await login;
  expect(world.socket.asked('login').params.userID).toBe('bob');
  expect(world.told()).toEqual(['connection (0, 0)', 'connection (1, 1)', 'connection (2, 0)']);
});

test('a logout while the link is lost is told at once, and to a gateway when there is one', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.cut();
  world.said.length = 0;
  const waiting = failure(world.zim.queryRoomOnlineMemberCount('r'));
  world.zim.logout();
  expect(world.told()).toEqual(['r (0, 0)', 'connection (0, 0)']);
  expect(await waiting).toMatchObject({ code: 6000122 });
  await settle();
  const farewell = world.socket;
  farewell.open();
  expect(farewell.asked('login').params.resume.sessionID).toBe('S1');
  farewell.answer('login', { sessionID: 'S1', resumed: true });
  expect(farewell.sent.map((r) => r.method)).toEqual(['login', 'logout']);
  farewell.answer('logout');
  expect(farewell.closedByClient).toBe(true);
  expect(world.said).toHaveLength(2);
});

test('after such a logout another login waits until it is said, and takes the device over from nobody', async () => {
  const world = await World.loggedIn({ deviceID: 'tab' });
  expect(world.socket.asked('login').params.deviceID).toBe('tab');
  world.cut();
  world.zim.logout();
  const login = world.zim.login('bob', {} as never);
  await settle();
  expect(world.gateway.sockets).toHaveLength(2);
  const farewell = world.socket;
  farewell.open();
  expect(farewell.asked('login').params).toMatchObject({ userID: 'ana', resume: { sessionID: 'S1' } });
  expect(farewell.asked('login').params).not.toHaveProperty('deviceID');
  farewell.answer('login', { sessionID: 'S1', resumed: true });
  farewell.answer('logout');
  await settle();
  expect(world.gateway.sockets).toHaveLength(3);
  world.acceptLogin({ sessionID: 'S2', userID: 'bob' });
  await login;
  expect(world.socket.asked('login').params).toMatchObject({ userID: 'bob', deviceID: 'tab' });
  expect(world.told().slice(-3)).toEqual(['connection (0, 0)', 'connection (1, 1)', 'connection (2, 0)']);
});

test.each([false, true])('a login waits no longer than a logout may take that no gateway hears of (another instance: %s)', async (another) => {
  const world = await World.loggedIn();
  world.cut();
  world.zim.logout();
  let next = world;
  if (another) {
    world.zim.destroy();
    next = new World();
  }
  const login = next.zim.login('ana', {} as never);
  const began = () => next.told().includes('connection (1, 1)');
  await vi.advanceTimersByTimeAsync(4_999);
  expect(began()).toBe(false);
  await vi.advanceTimersByTimeAsync(1);
  expect(began()).toBe(true);
  next.acceptLogin();
  await login;
});

test('a login that no gateway has heard of is not logged out', async () => {
  for (const open of [false, true]) {
    const world = new World();
    const login = failure(world.zim.login('ana', {} as never));
    if (open) {
      world.socket.open(); // a gateway may have heard of it
    }
    world.zim.logout();
    expect(world.told().slice(-1)).toEqual(['connection (0, 0)']);
    expect(await login).toMatchObject({ code: 6000122 });
    expect(world.socket.closedByClient).toBe(!open);
    world.cut();
    await vi.advanceTimersByTimeAsync(10_000);
    expect(world.gateway.sockets).toHaveLength(1);
    world.zim.destroy();
  }
});

test('a login that is under way at the logout is logged out', async () => {
  const world = new World();
  void failure(world.zim.login('ana', {} as never));
  world.socket.open();
  world.zim.logout();
  world.socket.answer('login', { sessionID: 'S1', resumed: false });
  expect(world.socket.sent.map((r) => r.method)).toEqual(['login', 'logout']);
});

test.each<[string, (world: World) => void]>([
  ['before', (world) => world.zim.logout()],
  ['after', () => {}],
  ['when it is told', (world) => world.zim.on('connectionStateChanged', (zim, { state }) => state === 3 && zim.logout())],
])('a logout does not wait as long as a gateway asks to stay away, if it could not be said then: %s', async (_, before) => {
  const world = await World.loggedIn();
  before(world);
  world.socket.closed(1013, '{"reconnectAfterMs":20000}');
  world.zim.logout();
  await vi.advanceTimersByTimeAsync(500);
  expect(world.gateway.sockets).toHaveLength(2);
  world.socket.open();
  world.socket.answer('login', { sessionID: 'S1', resumed: true });
  expect(world.socket.count('logout')).toBe(1);
});

test('a logout is said when a gateway is to be asked again, if that is soon', async () => {
  const world = await World.loggedIn();
  world.socket.closed(1013, '{"reconnectAfterMs":3000}');
  world.zim.logout();
  await vi.advanceTimersByTimeAsync(2_999);
  expect(world.gateway.sockets).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(world.gateway.sockets).toHaveLength(2);
});

const disconnected = (event: string) => ({ state: 'disconnected', event, extendedData: '' });

test.each<[string, (world: World) => void]>([
  ['a gateway closed for good', (world) => world.socket.closed(4511)],
  ['the token has expired', (world) => world.socket.event('connectionStateChanged', disconnected('tokenExpired'))],
  [
    'a logout',
    (world) => {
      world.zim.logout();
      world.socket.event('connectionStateChanged', disconnected('success'));
    },
  ],
])('a listener that hears that %s may log in again, and its login is told last', async (_, end) => {
  const world = await World.loggedIn();
  await world.entered('r');
  const logins: Promise<number | undefined>[] = [];
  const login = (zim: ZIM) => logins.push(zim.login('ana', { token: 'new' } as never).then(() => 0, ({ code }) => code));
  const said = (type: string) => (_: ZIM, data: unknown) => world.said.push([type, data]);
  world.zim.on('roomStateChanged', (zim, data) => {
    said('roomStateChanged')(zim, data);
    login(zim);
  });
  world.zim.on('connectionStateChanged', (zim, data) => {
    said('connectionStateChanged')(zim, data);
    if (data.state === 0) {
      login(zim);
    }
  });
  end(world);
  await settle();
  expect(world.gateway.sockets).toHaveLength(2);
  world.acceptLogin({ sessionID: 'S2' });
  expect(await Promise.all(logins)).toEqual([0, 6000111]); // there is one already then
  expect(world.told().map((told) => told.replace(/, \d+/, ''))).toEqual(['r (0)', 'connection (0)', 'connection (1)', 'connection (2)']);
});

test('a logout that no gateway answers after a lost link is given up', async () => {
  const world = await World.loggedIn();
  world.cut();
  world.zim.logout();
  await settle();
  world.socket.open();
  world.socket.answer('login', { sessionID: 'S1', resumed: true });
  await vi.advanceTimersByTimeAsync(4_999);
  expect(world.socket.closedByClient).toBe(false);
  await vi.advanceTimersByTimeAsync(1);
  expect(world.socket.closedByClient).toBe(true);
});

test('destroy without logout closes the link, and rejects what is under way', async () => {
  const world = await World.loggedIn();
  const call = failure(world.zim.joinRoom('r'));
  world.zim.destroy();
  expect(world.socket.closedByClient).toBe(true);
  expect(world.socket.count('logout')).toBe(0);
  expect(await call).toMatchObject({ code: 6000002 });
  await vi.advanceTimersByTimeAsync(60_000);
  expect(world.gateway.sockets).toHaveLength(1);
  expect(world.told()).toEqual([]);
});

test('renewToken gives the token, and later logins use it', async () => {
  const world = await World.loggedIn();
  const renewing = world.zim.renewToken('new-token');
  world.socket.answer('renewToken', { tokenExpiresAt: 0 });
  expect(await renewing).toEqual({ token: 'new-token' });
  world.cut();
  await world.back();
  expect(world.socket.asked('login').params.token).toBe('new-token');
});

test('a token that is refused changes nothing; one given while there is no link is used for the login', async () => {
  const world = await World.loggedIn();
  const renewing = failure(world.zim.renewToken('bad-token'));
  world.socket.refuse('renewToken', 6000103);
  expect(await renewing).toMatchObject({ code: 6000103 });
  world.cut();
  const later = world.zim.renewToken('new-token');
  await world.back();
  expect(world.socket.asked('login').params.token).toBe('new-token');
  world.socket.answer('renewToken', { tokenExpiresAt: 0 });
  await later;
});

/** reconnecting gives the token of the login on the next link. */
async function reconnecting(world: World): Promise<string> {
  await vi.advanceTimersByTimeAsync(8_000);
  world.socket.open();
  return world.socket.asked('login').params.token;
}

test('a token that was on its way when the link broke is tried first, and kept if it is accepted', async () => {
  const world = await World.loggedIn();
  const renewing = world.zim.renewToken('new-token');
  world.cut();
  expect(await reconnecting(world)).toBe('new-token');
  world.socket.answer('login', { sessionID: 'S1', resumed: true });
  world.socket.refuse('renewToken', 6000105); // whatever becomes of it
  await failure(renewing);
  world.cut();
  expect(await reconnecting(world)).toBe('new-token');
});

test.each([6000103, 6000106])('if it is refused with %d, the login is repeated with the one before', async (code) => {
  const world = await World.loggedIn();
  world.cut();
  const renewing = failure(world.zim.renewToken('bad-token'));
  expect(await reconnecting(world)).toBe('bad-token');
  world.socket.refuse('login', code);
  expect(world.socket.asked('login').params.token).toBe('secret-token');
  world.socket.answer('login', { sessionID: 'S1', resumed: true });
  world.socket.refuse('renewToken', code);
  expect(await renewing).toMatchObject({ code });
  world.cut();
  expect(await reconnecting(world)).toBe('secret-token');
  world.said.length = 0;
  world.socket.refuse('login', code); // there is none to fall back to
  expect(world.told()).toEqual([`connection (0, ${code === 6000106 ? 5 : 3})`]);
});

test('a token that a gateway cannot be shown is not used for a login', async () => {
  const world = await World.loggedIn();
  world.cut();
  expect(await failure(world.zim.renewToken('x'.repeat(70_000)))).toMatchObject({ code: 6000001 });
  expect(await reconnecting(world)).toBe('secret-token');
});

test('of two tokens the newer is tried first', async () => {
  const world = await World.loggedIn();
  const first = world.zim.renewToken('first');
  const { id } = world.socket.asked('renewToken');
  void failure(world.zim.renewToken('second'));
  world.socket.raw(JSON.stringify({ jsonrpc: '2.0', id, result: { tokenExpiresAt: 0 } }));
  await first;
  world.cut();
  expect(await reconnecting(world)).toBe('second');
  world.socket.refuse('login', 6000103);
  expect(world.socket.asked('login').params.token).toBe('first');
});

test.each([Number.NaN, Number.POSITIVE_INFINITY])('%d is refused by name, and not sent as null', async (odd) => {
  const world = await World.loggedIn();
  const err = await failure(world.zim.enterRoom({ roomID: 'r', roomName: '' }, { roomDestroyDelayTime: odd } as never));
  expect(err).toMatchObject({ code: 6000001, message: `enterRoom: roomDestroyDelayTime is ${odd}, it has to be a finite number` });
  expect(world.socket.count('enterRoom')).toBe(0);
});

test('a login that cannot be written fails at once', async () => {
  const world = new World();
  const login = failure(world.zim.login('ana', { userName: 7n } as never));
  world.socket.open();
  expect(await login).toMatchObject({ code: 6000001, message: 'login: the parameters cannot be written as JSON' });
});

test('create without anything is create with nothing said', async () => {
  const zim = ZIM.create(undefined as never);
  expect(await failure((zim as ZIM).login('ana', {} as never))).toMatchObject({ code: 6000001, message: /no server/ });
});

test('a command is bytes here and base64 on the wire, both ways', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  const bytes = Uint8Array.from([0, 1, 2, 255]);
  const sending = world.zim.sendMessage({ type: 2, message: bytes } as never, 'r', 1, { priority: 3 });
  expect(world.socket.asked('sendRoomMessage').params).toMatchObject({
    roomID: 'r',
    message: { type: 2, message: 'AAEC/w==' },
    config: { priority: 3 },
  });
  world.socket.answer('sendRoomMessage', { message: wireMessage({ type: 2, message: 'AAEC/w==', senderUserID: 'ana' }) });
  expect((await sending).message).toMatchObject({ message: bytes, direction: 0, sentStatus: 1, conversationType: 1 });
  world.message('r', '', 0, { messageList: [wireMessage({ type: 2, message: 'AAEC/w==' })], seq: undefined, after: 10 });
  expect(world.said[0]).toMatchObject(['roomMessageReceived', { messageList: [{ message: bytes, direction: 1 }] }]);
  expect(await failure(world.zim.sendRoomMessage({ type: 2, message: 'text' } as never, 'r'))).toMatchObject({ code: 6000001 });
});

test('sendMessage is for rooms alone', async () => {
  const world = await World.loggedIn();
  const err = await failure(world.zim.sendMessage({ type: 1 }, 'bob', 0, { priority: 1 }));
  expect(err).toMatchObject({ code: 6000013, message: expect.stringMatching(/conversationType is 0/) });
});

test('a message is shown to the application before it is sent, under the ID it has afterwards', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  const onMessageAttached = vi.fn();
  const sending = world.zim.sendMessage({ type: 1, message: 'hi' } as never, 'r', 1, { priority: 1 }, { onMessageAttached });
  const attached = onMessageAttached.mock.calls[0]?.[0];
  expect(attached).toMatchObject({ message: 'hi', senderUserID: 'ana', conversationID: 'r', sentStatus: 0 });
  world.socket.answer('sendRoomMessage', { message: wireMessage({ senderUserID: 'ana' }), epoch: 7, seq: 11 });
  expect((await sending).message.localMessageID).toBe(attached.localMessageID);
});

test('a message comes under both names of the event', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.message('r', 'one', 11);
  expect(world.said.map(([type]) => type)).toEqual(['roomMessageReceived', 'receiveRoomMessage']);
  expect(world.said[0]?.[1]).toMatchObject({ fromConversationID: 'r', info: { isOfflineMessage: false }, seq: 11 });
  expect(Object.keys(world.said[1]?.[1])).toEqual(['messageList', 'fromConversationID']);
});

test('every call is the request that protocol.md has for it', async () => {
  const world = await World.loggedIn();
  const { zim } = world;
  const info = { roomID: 'r', roomName: 'R', unknown: 1 };
  const config = { roomAttributes: { a: '1' }, roomDestroyDelayTime: 30 };
  const flags = { isForce: true, isDeleteAfterOwnerLeft: false, isUpdateOwner: true };
  const cases: [Promise<unknown>, string, object][] = [
    [zim.createRoom(info, config), 'createRoom', { roomInfo: { roomID: 'r', roomName: 'R' }, config }],
    [zim.enterRoom(info), 'enterRoom', { roomInfo: { roomID: 'r', roomName: 'R' } }],
    [zim.joinRoom('r'), 'joinRoom', { roomID: 'r' }],
    [
      zim.switchRoom('r', info, true, config),
      'switchRoom',
      { fromRoomID: 'r', toRoomInfo: { roomID: 'r', roomName: 'R' }, isCreateWhenRoomNotExisted: true, config },
    ],
    [zim.leaveRoom('r'), 'leaveRoom', { roomID: 'r' }],
    [zim.leaveAllRoom(), 'leaveAllRoom', {}],
    [zim.queryRoomMemberList('r', { count: 10, nextFlag: '' }), 'queryRoomMemberList', { roomID: 'r', config: { count: 10, nextFlag: '' } }],
    [zim.queryRoomMembers(['a'], 'r'), 'queryRoomMembers', { userIDs: ['a'], roomID: 'r' }],
    [zim.queryRoomOnlineMemberCount('r'), 'queryRoomOnlineMemberCount', { roomID: 'r' }],
    [zim.setRoomAttributes({ a: '1' }, 'r', flags), 'setRoomAttributes', { roomID: 'r', roomAttributes: { a: '1' }, config: flags }],
    [zim.deleteRoomAttributes(['a'], 'r', { isForce: true }), 'deleteRoomAttributes', { roomID: 'r', keys: ['a'], config: { isForce: true } }],
    [zim.queryRoomAllAttributes('r'), 'queryRoomAllAttributes', { roomID: 'r' }],
    [
      zim.setRoomMembersAttributes({ l: '7' }, ['a'], 'r', { isDeleteAfterOwnerLeft: true }),
      'setRoomMembersAttributes',
      { roomID: 'r', userIDs: ['a'], attributes: { l: '7' }, config: { isDeleteAfterOwnerLeft: true } },
    ],
    [zim.queryRoomMembersAttributes(['a'], 'r'), 'queryRoomMembersAttributes', { roomID: 'r', userIDs: ['a'] }],
    [
      zim.queryRoomMemberAttributesList('r', { count: 10, nextFlag: 'x' }),
      'queryRoomMemberAttributesList',
      { roomID: 'r', config: { count: 10, nextFlag: 'x' } },
    ],
    [zim.queryRoomHistory('r', { count: 5 }), 'queryRoomHistory', { roomID: 'r', config: { count: 5 } }],
  ];
  for (const [promise, method, params] of cases) {
    promise.catch(() => {});
    const sent = world.socket.asked(method);
    const changes = !method.startsWith('query');
    expect(sent.params).toEqual(changes ? { ...params, requestKey: sent.id } : params);
  }
  const keys = world.socket.sent.map((r) => r.params.requestKey).filter((k) => k !== undefined);
  expect(keys).toEqual([...keys].sort((a, b) => a - b)); // rising
  expect(new Set(keys).size).toBe(keys.length);
});

test('results are what the gateway answers', async () => {
  const world = await World.loggedIn();
  const creating = world.zim.createRoom({ roomID: 'r', roomName: 'r' });
  world.socket.answer('createRoom', room('r', 1, true));
  expect(await creating).toEqual(room('r', 1, true));
  const asking = world.zim.queryRoomMembers(['bob', 'cid'], 'r');
  const members = { roomID: 'r', memberList: [user('bob')], errorUserList: [{ userID: 'cid', reason: 6000321 }], epoch: 7, seq: 1 };
  world.socket.answer('queryRoomMembers', members);
  expect(await asking).toEqual(members);
  const history = world.zim.queryRoomHistory('r', { count: 1 });
  world.socket.answer('queryRoomHistory', { roomID: 'r', messageList: [wireMessage({ type: 2, message: 'AQ==' })], nextSeq: 0, epoch: 7, seq: 1 });
  expect((await history).messageList[0]).toMatchObject({ message: Uint8Array.from([1]) });
});

test('an error is a code and a sentence; a parameter of the wrong type is 6000001', async () => {
  const world = await World.loggedIn();
  const call = failure(world.zim.joinRoom('r'));
  world.socket.refuse('joinRoom', 6000322, 'no such room: "r"');
  const err = await call;
  expect({ ...err }).toEqual({ code: 6000322, message: 'no such room: "r"' });
  expect(JSON.parse(JSON.stringify(err))).toEqual({ code: 6000322, message: 'no such room: "r"' });
  expect(String(err)).toBe('ZIMError: no such room: "r"');
  const wrong = failure(world.zim.joinRoom(7 as never));
  world.socket.refuse('joinRoom', -32602, 'roomID is not a string');
  expect(await wrong).toMatchObject({ code: 6000001, message: 'roomID is not a string' });
  const cyclic: Record<string, unknown> = {};
  cyclic['self'] = cyclic;
  expect(await failure(world.zim.setRoomAttributes(cyclic as never, 'r', {}))).toMatchObject({ code: 6000001 });
});

test('what is set and deleted between begin and end is one request, and its promises may be left alone', async () => {
  const world = await World.loggedIn();
  const config = { isForce: true, isUpdateOwner: true, isDeleteAfterOwnerLeft: false };
  expect(world.zim.beginRoomAttributesBatchOperation('r', config)).toBeUndefined();
  const set = world.zim.setRoomAttributes({ a: '1', b: '2' }, 'r', {});
  const deleted = world.zim.deleteRoomAttributes(['c'], 'r', {});
  world.zim.setRoomAttributes({ x: '1' }, 'other', {}).catch(() => {}); // another room is not part of it
  expect(world.socket.sent.map((r) => r.method)).toEqual(['login', 'setRoomAttributes']);
  const ending = world.zim.endRoomAttributesBatchOperation('r');
  expect(world.socket.asked('batchRoomAttributes').params).toMatchObject({
    roomID: 'r',
    config,
    operations: [
      { action: 'set', roomAttributes: { a: '1', b: '2' } },
      { action: 'delete', keys: ['c'] },
    ],
  });
  world.socket.answer('batchRoomAttributes', { roomID: 'r', errorKeys: ['b'] });
  expect(await ending).toEqual({ roomID: 'r', errorKeys: ['b'] });
  expect(await set).toEqual({ roomID: 'r', errorKeys: ['b'] });
  expect(await deleted).toEqual({ roomID: 'r', errorKeys: [] });
  world.zim.setRoomAttributes({ d: '1' }, 'r', {}).catch(() => {}); // the batch is over
  expect(world.socket.count('setRoomAttributes')).toBe(2);
});

test('a batch keeps what was asked for, whatever becomes of the objects it was asked with', async () => {
  const world = await World.loggedIn();
  const [config, roomAttributes, keys] = [{ isForce: true }, { a: '1' }, ['b']];
  world.zim.beginRoomAttributesBatchOperation('r', config);
  void world.zim.setRoomAttributes(roomAttributes, 'r');
  void world.zim.deleteRoomAttributes(keys, 'r');
  config.isForce = false;
  roomAttributes.a = '2';
  keys.push('c');
  void world.zim.setRoomAttributes(roomAttributes, 'r');
  void failure(world.zim.endRoomAttributesBatchOperation('r'));
  const { operations, config: sent } = world.socket.asked('batchRoomAttributes').params;
  expect(operations).toEqual([
    { action: 'set', roomAttributes: { a: '1' } },
    { action: 'delete', keys: ['b'] },
    { action: 'set', roomAttributes: { a: '2' } },
  ]);
  expect(sent).toEqual({ isForce: true });
});

test('a batch that is refused rejects its end, and all of its promises without a word about it', async () => {
  const world = await World.loggedIn();
  const unhandled = vi.fn();
  process.on('unhandledRejection', unhandled);
  world.zim.beginRoomAttributesBatchOperation('r', {});
  void world.zim.setRoomAttributes({ a: '1' }, 'r', {});
  const watched = failure(world.zim.deleteRoomAttributes(['c'], 'r', {}));
  const ending = failure(world.zim.endRoomAttributesBatchOperation('r'));
  world.socket.refuse('batchRoomAttributes', 6000331);
  expect(await ending).toMatchObject({ code: 6000331 });
  expect(await watched).toMatchObject({ code: 6000331 });
  vi.useRealTimers();
  await new Promise((resolve) => nextTurn(resolve)); // Node says so after the tasks of this turn
  vi.useFakeTimers();
  process.off('unhandledRejection', unhandled);
  expect(unhandled).not.toHaveBeenCalled();
});

test('a batch that is under way when the instance is destroyed ends with it', async () => {
  const world = await World.loggedIn();
  world.zim.beginRoomAttributesBatchOperation('r', {});
  const set = failure(world.zim.setRoomAttributes({ a: '1' }, 'r', {}));
  world.zim.destroy();
  expect(await set).toMatchObject({ code: 6000121 });
});

test('an end without a begin, and a batch begun anew', async () => {
  const world = await World.loggedIn();
  expect(await failure(world.zim.endRoomAttributesBatchOperation('r'))).toMatchObject({ code: 6000001 });
  world.zim.beginRoomAttributesBatchOperation('r', {});
  const dropped = failure(world.zim.setRoomAttributes({ a: '1' }, 'r', {}));
  world.zim.beginRoomAttributesBatchOperation('r', {});
  expect(await dropped).toMatchObject({ code: 6000001, message: expect.stringMatching(/begun anew/) });
});

test('enums are numbers', () => {
  expect([ZIMConnectionState.Reconnecting, ZIMRoomEvent.KickedOutByOtherDevice, ZIMRoomEvent.SwitchFailed]).toEqual([3, 10, 12]);
});
