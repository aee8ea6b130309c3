import { afterEach, expect, test, vi } from 'vitest';
import { failure, room, settle, timed, user, wireMessage, World } from './fake.js';

timed();

const interrupted = ['connection (3, 3)', 'r (1, 1)']; // reconnecting, and the room connecting

// Node passes on in one turn of its loop all that it has read.
test('who waited for an answer goes on before the events that were read with it are told', async () => {
  let turn = () => {};
  Object.assign(globalThis, { setImmediate: (f: () => void) => (turn = f) });
  const world = await World.loggedIn();
  turn();
  await world.entered('r');
  turn();
  world.said.length = 0;
  const heard: number[] = [];
  const asks = async () => {
    await world.zim.queryRoomOnlineMemberCount('r');
    heard.push(world.said.length);
  };
  const all = [asks(), asks()];
  for (const { id } of world.socket.sent.filter((r) => r.method === 'queryRoomOnlineMemberCount')) {
    world.message('r', `before ${id}`, 11 + world.said.length);
    world.socket.raw(JSON.stringify({ jsonrpc: '2.0', id, result: { roomID: 'r', count: 2 } }));
  }
  world.message('r', 'after', 14);
  expect(world.told()).toHaveLength(1);
  await settle();
  expect(heard).toEqual([2]); // one message is two events
  turn();
  await settle();
  expect(heard).toEqual([2, 4]);
  expect(world.told()).toHaveLength(2);
  world.socket.closed(1006); // what was read before counts
  expect(world.told()).toContain('r message after');
  await Promise.all(all);
});

test('a link that is lost is told at once', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  await world.entered('s');
  world.cut();
  expect(world.told()).toEqual([...interrupted, 's (1, 1)']);
});

test('back before the deadline: connected, and what was missed, once and in order', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.message('r', 'one', 11);
  world.cut();
  world.said.length = 0;
  await world.back();
  expect(world.socket.asked('login').params.resume).toEqual({ sessionID: 'S1', rooms: [{ roomID: 'r', epoch: 7, seq: 11 }] });
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 11 });
  world.left('r', ['bob'], 0);
  world.socket.event('roomMemberJoined', { roomID: 'r', memberList: [user('cid')], memberCount: 2, membersSeq: 14 });
  world.message('r', 'two', 12);
  world.message('r', 'two', 12); // a gateway should not, but it is passed on once
  world.message('r', 'three', 13);
  expect(world.told()).toEqual([
    'connection (2, 0)',
    'r (2, 0)',
    'r left bob',
    'r joined cid',
    'r message two',
    'r message three',
  ]);
});

test('a link that is cut again before the position has reached what is known of members', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.cut();
  await world.back();
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 10 });
  world.left('r', ['bob'], 0);
  world.socket.event('roomMemberJoined', { roomID: 'r', memberList: [user('cid')], memberCount: 2, membersSeq: 14 });
  world.message('r', 'two', 12);
  world.cut();
  await world.back();
  expect(world.socket.asked('login').params.resume.rooms).toEqual([{ roomID: 'r', epoch: 7, seq: 12, membersSeq: 14 }]);
});

test('the first half of a difference is not told if the link is cut before the second', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.cut();
  await world.back();
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 10 });
  world.said.length = 0;
  world.left('r', ['bob'], 0);
  world.cut();
  expect(world.told()).toEqual(interrupted);
  await world.back();
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 10 });
  world.left('r', ['bob'], 0);
  world.joined('r', ['cid'], 14);
  expect(world.told().slice(4)).toEqual(['r left bob', 'r joined cid']);
});

test.each([
  ['connectTimeout', 9],
  ['roomNotExist', 3],
  ['kickedOutByOtherDevice', 10],
  ['success', 0],
  ['networkDisconnected', 2],
])('back, and out of the room by %s', async (event, number) => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.cut();
  world.said.length = 0;
  await world.back();
  world.socket.state('r', 'disconnected', event);
  world.message('r', 'late', 12); // nothing of the room comes after that
  expect(world.told()).toEqual(['connection (2, 0)', `r (0, ${number})`]);
  world.cut();
  await world.back();
  expect(world.socket.asked('login').params.resume.rooms).toEqual([]);
});

test('back, and kicked meanwhile: with what the backend has said', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.cut();
  world.said.length = 0;
  await world.back();
  const extendedData = '{"room_id":"r","reason":"late","message":"try tomorrow"}';
  world.socket.event('roomStateChanged', { roomID: 'r', state: 'disconnected', event: 'kickedOut', extendedData });
  expect(world.said[1]).toEqual(['roomStateChanged', { roomID: 'r', state: 0, event: 8, extendedData }]);
});

test('the session is over: another begins, and the gateway says of each room why', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.cut();
  world.said.length = 0;
  await world.back(false);
  world.socket.state('r', 'disconnected', 'connectTimeout');
  expect(world.told()).toEqual(['connection (2, 0)', 'r (0, 9)']);
  world.cut();
  await world.back();
  expect(world.socket.asked('login').params.resume).toEqual({ sessionID: 'S2', rooms: [] });
});

test('after an eviction the room is entered again, if that is asked for, as it was entered', async () => {
  const world = await World.loggedIn({ reenterAfterEviction: true });
  await world.entered('r', undefined);
  const joining = world.zim.joinRoom('s');
  world.socket.state('s', 'connecting', 'activeEnter');
  world.socket.state('s', 'connected', 'success', { epoch: 8, seq: 3 });
  world.socket.answer('joinRoom', room('s', 3));
  await joining;
  world.cut();
  world.said.length = 0;
  await world.back(false);
  world.socket.state('r', 'disconnected', 'connectTimeout');
  world.socket.state('s', 'disconnected', 'connectTimeout');
  expect(world.socket.asked('enterRoom').params).toMatchObject({ roomInfo: { roomID: 'r', roomName: 'r' } });
  expect(world.socket.asked('joinRoom').params).toMatchObject({ roomID: 's' });
  world.socket.state('r', 'connecting', 'activeEnter');
  world.socket.state('r', 'connected', 'success', { epoch: 9, seq: 1 });
  world.socket.answer('enterRoom', room('r', 1));
  world.socket.state('s', 'connecting', 'activeEnter');
  world.socket.state('s', 'disconnected', 'roomNotExist');
  world.socket.refuse('joinRoom', 6000322);
  expect(world.told()).toEqual([
    'connection (2, 0)',
    'r (0, 9)',
    's (0, 9)',
    'r (1, 6)',
    'r (2, 0)',
    's (1, 6)',
    's (0, 3)',
  ]);
});

test.each([
  [true, 'enterRoom', { roomInfo: { roomID: 'r', roomName: 'R' }, config: { roomDestroyDelayTime: 7 } }],
  [false, 'joinRoom', { roomID: 'r' }],
])('a room that was entered by a switch which may create it (%s) is entered again by %s', async (mayCreate, method, params) => {
  const world = await World.loggedIn({ reenterAfterEviction: true });
  await world.entered('q');
  const switching = world.zim.switchRoom('q', { roomID: 'r', roomName: 'R' }, mayCreate, { roomDestroyDelayTime: 7 } as never);
  world.socket.state('r', 'connecting', 'activeSwitch');
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 1 });
  world.socket.state('q', 'disconnected', 'success');
  world.socket.answer('switchRoom', room('r', 1));
  await switching;
  world.cut();
  await world.back(false);
  world.socket.state('r', 'disconnected', 'connectTimeout');
  const { requestKey, ...sent } = world.socket.asked(method).params;
  expect(sent).toEqual(params);
  expect(requestKey).toBeGreaterThan(0);
});

test('a room that was created is not created but entered again', async () => {
  const world = await World.loggedIn({ reenterAfterEviction: true });
  const creating = world.zim.createRoom({ roomID: 'r', roomName: 'R' });
  world.socket.state('r', 'connecting', 'activeCreate');
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 1 });
  world.socket.answer('createRoom', room('r', 1, true));
  await creating;
  world.cut();
  await world.back(false);
  world.socket.state('r', 'disconnected', 'connectTimeout');
  expect(world.socket.sent.map((r) => r.method)).toEqual(['login', 'enterRoom']);
});

test('without that, and for other departures, no room is entered again', async () => {
  for (const [reenterAfterEviction, event] of [[false, 'connectTimeout'], [true, 'kickedOut'], [true, 'roomNotExist']] as const) {
    const world = await World.loggedIn({ reenterAfterEviction });
    await world.entered('r');
    world.cut();
    await world.back(false);
    world.socket.state('r', 'disconnected', event);
    expect(world.socket.count('enterRoom')).toBe(0);
    world.zim.destroy();
  }
});

test('what was unanswered is asked again under its key, in order, and waits for the login', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  const sending = world.zim.sendRoomMessage({ type: 1, message: 'one' } as never, 'r');
  const asking = world.zim.queryRoomOnlineMemberCount('r');
  const first = world.socket.sent.slice(-2);
  world.cut();
  const leaving = world.zim.leaveRoom('r'); // while there is no link
  await vi.advanceTimersByTimeAsync(8_000);
  world.socket.open();
  expect(world.socket.sent.map((r) => r.method)).toEqual(['login']);
  world.socket.answer('login', { sessionID: 'S1', resumed: true });
  const again = world.socket.sent.slice(1);
  expect(again.slice(0, 2)).toEqual(first);
  expect(again.map((r) => r.method)).toEqual(['sendRoomMessage', 'queryRoomOnlineMemberCount', 'leaveRoom']);
  world.socket.answer('sendRoomMessage', { message: { type: 1, message: 'one', messageID: '1', senderUserID: 'ana', conversationID: 'r' } });
  world.socket.answer('queryRoomOnlineMemberCount', { roomID: 'r', count: 2 });
  world.socket.answer('leaveRoom', { roomID: 'r' });
  expect((await sending).message.messageID).toBe('1');
  expect((await asking).count).toBe(2);
  expect(await leaving).toEqual({ roomID: 'r' });
});

test('with another session, what changes something and may have happened is not asked again', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  const sending = failure(world.zim.sendRoomMessage({ type: 1, message: 'one' } as never, 'r'));
  const asking = world.zim.queryRoomOnlineMemberCount('r');
  world.cut();
  const joining = world.zim.joinRoom('s'); // never sent: nothing has happened
  await world.back(false);
  const err = await sending;
  expect(err.code).toBe(6000104);
  expect(err.message).toBe('sendRoomMessage: the session has ended meanwhile; the outcome is not known');
  expect(world.socket.sent.map((r) => r.method)).toEqual(['login', 'queryRoomOnlineMemberCount', 'joinRoom']);
  world.socket.answer('queryRoomOnlineMemberCount', { roomID: 'r', count: 2 });
  world.socket.answer('joinRoom', room('s', 1));
  await Promise.all([asking, joining]);
});

test('an entry whose session has ended is told to have failed', async () => {
  const world = await World.loggedIn();
  const entering = failure(world.zim.createRoom({ roomID: 'r', roomName: '' }));
  world.socket.state('r', 'connecting', 'activeCreate');
  world.cut();
  world.said.length = 0;
  await world.back(false);
  expect(await entering).toMatchObject({ code: 6000104 });
  expect(world.told()).toEqual(['connection (2, 0)', 'r (0, 5)']);
});

test('an entry whose answer was lost: the room comes back by itself, and the repeat tells its attributes', async () => {
  const world = await World.loggedIn();
  const entering = world.zim.enterRoom({ roomID: 'r', roomName: '' });
  world.socket.state('r', 'connecting', 'activeEnter');
  world.cut();
  expect(world.told()).toEqual(['r (1, 6)', 'connection (3, 3)']);
  world.said.length = 0;
  await world.back();
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 12 }); // not named: where it is now
  world.message('r', 'four', 14);
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 10 }); // of the repeat: where it came in
  world.message('r', 'one', 11); // never had
  world.message('r', 'two', 12);
  world.message('r', 'four', 14);
  world.socket.answer('enterRoom', room('r', 10));
  await entering;
  world.socket.answer('queryRoomAllAttributes', { roomID: 'r', roomAttributes: { topic: 'x' }, epoch: 7, seq: 14 });
  expect(world.told()).toEqual([
    'connection (2, 0)',
    'r (2, 0)',
    'r message four',
    'r message one',
    'r message two',
    'r attributes set {"topic":"x"}',
  ]);
});

test('a room that comes back though nobody named it is read anew', async () => {
  const world = await World.loggedIn({ requestTimeout: 1_000 });
  const entering = failure(world.zim.enterRoom({ roomID: 'r', roomName: '' }));
  world.socket.state('r', 'connecting', 'activeEnter');
  await vi.advanceTimersByTimeAsync(1_000);
  expect(await entering).toMatchObject({ code: 6000105 });
  world.cut();
  expect(world.told()).toEqual(['r (1, 6)', 'r (0, 7)', 'connection (3, 3)']); // given up, and so told
  world.said.length = 0;
  await world.back();
  expect(world.socket.count('enterRoom')).toBe(0);
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 12 });
  world.socket.answer('queryRoomAllAttributes', { roomID: 'r', roomAttributes: {}, epoch: 7, seq: 12 });
  world.socket.answer('queryRoomOnlineMemberCount', { roomID: 'r', count: 2, epoch: 7, seq: 12 });
  world.socket.answer('queryRoomMemberList', { roomID: 'r', memberList: [user('bob'), user('ana')], nextFlag: '', epoch: 7, seq: 12 });
  expect(world.told()).toEqual(['connection (2, 0)', 'r (2, 0)', 'r joined bob']);
});

test('6000007 that may be repeated is, under its key, and the application hears of one entry', async () => {
  const world = await World.loggedIn();
  const entering = world.zim.enterRoom({ roomID: 'r', roomName: '' });
  const request = world.socket.asked('enterRoom');
  for (let i = 0; i < 3; i++) {
    world.socket.state('r', 'connecting', 'activeEnter');
    world.socket.state('r', 'disconnected', 'enterFailed');
    world.socket.refuse('enterRoom', 6000007, 'Redis is away', { retryable: true });
    expect(world.socket.count('enterRoom')).toBe(i + 1);
    await vi.advanceTimersByTimeAsync(500);
    expect(world.socket.asked('enterRoom')).toEqual(request);
  }
  world.socket.state('r', 'connecting', 'activeEnter');
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 1 });
  world.socket.answer('enterRoom', room('r', 1));
  await entering;
  expect(world.told()).toEqual(['r (1, 6)', 'r (2, 0)']);
});

test.each([
  ['createRoom', 'activeCreate', 'createFailed', ['r (1, 4)', 'r (0, 5)']],
  ['enterRoom', 'activeEnter', 'enterFailed', ['r (1, 6)', 'r (0, 7)']],
] as const)('%s that stays 6000007 for as long as a call may take fails once', async (method, active, failed, told) => {
  const world = await World.loggedIn({ requestTimeout: 2_000 });
  const entering = failure(world.zim[method]({ roomID: 'r', roomName: '' }));
  let answered = 0;
  while (answered < 100 && world.socket.count(method) > answered) {
    answered++;
    world.socket.state('r', 'connecting', active);
    world.socket.state('r', 'disconnected', failed);
    world.socket.refuse(method, 6000007, 'Redis is away', { retryable: true });
    await vi.advanceTimersByTimeAsync(500);
  }
  const err = await entering;
  expect(err.code).toBe(6000007);
  expect(err.message).toMatch(/no answer within 2000 ms; the outcome is not known; the last answer was 6000007: Redis is away/);
  expect(world.told()).toEqual(told);
});

test('a retry that is refused for good tells the failure it came with', async () => {
  const world = await World.loggedIn();
  const switching = failure(world.zim.switchRoom('q', { roomID: 'r', roomName: '' }, false));
  world.socket.state('r', 'connecting', 'activeSwitch');
  world.socket.state('r', 'disconnected', 'switchFailed');
  world.socket.refuse('switchRoom', 6000007, 'Redis is away', { retryable: true });
  await vi.advanceTimersByTimeAsync(500);
  world.socket.state('r', 'connecting', 'activeSwitch');
  world.socket.state('r', 'disconnected', 'switchFailed');
  world.socket.refuse('switchRoom', 6000322);
  expect(await switching).toMatchObject({ code: 6000322 });
  expect(world.told()).toEqual(['r (1, 11)', 'r (0, 12)']);
});

/** enterAway has an entry fail for now, so that it is asked for again. */
function enterAway(world: World): void {
  world.socket.state('r', 'connecting', 'activeEnter');
  world.socket.state('r', 'disconnected', 'enterFailed');
  world.socket.refuse('enterRoom', 6000007, 'Redis is away', { retryable: true });
}

test('a retry that finds that the first has happened: the room is connected, and nothing else', async () => {
  const world = await World.loggedIn();
  const entering = world.zim.enterRoom({ roomID: 'r', roomName: '' });
  enterAway(world);
  await vi.advanceTimersByTimeAsync(500);
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 1 });
  world.socket.answer('enterRoom', room('r', 1));
  await entering;
  expect(world.told()).toEqual(['r (1, 6)', 'r (2, 0)']);
});

test('a retry that fails otherwise tells that alone', async () => {
  const world = await World.loggedIn();
  const entering = failure(world.zim.enterRoom({ roomID: 'r', roomName: '' }));
  enterAway(world);
  await vi.advanceTimersByTimeAsync(500);
  world.socket.state('r', 'connecting', 'activeEnter');
  world.socket.state('r', 'disconnected', 'roomNotExist');
  world.socket.refuse('enterRoom', 6000322);
  await entering;
  expect(world.told()).toEqual(['r (1, 6)', 'r (0, 3)']);
});

test('an entry that was given up has failed once, whatever another comes to', async () => {
  const world = await World.loggedIn({ requestTimeout: 100 });
  const entering = failure(world.zim.enterRoom({ roomID: 'r', roomName: '' }));
  vi.spyOn(Math, 'random').mockReturnValue(1);
  enterAway(world);
  await vi.advanceTimersByTimeAsync(100);
  expect(await entering).toMatchObject({ code: 6000007 });
  const other = failure(world.zim.enterRoom({ roomID: 'r', roomName: '' }));
  world.socket.refuse('enterRoom', 6000326);
  await other;
  expect(world.told()).toEqual(['r (1, 6)', 'r (0, 7)']);
});

test('a failure that nobody waits for is told', async () => {
  const world = await World.loggedIn();
  world.socket.state('r', 'connecting', 'activeSwitch');
  world.socket.state('r', 'disconnected', 'switchFailed');
  expect(world.told()).toEqual(['r (1, 11)', 'r (0, 12)']);
});

test('what waits to be asked again goes before what was asked for later', async () => {
  const world = await World.loggedIn();
  for (let i = 0; i < 34; i++) {
    world.zim.joinRoom(`r${i}`).catch(() => {});
  }
  const ids = world.socket.sent.filter((r) => r.method === 'joinRoom').map((r) => r.id);
  const refuse = (id: unknown, data?: object) =>
    world.socket.raw(JSON.stringify({ jsonrpc: '2.0', id, error: { code: 6000007, message: 'away', data } }));
  refuse(ids[0], { retryable: true }); // the 33rd goes in its place
  await vi.advanceTimersByTimeAsync(500);
  refuse(ids[1]);
  expect(world.socket.asked('joinRoom').params.roomID).toBe('r0');
  refuse(ids[2]);
  expect(world.socket.asked('joinRoom').params.roomID).toBe('r33');
});

test('what waits to be asked again is asked once on the next link', async () => {
  const world = await World.loggedIn();
  world.zim.joinRoom('r').catch(() => {});
  world.socket.refuse('joinRoom', 6000007, 'away', { retryable: true });
  world.cut();
  await world.back();
  world.zim.leaveRoom('s').catch(() => {});
  world.socket.refuse('leaveRoom', 6000007, 'away', { retryable: true });
  await vi.advanceTimersByTimeAsync(500);
  expect(world.socket.count('leaveRoom')).toBe(2);
  expect(world.socket.count('joinRoom')).toBe(1);
});

test('a second answer to what waits to be asked again is none', async () => {
  const world = await World.loggedIn();
  const joining = world.zim.joinRoom('r');
  world.socket.refuse('joinRoom', 6000007, 'away', { retryable: true });
  world.socket.refuse('joinRoom', 6000322);
  await vi.advanceTimersByTimeAsync(500);
  world.socket.answer('joinRoom', room('r', 1));
  await joining;
});

test('calls while there is no link wait for one, no longer than a call may take', async () => {
  const world = await World.loggedIn({ requestTimeout: 3_000 });
  world.cut();
  const call = failure(world.zim.joinRoom('r'));
  await vi.advanceTimersByTimeAsync(3_000);
  expect((await call).message).toBe('joinRoom: no answer within 3000 ms; not sent');
  world.acceptLogin({ resumed: true });
  expect(world.socket.count('joinRoom')).toBe(0);
});

test.each([1000, 1009, 4500, 4503, 4509, 4510, 4511, 4999])('the close code %d says not to come back', async (code) => {
  const world = await World.loggedIn();
  await world.entered('r');
  const call = failure(world.zim.joinRoom('s'));
  world.socket.closed(code, 'a sentence');
  const event = code === 4509 || code === 4510 ? 4 : code === 4503 ? 5 : 3;
  expect(world.told()).toEqual(['r (0, 2)', `connection (0, ${event})`]);
  await call;
  expect(await failure(world.zim.joinRoom('s'))).toMatchObject({ code: 6000121 });
  await vi.advanceTimersByTimeAsync(60_000);
  expect(world.gateway.sockets).toHaveLength(1);
});

test.each([1001, 1002, 1006, 1011, 1012, 1013, 4001, 4002, 4008, 4499])('the close code %d says to come back', async (code) => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.socket.closed(code);
  expect(world.told()).toEqual(interrupted);
  await vi.advanceTimersByTimeAsync(500);
  expect(world.gateway.sockets).toHaveLength(2);
});

test.each([
  ['kickedOut', 4, 4509],
  ['tokenExpired', 5, 4503],
])('what a gateway says before it closes for good is told once: %s', async (event, number, code) => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.socket.event('connectionStateChanged', { state: 'disconnected', event, extendedData: '' });
  world.socket.closed(code);
  expect(world.told()).toEqual(['r (0, 2)', `connection (0, ${number})`]);
  const again = world.zim.login('ana', { token: 'new' } as never);
  world.acceptLogin();
  await again;
  expect(world.socket.asked('login').params.resume).toBeUndefined();
});

test('a login refused on coming back ends the session: the token has expired meanwhile', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.cut();
  world.said.length = 0;
  await vi.advanceTimersByTimeAsync(8_000);
  world.socket.open();
  world.socket.refuse('login', 6000106, 'expired');
  expect(world.told()).toEqual(['r (0, 2)', 'connection (0, 5)']);
});

test('the wait grows with each failure, is random, and begins anew after a link that lasted', async () => {
  const random = vi.spyOn(Math, 'random').mockReturnValue(0.999);
  const world = await World.loggedIn();
  const waits: number[] = [];
  world.cut();
  for (let i = 0; i < 7; i++) {
    const before = world.gateway.sockets.length;
    const begun = Date.now();
    while (world.gateway.sockets.length === before) {
      await vi.advanceTimersByTimeAsync(1);
    }
    waits.push(Date.now() - begun);
    if (i < 6) {
      world.cut();
    }
  }
  expect(waits.map((ms) => Math.round(ms / 100) * 100)).toEqual([500, 1000, 2000, 4000, 8000, 8000, 8000]);
  world.acceptLogin({ resumed: true });
  await vi.advanceTimersByTimeAsync(10_000);
  world.cut();
  await vi.advanceTimersByTimeAsync(500);
  expect(world.gateway.sockets).toHaveLength(9);
  random.mockReturnValue(0);
  world.cut();
  await settle();
  expect(world.gateway.sockets).toHaveLength(10); // no wait at all is as likely
  random.mockRestore();
});

test('a gateway that names a wait is obeyed, and the next gateway is tried', async () => {
  const page = new Page();
  const world = await World.loggedIn({ server: ['ws://one', 'ws://two'] });
  world.socket.closed(1013, '{"reconnectAfterMs":3000}');
  page.raise('online'); // does not shorten what a gateway asks for
  await vi.advanceTimersByTimeAsync(2_999);
  expect(world.gateway.sockets).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(world.gateway.sockets).toHaveLength(2);
  expect(world.socket.url).toBe('ws://two/v1/ws');
});

test('a gateway may ask for a day at most', async () => {
  const world = await World.loggedIn();
  world.socket.closed(1013, '{"reconnectAfterMs":1e15}'); // more than a timer can take
  await vi.advanceTimersByTimeAsync(86_399_999);
  expect(world.gateway.sockets).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(world.gateway.sockets).toHaveLength(2);
});

test.each(['sentence', '{"reconnectAfterMs":-1}', '{"reconnectAfterMs":"x"}', 'null', '7'])('the reason %s names no wait', async (reason) => {
  const world = await World.loggedIn();
  world.socket.closed(1001, reason);
  await vi.advanceTimersByTimeAsync(500);
  expect(world.gateway.sockets).toHaveLength(2);
});

test('a gateway that drains is left when it is time, for the next one', async () => {
  const world = await World.loggedIn({ server: ['ws://one', 'ws://two'] });
  await world.entered('r');
  world.socket.event('serverDraining', { reconnectAfterMs: 1_500 });
  const old = world.socket;
  await vi.advanceTimersByTimeAsync(1_499);
  expect(old.closedByClient).toBe(false);
  world.message('r', 'still here', 11);
  await vi.advanceTimersByTimeAsync(1);
  expect(old.closedByClient).toBe(true);
  await vi.advanceTimersByTimeAsync(1);
  expect(world.socket.url).toBe('ws://two/v1/ws');
  expect(world.told()).toEqual(['r message still here', ...interrupted]);
  world.acceptLogin({ resumed: true });
  expect(world.socket.asked('login').params.resume.rooms).toEqual([{ roomID: 'r', epoch: 7, seq: 11 }]);
  world.cut(); // which has nothing to do with that gateway any more
  await vi.advanceTimersByTimeAsync(200);
  expect(world.gateway.sockets).toHaveLength(2);
});

test('a gateway that drains and is gone before it is time is not waited for: the usual backoff is', async () => {
  const world = await World.loggedIn();
  world.socket.event('serverDraining', { reconnectAfterMs: 30_000 });
  await vi.advanceTimersByTimeAsync(500);
  world.cut();
  await vi.advanceTimersByTimeAsync(249);
  expect(world.gateway.sockets).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(world.gateway.sockets).toHaveLength(2);
});

test('a gateway that drains is left when it owes no answer, and is asked nothing more', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  const sending = world.zim.sendRoomMessage({ type: 20, message: 'hi' }, 'r');
  world.socket.event('serverDraining', { reconnectAfterMs: 1_000 });
  const old = world.socket;
  await vi.advanceTimersByTimeAsync(1_000);
  const counting = world.zim.queryRoomOnlineMemberCount('r');
  expect(old.count('queryRoomOnlineMemberCount')).toBe(0);
  expect(old.closedByClient).toBe(false);
  old.answer('sendRoomMessage', { message: wireMessage({ type: 20 }) });
  expect(old.closedByClient).toBe(true);
  await sending;
  await settle();
  world.acceptLogin({ resumed: true });
  expect(world.socket.sent.map((r) => r.method)).toEqual(['login', 'queryRoomOnlineMemberCount']);
  world.socket.answer('queryRoomOnlineMemberCount', { roomID: 'r', count: 2 });
  await counting;
});

test('a gateway that drains and does not answer is left 1.5 s after it was time', async () => {
  const world = await World.loggedIn();
  world.zim.joinRoom('r').catch(() => {});
  world.socket.event('serverDraining', { reconnectAfterMs: 1_000 });
  await vi.advanceTimersByTimeAsync(2_499);
  world.socket.event('serverDraining', { reconnectAfterMs: 60_000 }); // it is on its way
  expect(world.socket.closedByClient).toBe(false);
  await vi.advanceTimersByTimeAsync(1);
  expect(world.gateway.sockets[0]?.closedByClient).toBe(true);
  await settle();
  world.acceptLogin({ resumed: true });
  expect(world.socket.count('joinRoom')).toBe(1);
});

test('a session under another name is another session, whatever the gateway says', async () => {
  const world = await World.loggedIn();
  const joining = failure(world.zim.joinRoom('r'));
  world.cut();
  await vi.advanceTimersByTimeAsync(8_000);
  world.acceptLogin({ sessionID: 'S9', resumed: true });
  expect(await joining).toMatchObject({ code: 6000104 });
});

test('a silent link is asked for a sign of life after 1.25 intervals, and given up 0.75 later', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  await vi.advanceTimersByTimeAsync(12_499);
  expect(world.socket.count('ping')).toBe(0);
  await vi.advanceTimersByTimeAsync(1);
  expect(world.socket.count('ping')).toBe(1);
  world.socket.raw(JSON.stringify({ jsonrpc: '2.0', id: 'ping', result: { serverTime: 1 } }));
  await vi.advanceTimersByTimeAsync(12_500);
  expect(world.socket.count('ping')).toBe(2);
  expect(world.told()).toEqual([]);
  await vi.advanceTimersByTimeAsync(7_500);
  expect(world.told()).toEqual(interrupted);
  expect(world.gateway.sockets[0]?.closedByClient).toBe(true);
});

test.each([
  [1e15, 0], // more than a timer can take
  [0, 4],
  ['x', 4],
])('a gateway that says it pings every %s ms', async (heartbeatIntervalMs, pings) => {
  const world = new World();
  const login = world.zim.login('ana', {} as never);
  world.acceptLogin({ heartbeatIntervalMs });
  await login;
  for (let i = 0; i < 4; i++) {
    await vi.advanceTimersByTimeAsync(12_500);
    world.socket.raw('{"jsonrpc":"2.0","id":"ping","result":{"serverTime":1}}');
  }
  expect(world.socket.count('ping')).toBe(pings);
});

test('whatever comes is a sign of life', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  for (let seq = 11; seq < 20; seq++) {
    await vi.advanceTimersByTimeAsync(10_000);
    world.message('r', 'x', seq);
  }
  expect(world.gateway.sockets).toHaveLength(1);
  expect(world.socket.count('ping')).toBe(0);
});

test('a tab that slept does not take its own silence for the link\'s', async () => {
  const world = await World.loggedIn();
  await vi.advanceTimersByTimeAsync(12_500);
  expect(world.socket.count('ping')).toBe(1);
  vi.setSystemTime(Date.now() + 3_600_000); // timers do not run while it sleeps
  await vi.advanceTimersByTimeAsync(7_500);
  expect(world.told()).toEqual([]);
  expect(world.socket.count('ping')).toBe(2);
  await vi.advanceTimersByTimeAsync(7_500);
  expect(world.told()).toEqual(['connection (3, 3)']); // awake, and not answered
});

test('a tab whose timers are all late finds that its link is dead', async () => {
  const world = await World.loggedIn();
  for (let minute = 0; minute < 3; minute++) {
    expect(world.told()).toEqual([]);
    vi.setSystemTime(Date.now() + 60_000); // a hidden tab has its timers once a minute
    await vi.advanceTimersToNextTimerAsync();
  }
  expect(world.told()).toEqual(['connection (3, 3)']);
});

test('each silence is excused anew', async () => {
  const world = await World.loggedIn();
  for (let minute = 0; minute < 10; minute++) {
    await vi.advanceTimersByTimeAsync(12_500);
    vi.setSystemTime(Date.now() + 60_000);
    await vi.advanceTimersByTimeAsync(7_500);
    world.socket.raw('{"jsonrpc":"2.0","id":"ping","result":{"serverTime":1}}');
  }
  expect(world.told()).toEqual([]);
});

test('a clock that is set back does not end the watch', async () => {
  const world = await World.loggedIn();
  vi.setSystemTime(Date.now() - 3_600_000);
  await vi.advanceTimersByTimeAsync(32_500);
  expect(world.told()).toEqual(['connection (3, 3)']);
});

/** A Page is what a browser has besides WebSockets, as far as it is listened to. */
class Page {
  private readonly window = new EventTarget();
  private readonly document = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  listeners = 0;

  constructor() {
    for (const target of [this.window, this.document]) {
      const { addEventListener, removeEventListener } = target;
      target.addEventListener = (...args) => {
        this.listeners++;
        addEventListener.apply(target, args);
      };
      target.removeEventListener = (...args) => {
        this.listeners--;
        removeEventListener.apply(target, args);
      };
    }
    vi.stubGlobal('addEventListener', this.window.addEventListener);
    vi.stubGlobal('removeEventListener', this.window.removeEventListener);
    vi.stubGlobal('document', this.document);
  }

  raise(type: string, visibilityState = 'visible'): void {
    this.document.visibilityState = visibilityState;
    (type === 'visibilitychange' ? this.document : this.window).dispatchEvent(new Event(type));
  }
}

afterEach(() => {
  vi.unstubAllGlobals();
});

test.each(['online', 'offline', 'pageshow', 'visibilitychange'])('at %s a link is asked at once, and given up soon', async (type) => {
  const page = new Page();
  const world = await World.loggedIn();
  await vi.advanceTimersByTimeAsync(1_000);
  page.raise(type);
  page.raise(type); // one question is enough
  expect(world.socket.count('ping')).toBe(1);
  await vi.advanceTimersByTimeAsync(3_000);
  expect(world.told()).toEqual(['connection (3, 3)']);
});

test.each([
  ['that was asked already', 0],
  ['that was asked before the tab slept', 3_600_000],
])('a link %s is given up soon as well', async (_, slept) => {
  const page = new Page();
  const world = await World.loggedIn();
  await vi.advanceTimersByTimeAsync(12_500);
  expect(world.socket.count('ping')).toBe(1);
  vi.setSystemTime(Date.now() + slept);
  page.raise('visibilitychange');
  expect(world.socket.count('ping')).toBe(slept ? 2 : 1);
  await vi.advanceTimersByTimeAsync(2_999);
  expect(world.told()).toEqual([]);
  await vi.advanceTimersByTimeAsync(1);
  expect(world.told()).toEqual(['connection (3, 3)']);
});

test('a silence that something else is asked in is excused as well', async () => {
  const page = new Page();
  const world = await World.loggedIn();
  await vi.advanceTimersByTimeAsync(12_500);
  vi.setSystemTime(Date.now() + 60_000);
  await vi.advanceTimersByTimeAsync(7_500); // the one before is excused, and ends
  world.socket.raw('{"jsonrpc":"2.0","id":"ping","result":{"serverTime":1}}');
  page.raise('visibilitychange');
  vi.setSystemTime(Date.now() + 60_000);
  await vi.advanceTimersByTimeAsync(3_000);
  expect(world.told()).toEqual([]);
});

test.each(['online', 'pageshow', 'visibilitychange'])('at %s a link is made without waiting for what is left of a backoff', async (type) => {
  const page = new Page();
  const world = await World.loggedIn();
  vi.spyOn(Math, 'random').mockReturnValue(0.999);
  for (let i = 0; i < 5; i++) {
    world.cut();
    await vi.advanceTimersByTimeAsync(8_000);
  }
  world.cut();
  const before = world.gateway.sockets.length;
  page.raise(type);
  await vi.advanceTimersByTimeAsync(500);
  expect(world.gateway.sockets).toHaveLength(before + 1);
  page.raise(type); // that one is on its way already
  await vi.advanceTimersByTimeAsync(500);
  expect(world.gateway.sockets).toHaveLength(before + 1);
});

test('a tab that is hidden asks nothing, and one that is logged out listens to nothing', async () => {
  const page = new Page();
  const world = await World.loggedIn();
  page.raise('visibilitychange', 'hidden');
  expect(world.socket.count('ping')).toBe(0);
  expect(page.listeners).toBe(4);
  world.socket.closed(4510);
  expect(page.listeners).toBe(0);
});

test('before the login is answered there is nothing to ask a link', async () => {
  const page = new Page();
  const world = new World();
  void failure(world.zim.login('ana', {} as never));
  world.socket.open();
  page.raise('online');
  expect(world.socket.sent.map((r) => r.method)).toEqual(['login']);
});

test('a connection without an answer to its login is given up', async () => {
  const world = await World.loggedIn();
  world.cut();
  await vi.advanceTimersByTimeAsync(500);
  expect(world.gateway.sockets).toHaveLength(2);
  world.socket.open();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(world.gateway.sockets[1]?.closedByClient).toBe(true);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(world.gateway.sockets).toHaveLength(3);
});

test.each([
  ['a login was given up', true, 500, true],
  ['a login was given up long ago', true, 30_000, false],
  ['a login that was refused', 'refused', 500, false],
  ['logins that each had their answer', false, 0, false],
])('the session goes on over another connection, after %s', async (_, unanswered, after, own) => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.cut();
  if (unanswered) {
    await vi.advanceTimersByTimeAsync(500);
    world.socket.open();
    expect(world.socket.count('login')).toBe(1);
    if (unanswered === 'refused') {
      world.socket.refuse('login', 6000007, 'away', { retryable: true });
    } else {
      await vi.advanceTimersByTimeAsync(10_000);
    }
  }
  await world.back();
  for (let t = 0; t < after; t += 500) {
    world.socket.event('tick', {}); // a sign of life
    await vi.advanceTimersByTimeAsync(500);
  }
  world.said.length = 0;
  if (own) {
    world.socket.closed(4510);
    expect(world.told()).toEqual(['connection (3, 3)']); // r is where it was, on its way back
    await world.back();
    world.said.length = 0;
  }
  world.socket.closed(4510);
  expect(world.told()).toEqual(['r (0, 2)', 'connection (0, 4)']);
});

test('what an old connection still says is not heard', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  const old = world.socket;
  await vi.advanceTimersByTimeAsync(20_000); // given up for its silence
  await world.back();
  world.said.length = 0;
  old.event('roomMessageReceived', { fromConversationID: 'r' });
  old.closed(4510);
  expect(world.told()).toEqual([]);
});

test('a listener may destroy', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.zim.on('connectionStateChanged', () => world.zim.destroy());
  world.cut();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(world.gateway.sockets).toHaveLength(1);
  expect(world.told()).toEqual([]);
});

test('a listener may log out, and log in at once', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  const heard: string[] = [];
  const logins: Promise<void>[] = [];
  world.zim.on('connectionStateChanged', (zim, { state, event }) => {
    heard.push(`(${state}, ${event})`);
    if (heard.length === 1) {
      zim.logout();
      logins.push(zim.login('bob', {} as never));
    }
  });
  world.cut();
  expect(world.told()).toEqual(['r (0, 0)']);
  await settle();
  expect(world.gateway.sockets).toHaveLength(2);
  world.socket.open();
  expect(world.socket.asked('login').params).toMatchObject({ userID: 'ana', resume: { sessionID: 'S1' } });
  world.socket.answer('login', { sessionID: 'S1', resumed: true });
  world.socket.answer('logout');
  await settle();
  world.acceptLogin({ sessionID: 'S2' });
  await logins[0];
  expect(world.socket.asked('login').params.userID).toBe('bob');
  expect(heard).toEqual(['(3, 3)', '(0, 0)', '(1, 1)', '(2, 0)']);
  expect(world.gateway.sockets).toHaveLength(3);
});

test('a listener may leave', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  const leaving: Promise<unknown>[] = [];
  world.zim.on('connectionStateChanged', (zim, { state }) => {
    if (state === 3) {
      leaving.push(zim.leaveRoom('r'));
    }
  });
  world.cut();
  await world.back();
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 10 });
  expect(world.socket.sent.map((r) => r.method)).toEqual(['login', 'leaveRoom']);
  world.socket.state('r', 'disconnected', 'success');
  world.socket.answer('leaveRoom', { roomID: 'r' });
  expect(await leaving[0]).toEqual({ roomID: 'r' });
  expect(world.told()).toEqual(['r (1, 1)', 'r (2, 0)', 'r (0, 0)']);
});

test('a departure whose answer was lost is told once: by the resume, and not by the repeat', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  const leaving = world.zim.leaveRoom('r');
  world.cut();
  world.said.length = 0;
  await world.back();
  world.socket.state('r', 'disconnected', 'success');
  world.socket.state('r', 'disconnected', 'success');
  world.socket.answer('leaveRoom', { roomID: 'r' });
  await leaving;
  expect(world.told()).toEqual(['connection (2, 0)', 'r (0, 0)']);
});
