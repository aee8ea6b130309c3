import { expect, test, vi } from 'vitest';
import { maxPending, maxPendingBytes, maxUnanswered, maxUnansweredBytes, maxUnansweredChanges } from '../src/calls.js';
import { maxOperations } from '../src/batch.js';
import { maxKnown, MembersKnown } from '../src/picture.js';
import { maxRead } from '../src/wire.js';
import { failure, settle, timed, user, World } from './fake.js';

// What must not grow without end, and what a gateway should never send.

timed();

const ignore = () => {};

test('at most 32 requests that change something are unanswered; the next goes when one is answered', async () => {
  const world = await World.loggedIn();
  for (let i = 0; i < maxUnansweredChanges + 2; i++) {
    world.zim.joinRoom(`r${i}`).catch(ignore);
  }
  expect(world.socket.count('joinRoom')).toBe(maxUnansweredChanges);
  const first = world.socket.sent.find((r) => r.method === 'joinRoom');
  world.socket.raw(JSON.stringify({ jsonrpc: '2.0', id: first?.id, error: { code: 6000322, message: 'no' } }));
  expect(world.socket.count('joinRoom')).toBe(maxUnansweredChanges + 1);
  world.socket.refuse('joinRoom', 6000007, 'away', { retryable: true }); // waits, and is not unanswered meanwhile
  expect(world.socket.count('joinRoom')).toBe(maxUnansweredChanges + 2);
});

test('a logout counts among what changes something, and goes when there is room', async () => {
  const world = await World.loggedIn();
  for (let i = 0; i < maxUnansweredChanges; i++) {
    world.zim.joinRoom(`r${i}`).catch(ignore);
  }
  world.zim.logout();
  expect(world.socket.count('logout')).toBe(0);
  world.socket.refuse('joinRoom', 6000322);
  expect(world.socket.count('logout')).toBe(1);
});

test('a new token does not wait for that, but for what a connection may have unanswered of any kind', async () => {
  const world = await World.loggedIn();
  for (let i = 0; i < maxUnansweredChanges + 1; i++) {
    world.zim.joinRoom(`r${i}`).catch(ignore);
  }
  world.zim.queryRoomOnlineMemberCount('r').catch(ignore); // has its place in the order
  world.zim.renewToken('first').catch(ignore);
  world.zim.renewToken('second').catch(ignore);
  expect(world.socket.sent.slice(maxUnansweredChanges + 1).map((r) => r.params.token)).toEqual(['first', 'second']);
  world.zim.destroy();

  const other = await World.loggedIn();
  for (let i = 0; i < maxUnanswered; i++) {
    other.zim.queryRoomOnlineMemberCount('r').catch(ignore);
  }
  other.zim.joinRoom('r').catch(ignore);
  other.zim.renewToken('first').catch(ignore);
  expect(other.socket.count('renewToken')).toBe(0);
});

test('what was never sent is not sent after its time', async () => {
  const world = await World.loggedIn({ requestTimeout: 1_000 });
  const calls = Array.from({ length: maxUnansweredChanges + 1 }, (_, i) => failure(world.zim.joinRoom(`r${i}`)));
  await vi.advanceTimersByTimeAsync(1_000);
  const errors = await Promise.all(calls);
  expect(errors[0]?.message).toBe('joinRoom: no answer within 1000 ms; the outcome is not known');
  expect(errors.at(-1)?.message).toBe('joinRoom: no answer within 1000 ms; not sent');
  world.socket.refuse('joinRoom', 6000322); // makes room for one more
  expect(world.socket.count('joinRoom')).toBe(maxUnansweredChanges);
});

test('requests that a lost link owes count no more, and those of the next are as many', async () => {
  const world = await World.loggedIn();
  for (let i = 0; i < maxUnansweredChanges + 8; i++) {
    world.zim.joinRoom(`r${i}`).catch(ignore);
  }
  world.cut();
  await world.back();
  expect(world.socket.count('joinRoom')).toBe(maxUnansweredChanges);
});

test('requests of any kind that are unanswered have a bound, in number and in bytes', async () => {
  const world = await World.loggedIn();
  for (let i = 0; i < maxUnanswered + 5; i++) {
    world.zim.queryRoomOnlineMemberCount('r').catch(ignore);
  }
  expect(world.socket.count('queryRoomOnlineMemberCount')).toBe(maxUnanswered);
  world.zim.destroy();

  const other = await World.loggedIn();
  const long = 'x'.repeat(60_000);
  for (let i = 0; i < 12; i++) {
    other.zim.queryRoomOnlineMemberCount(long).catch(ignore);
  }
  expect(other.socket.count('queryRoomOnlineMemberCount')).toBe(Math.floor(maxUnansweredBytes / 60_100));
});

test('what waits has a bound in number', async () => {
  const world = await World.loggedIn();
  world.cut();
  for (let i = 0; i < maxPending; i++) {
    world.zim.queryRoomOnlineMemberCount('r').catch(ignore);
  }
  const err = await failure(world.zim.queryRoomOnlineMemberCount('r'));
  expect(err).toEqual(expect.objectContaining({ code: 6000004, message: expect.stringContaining(`${maxPending} requests are unanswered`) }));
});

test('what waits has a bound in bytes', async () => {
  const world = await World.loggedIn();
  world.cut();
  const long = 'x'.repeat(60_000);
  for (let i = 0; i < Math.floor(maxPendingBytes / 60_100); i++) {
    world.zim.queryRoomOnlineMemberCount(long).catch(ignore);
  }
  expect(await failure(world.zim.queryRoomOnlineMemberCount(long))).toMatchObject({
    code: 6000004,
    message: expect.stringContaining(`the limit of ${maxPendingBytes}`),
  });
  await vi.advanceTimersByTimeAsync(30_000); // those that waited have given up
  world.zim.queryRoomOnlineMemberCount(long).catch(ignore);
  await world.back();
  expect(world.socket.count('queryRoomOnlineMemberCount')).toBe(1);
});

test('a request that a gateway would close the connection for is not sent', async () => {
  const world = await World.loggedIn();
  const frame = (n: number) => JSON.stringify({ jsonrpc: '2.0', id: 2, method: 'queryRoomOnlineMemberCount', params: { roomID: 'é'.repeat(n) } });
  const over = Math.floor((65_536 - new TextEncoder().encode(frame(0)).length) / 2) + 1;
  const err = await failure(world.zim.queryRoomOnlineMemberCount('é'.repeat(over)));
  expect(err).toMatchObject({ code: 6000001, message: expect.stringMatching(/the request has 6553[78] bytes, the limit is 65536/) });
  world.zim.queryRoomOnlineMemberCount('é'.repeat(over - 1)).catch(ignore);
  expect(world.socket.count('queryRoomOnlineMemberCount')).toBe(1);
});

test('a command that no request can have is refused by its length', async () => {
  const world = await World.loggedIn();
  const encoded = vi.spyOn(globalThis, 'btoa');
  const command = (bytes: number) => failure(world.zim.sendRoomMessage({ type: 2, message: new Uint8Array(bytes) }, 'r'));
  expect(await command(49_153)).toMatchObject({
    code: 6000001,
    message: 'the message of a command has 49153 bytes, no request can have more than 49152 of them',
  });
  expect(encoded).not.toHaveBeenCalled();
  expect(await command(49_152)).toMatchObject({ code: 6000001, message: expect.stringContaining('the limit is 65536') });
  encoded.mockRestore();
});

test('a batch has at most 20 operations, and one of more is not begun to be carried out', async () => {
  const world = await World.loggedIn();
  world.zim.beginRoomAttributesBatchOperation('r', {});
  const calls = Array.from({ length: maxOperations + 2 }, (_, i) => world.zim.setRoomAttributes({ [`k${i}`]: '' }, 'r', {}));
  const err = await failure(world.zim.endRoomAttributesBatchOperation('r'));
  expect(err).toMatchObject({ code: 6000001, message: 'the batch of attributes of room "r" has 22 operations, the limit is 20' });
  for (const call of calls) {
    expect(await failure(call)).toMatchObject({ code: 6000001 });
  }
  expect(world.socket.count('batchRoomAttributes')).toBe(0);
});

test('batches that were begun and not ended have a bound, and end with the login', async () => {
  const world = await World.loggedIn();
  vi.spyOn(console, 'error').mockImplementation(ignore);
  for (let i = 0; i <= 500; i++) {
    world.zim.beginRoomAttributesBatchOperation(`r${i}`, {});
  }
  expect(await failure(world.zim.endRoomAttributesBatchOperation('r500'))).toMatchObject({ code: 6000001 });
  const call = failure(world.zim.setRoomAttributes({ a: '' }, 'r0', {}));
  world.socket.closed(4510);
  expect(await call).toMatchObject({ code: 6000121 });
  expect(await failure(world.zim.endRoomAttributesBatchOperation('r1'))).toMatchObject({ code: 6000001 });
  vi.restoreAllMocks();
});

test('of members no more are kept than of a room that is not sampled', () => {
  const members = new MembersKnown('ana');
  const many = Array.from({ length: maxKnown + 1 }, (_, i) => user(`u${i}`));
  members.beginWalk();
  expect(members.page(many)).toBe(false);
  members.abortWalk();
  members.seen(many);
  members.beginWalk();
  members.page([user('u0')]);
  expect(members.endWalk().left).toEqual([]); // they were forgotten: nobody can be said to have left
});

test('a room that is too large after all is not walked to its end', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.socket.event('roomHistoryLost', { roomID: 'r', fromSeq: 10, toSeq: 20 });
  world.socket.answer('queryRoomOnlineMemberCount', { roomID: 'r', count: 400 });
  for (let page = 0; page < 11; page++) {
    const memberList = Array.from({ length: 100 }, (_, i) => user(`u${page}-${i}`));
    world.socket.answer('queryRoomMemberList', { roomID: 'r', memberList, nextFlag: 'more' });
  }
  expect(world.socket.count('queryRoomMemberList')).toBe(11);
  expect(world.told()).toEqual(['r lost 10–20']);
});

test('no more than 500 rooms are named when coming back', async () => {
  const world = await World.loggedIn();
  for (let i = 0; i < 501; i++) {
    world.socket.state(`r${i}`, 'connected', 'success', { epoch: 1, seq: 1 });
  }
  world.cut();
  await vi.advanceTimersByTimeAsync(8_000);
  world.socket.open();
  expect(world.socket.asked('login').params.resume.rooms).toHaveLength(500);
});

const bad: [what: string, data: unknown][] = [
  ['bytes', new ArrayBuffer(4)],
  ['no JSON', '{"jsonrpc":'],
  ['a number', '7'],
  ['null', 'null'],
  ['more than 16 MiB', `{"jsonrpc":"2.0","id":9,"result":{"x":"${'x'.repeat(maxRead)}"}}`],
  ['a list', '[]'],
  ['neither answer nor event', '{"jsonrpc":"2.0"}'],
  ['an event with params that are a list', '{"method":"roomStateChanged","params":[]}'],
  ['a state of no room', '{"method":"roomStateChanged","params":{"state":"connected","event":"success","extendedData":""}}'],
  ['a state nobody knows', '{"method":"roomStateChanged","params":{"roomID":"r","state":"asleep","event":"success","extendedData":""}}'],
  ['a state with a number', '{"method":"roomStateChanged","params":{"roomID":"r","state":2,"event":"success","extendedData":""}}'],
  ['a state that is a number in quotes', '{"method":"roomStateChanged","params":{"roomID":"r","state":"2","event":"success","extendedData":""}}'],
  ['a position that is none', '{"method":"roomStateChanged","params":{"roomID":"r","state":"connected","event":"success","extendedData":"","epoch":1.5}}'],
  ['members that are none', '{"method":"roomMemberJoined","params":{"roomID":"r","memberList":[null],"memberCount":1,"seq":11}}'],
  ['members without an ID', '{"method":"roomMemberLeft","params":{"roomID":"r","memberList":[{}],"memberCount":1,"seq":11}}'],
  ['attributes that are no text', '{"method":"roomAttributesUpdated","params":{"roomID":"r","infos":[{"action":"set","roomAttributes":{"a":1}}],"seq":11}}'],
  ['an action nobody knows', '{"method":"roomAttributesUpdated","params":{"roomID":"r","infos":[{"action":"turn","roomAttributes":{}}],"seq":11}}'],
  ['a message without parts', '{"method":"roomMessageReceived","params":{"fromConversationID":"r","messageList":[{"type":1}],"seq":11}}'],
  ['a state of the connection nobody knows', '{"method":"connectionStateChanged","params":{"state":"odd","event":"success"}}'],
];

test.each(bad)('%s is skipped, and said', async (_, data) => {
  const errors = vi.spyOn(console, 'error').mockImplementation(ignore);
  const world = await World.loggedIn();
  await world.entered('r');
  world.socket.raw(data);
  expect(world.said).toEqual([['error', { code: 6000109, message: expect.any(String) }]]);
  world.message('r', 'next', 11); // neither the link nor the position has suffered
  expect(world.told().slice(1)).toEqual(['r message next']);
  expect(errors).toHaveBeenCalledOnce();
  errors.mockRestore();
});

test('a command that is not base64 is skipped', async () => {
  vi.spyOn(console, 'error').mockImplementation(ignore);
  const world = await World.loggedIn();
  await world.entered('r');
  world.message('r', '', 0, { messageList: [{ type: 2, message: '*', messageID: '1', senderUserID: 'b', conversationID: 'r' }], seq: undefined });
  expect(world.told()).toEqual(['error 6000109']);
  vi.restoreAllMocks();
});

test('an answer that cannot be read rejects whoever asked', async () => {
  vi.spyOn(console, 'error').mockImplementation(ignore);
  const world = await World.loggedIn();
  await world.entered('r');
  const asking = failure(world.zim.queryRoomMemberList('r', { count: 1, nextFlag: '' }));
  world.socket.answer('queryRoomMemberList', { roomID: 'r', memberList: 'all' });
  expect(await asking).toMatchObject({ code: 6000109 });
  const sending = failure(world.zim.sendRoomMessage({ type: 1, message: 'x' } as never, 'r'));
  world.socket.answer('sendRoomMessage', { message: null, epoch: 7, seq: 11 });
  expect(await sending).toMatchObject({ code: 6000109 });
  const odd = failure(world.zim.sendRoomMessage({ type: 1, message: 'x' } as never, 'r'));
  world.socket.answer('sendRoomMessage', { message: {}, epoch: 'x' });
  expect(await odd).toMatchObject({ code: 6000109 });
  vi.restoreAllMocks();
});

test('answers to nothing, and events of other rooms or of later versions, are passed over', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.socket.raw('{"jsonrpc":"2.0","id":999,"result":{}}');
  world.socket.answer('login', { sessionID: 'S7', resumed: false }); // once more
  world.socket.raw('{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}');
  world.message('elsewhere', 'x', 1);
  world.socket.event('roomPainted', { roomID: 'r', seq: 12 });
  world.socket.event('weather', {});
  expect(world.said).toEqual([]);
  world.message('r', 'before', 12); // the event that this version does not know has moved the position
  expect(world.said).toEqual([]);
});

test('a new event of a known state has the meaning of the state', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.socket.state('r', 'disconnected', 'evaporated');
  expect(world.told()).toEqual(['r (0, 2)']);
  world.cut();
  await world.back();
  expect(world.socket.asked('login').params.resume.rooms).toEqual([]);
});

test('no token is in what is said, thrown or written', async () => {
  const written = vi.fn();
  for (const level of ['debug', 'error'] as const) {
    vi.spyOn(console, level).mockImplementation(written);
  }
  const world = new World({ requestTimeout: 1_000 });
  world.zim.setLogConfig({ logLevel: 'debug' });
  const heard: unknown[] = [];
  const login = world.zim.login('ana', { token: 'secret-token-1' } as never);
  world.acceptLogin({ sessionID: 'secret-session' });
  await login;
  const renewing = failure(world.zim.renewToken('secret-token-2'));
  await vi.advanceTimersByTimeAsync(1_000);
  heard.push(await renewing);
  heard.push(await failure(world.zim.renewToken('secret-token-3'.repeat(10_000))));
  world.socket.raw('{"token":"secret-token-4"');
  world.cut();
  await vi.advanceTimersByTimeAsync(500);
  world.socket.open();
  world.socket.refuse('login', 6000103, 'the token is malformed');
  heard.push(world.said, written.mock.calls, (heard[0] as Error).stack, (heard[1] as Error).stack);
  expect(written).toHaveBeenCalled();
  const text = JSON.stringify(heard, (_, v) => (v instanceof Error ? [v.message, v.stack] : v));
  expect(text).not.toContain('secret');
  vi.restoreAllMocks();
});

test('the log writes errors alone, until it is told otherwise', async () => {
  const written = vi.spyOn(console, 'debug').mockImplementation(ignore);
  const world = await World.loggedIn();
  expect(written).not.toHaveBeenCalled();
  world.zim.setLogConfig({ logLevel: 'debug' });
  world.cut();
  expect(written).toHaveBeenCalledExactlyOnceWith('roomgate: disconnected with code 1006');
  world.zim.setLogConfig({ logLevel: 'loud' as never }); // nothing known: as before
  world.zim.setLogConfig({ logLevel: 'disable' });
  const errors = vi.spyOn(console, 'error').mockImplementation(ignore);
  await world.back();
  world.socket.raw('x');
  expect(errors).not.toHaveBeenCalled();
  vi.restoreAllMocks();
});

test('a client that comes and goes leaves no timer behind', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.zim.joinRoom('s').catch(ignore);
  world.cut();
  await world.back();
  world.socket.event('serverDraining', { reconnectAfterMs: 5_000 });
  world.socket.refuse('joinRoom', 6000007, 'away', { retryable: true });
  world.zim.destroy();
  await settle();
  expect(vi.getTimerCount()).toBe(0);
});
