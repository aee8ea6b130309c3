import { expect, test, vi } from 'vitest';
import { failure, settle, timed, user, World } from './fake.js';

// What happens when events were missed for good, and in rooms so large that not all are told.

timed();

function list(world: World, users: string[], nextFlag = '', seq = 20): void {
  world.socket.answer('queryRoomMemberList', { roomID: 'r', memberList: users.map(user), nextFlag, epoch: 7, seq });
}

function count(world: World, count: number): void {
  world.socket.answer('queryRoomOnlineMemberCount', { roomID: 'r', count, epoch: 7, seq: 20 });
}

function allAttributes(world: World, roomAttributes: Record<string, string>): void {
  world.socket.answer('queryRoomAllAttributes', { roomID: 'r', roomAttributes, epoch: 7, seq: 20 });
}

function lost(world: World, toSeq: number): void {
  world.socket.event('roomHistoryLost', { roomID: 'r', fromSeq: 10, toSeq });
}

/** known is a room whose members bob and cid the application has seen, and the topic. */
async function known(): Promise<World> {
  const world = await World.loggedIn();
  await world.entered('r', { topic: 'x', lang: 'en' });
  const asking = world.zim.queryRoomMemberList('r', { count: 100, nextFlag: '' });
  list(world, ['ana', 'bob'], '', 10);
  await asking;
  world.joined('r', ['cid'], 11);
  world.said.length = 0;
  return world;
}

test('after a loss the difference is told: of attributes, and of members', async () => {
  const world = await known();
  lost(world, 20);
  allAttributes(world, { topic: 'y', mood: 'ok' });
  count(world, 3);
  list(world, ['ana', 'cid', 'dan']);
  expect(world.told()).toEqual([
    'r lost 10–20',
    'r batch set {"topic":"y","mood":"ok"} delete {"lang":""}',
    'r left bob',
    'r joined dan',
  ]);
  expect(world.said.at(-1)?.[1].memberCount).toBe(3);
  world.message('r', 'old', 20); // the position is behind the loss
  world.message('r', 'new', 21);
  expect(world.told().slice(4)).toEqual(['r message new']);
});

test('an application that reads the list itself meanwhile hears who went before it has it', async () => {
  const world = await known();
  lost(world, 20); // bob left in it, and dan came
  allAttributes(world, { topic: 'x', lang: 'en' });
  count(world, 3);
  const walk = world.socket.asked('queryRoomMemberList');
  const own = world.zim.queryRoomMemberList('r', { count: 100 } as never); // the first page
  list(world, ['ana', 'cid', 'dan']);
  expect(world.told()).toEqual(['r lost 10–20', 'r left bob']);
  expect((await own).memberList).toHaveLength(3);
  world.left('r', ['dan'], 21);
  world.socket.raw(JSON.stringify({ jsonrpc: '2.0', id: walk.id, result: { roomID: 'r', memberList: [user('cid')], nextFlag: '' } }));
  expect(world.told()).toEqual(['r lost 10–20', 'r left bob', 'r left dan']);
});

test('an answer that is older than what was told already is brought up to it', async () => {
  const world = await known();
  const all = world.zim.queryRoomMemberList('r', { count: 100, nextFlag: '' });
  world.joined('r', ['eve'], 21);
  world.left('r', ['bob'], 22, 3);
  world.said.forEach(([, data]) => data.memberList?.pop()); // a listener may do with it what it likes
  list(world, ['ana', 'bob', 'cid'], '', 20);
  const { memberList, seq } = await all;
  expect([memberList.map((m) => m.userID), seq]).toEqual([['ana', 'cid', 'eve'], 22]);

  const page = world.zim.queryRoomMemberList('r', { count: 2, nextFlag: '' });
  world.joined('r', ['fay'], 23); // on the next page
  world.left('r', ['cid'], 24, 3);
  list(world, ['ana', 'cid'], 'more', 22);
  expect((await page).memberList.map((m) => m.userID)).toEqual(['ana']);
  const rest = world.zim.queryRoomMemberList('r', { count: 2, nextFlag: 'more' });
  world.left('r', ['fay'], 25, 2);
  world.joined('r', ['fay'], 26);
  list(world, ['fay', 'eve'], '', 24);
  expect((await rest).memberList.map((m) => m.userID)).toEqual(['eve', 'fay']);

  const online = world.zim.queryRoomOnlineMemberCount('r');
  const attributes = world.zim.queryRoomAllAttributes('r');
  world.joined('r', ['bob'], 27, 4);
  world.socket.event('roomAttributesUpdated', { roomID: 'r', infos: [{ action: 'set', roomAttributes: { topic: 'z' } }], operatedInfo: { userID: 'bob' }, seq: 28 });
  world.socket.event('roomAttributesUpdated', { roomID: 'r', infos: [{ action: 'delete', roomAttributes: { lang: '' } }], operatedInfo: { userID: 'bob' }, seq: 29 });
  world.message('r', 'x', 30);
  count(world, 3);
  allAttributes(world, { topic: 'x', lang: 'en', more: '1' });
  expect((await online).count).toBe(4);
  expect((await attributes).roomAttributes).toEqual({ topic: 'z', more: '1' });

  const fresh = world.zim.queryRoomOnlineMemberCount('r');
  world.left('r', ['bob'], 31, 3);
  world.socket.answer('queryRoomOnlineMemberCount', { roomID: 'r', count: 1, epoch: 8, seq: 2 }); // of the room's next life
  expect((await fresh).count).toBe(1);
  const later = world.zim.queryRoomOnlineMemberCount('r');
  world.joined('r', ['bob'], 32, 4);
  world.socket.answer('queryRoomOnlineMemberCount', { roomID: 'r', count: 2, epoch: 7, seq: 40 });
  expect((await later).count).toBe(2);
});

test('what is read after a loss is brought up to what was told, too', async () => {
  const world = await known();
  lost(world, 20); // eve came in it, and topic was set
  count(world, 4);
  world.left('r', ['eve'], 21, 3);
  world.socket.event('roomAttributesUpdated', { roomID: 'r', infos: [{ action: 'set', roomAttributes: { topic: 'z' } }], operatedInfo: { userID: 'bob' }, seq: 22 });
  allAttributes(world, { topic: 'y', lang: 'en' });
  list(world, ['ana', 'bob', 'cid', 'eve']);
  expect(world.told()).toEqual(['r lost 10–20', 'r attributes set {"topic":"z"}']);
});

test('a page of the list says nothing of who is not on it', async () => {
  const world = await known();
  lost(world, 20);
  for (const { asked, answered } of [{ asked: '', answered: 'more' }, { asked: 'more', answered: '' }]) {
    const own = world.zim.queryRoomMemberList('r', { count: 1, nextFlag: asked });
    list(world, ['eve'], answered);
    await own;
  }
  expect(world.told()).toEqual(['r lost 10–20']);
});

test('an answer that came too late has shown the application nothing', async () => {
  const world = await World.loggedIn({ requestTimeout: 1_000 });
  await world.entered('r');
  const asking = failure(world.zim.queryRoomMemberList('r', { count: 100, nextFlag: '' }));
  await vi.advanceTimersByTimeAsync(1_000);
  expect(await asking).toMatchObject({ code: 6000105 });
  list(world, ['ana', 'bob'], '', 10);
  lost(world, 20);
  count(world, 2);
  list(world, ['ana', 'bob']);
  expect(world.told()).toEqual(['r lost 10–20', 'r joined bob']);
});

test('what is the same is not told', async () => {
  const world = await known();
  lost(world, 20);
  allAttributes(world, { topic: 'x', lang: 'en' });
  count(world, 3);
  list(world, ['ana', 'bob', 'cid']);
  expect(world.told()).toEqual(['r lost 10–20']);
});

test('one kind of change comes as roomAttributesUpdated', async () => {
  const world = await known();
  lost(world, 20);
  allAttributes(world, { topic: 'x' });
  expect(world.told()).toEqual(['r lost 10–20', 'r attributes delete {"lang":""}']);
});

test('an attribute whose key is a name of objects is one like any other', async () => {
  const world = await known();
  lost(world, 20);
  allAttributes(world, JSON.parse('{"topic":"x","lang":"en","__proto__":"p","valueOf":"v"}'));
  expect(world.said.at(-1)?.[1].infos[0].roomAttributes).toHaveProperty('valueOf', 'v');
  lost(world, 30);
  allAttributes(world, { topic: 'x', lang: 'en' });
  expect(Object.keys(world.said.at(-1)?.[1].infos[0].roomAttributes).sort()).toEqual(['__proto__', 'valueOf']);
});

test('events between a loss and the answers are told once', async () => {
  const world = await known();
  lost(world, 20);
  world.attributes('r', { topic: 'z' }, 21);
  world.joined('r', ['eve'], 22);
  world.left('r', ['cid'], 23);
  world.left('r', ['dan'], 24); // who came in the gap, so the application has not heard of them
  allAttributes(world, { topic: 'z' });
  count(world, 3);
  list(world, ['ana', 'bob', 'gus'], 'next', 24);
  world.left('r', ['gus'], 25); // came in the gap, and was not told of yet
  world.joined('r', ['fay'], 26);
  world.left('r', ['bob'], 27); // of the first page
  world.joined('r', ['bob'], 28); // and here again, behind the others
  list(world, ['eve', 'fay', 'bob'], '', 28);
  expect(world.told()).toEqual([
    'r lost 10–20',
    'r attributes set {"topic":"z"}',
    'r joined eve',
    'r left cid',
    'r attributes delete {"lang":""}',
    'r joined fay',
    'r left bob',
    'r joined bob',
  ]);
});

test('who came in the gap and is known already is not told to come twice', async () => {
  const world = await known();
  lost(world, 20); // bob left in it
  world.joined('r', ['bob'], 21); // and comes back: the application never took him out
  allAttributes(world, { topic: 'x', lang: 'en' });
  count(world, 3);
  list(world, ['ana', 'cid', 'bob'], '', 21);
  expect(world.told()).toEqual(['r lost 10–20']);
});

test('attributes that were asked for before another loss are out of date', async () => {
  const world = await known();
  lost(world, 20);
  const first = world.socket.asked('queryRoomAllAttributes');
  lost(world, 30);
  allAttributes(world, { topic: 'x', lang: 'en' });
  world.socket.raw(JSON.stringify({ jsonrpc: '2.0', id: first.id, result: { roomID: 'r', roomAttributes: {} } }));
  expect(world.told()).toEqual(['r lost 10–20', 'r lost 10–30']);
});

test('another loss while a walk is under way begins it anew', async () => {
  const world = await known();
  lost(world, 20);
  count(world, 3);
  const first = world.socket.asked('queryRoomMemberList');
  lost(world, 30);
  count(world, 1);
  world.socket.raw(JSON.stringify({ jsonrpc: '2.0', id: first.id, result: { roomID: 'r', memberList: [user('old')], nextFlag: '' } }));
  list(world, ['ana']);
  expect(world.told()).toEqual(['r lost 10–20', 'r lost 10–30', 'r left bob,cid']);
});

test('in a room of more than 500 the list is not read, until it is smaller', async () => {
  const world = await known();
  lost(world, 20);
  count(world, 501);
  await settle();
  expect(world.socket.count('queryRoomMemberList')).toBe(1); // the application's own
  world.left('r', ['x'], 21, 501);
  expect(world.socket.count('queryRoomOnlineMemberCount')).toBe(1);
  world.left('r', ['y'], 22, 500);
  expect(world.socket.count('queryRoomOnlineMemberCount')).toBe(2);
  count(world, 500);
  list(world, ['ana', 'bob', 'cid']);
  expect(world.told()).toEqual(['r lost 10–20', 'r left x', 'r left y']);
});

test('a sampled room keeps no list; when all are told again, it is read', async () => {
  const world = await known();
  const mode = (mode: string) => world.socket.event('roomModeChanged', { roomID: 'r', mode, seq: 30 });
  mode('sampled');
  world.left('r', ['bob'], 0, 1200);
  expect(world.told().at(-1)).toBe('r left bob'); // no half of anything
  world.joined('r', ['gil'], 31, 1201);
  mode('full');
  count(world, 400);
  list(world, ['ana', 'hal']);
  expect(world.told()).toEqual(['r sampled', 'r left bob', 'r joined gil', 'r full', 'r joined hal']);
  world.message('r', 'x', 32);
  expect(world.told()).toContain('r message x'); // the mode's seq is no position
});

test('a walk that a change of mode has overtaken is begun anew', async () => {
  const world = await known();
  const mode = (mode: string) => world.socket.event('roomModeChanged', { roomID: 'r', mode, seq: 30 });
  lost(world, 20);
  mode('sampled');
  count(world, 3); // of the walk before
  expect(world.socket.count('queryRoomMemberList')).toBe(1); // the application's own
  mode('full');
  count(world, 1);
  list(world, ['ana', 'hal']);
  expect(world.told()).toEqual(['r lost 10–20', 'r sampled', 'r full', 'r joined hal']);
});

test('a room that was sampled, and is not any more after coming back, is read', async () => {
  const world = await known();
  world.socket.event('roomModeChanged', { roomID: 'r', mode: 'sampled', seq: 30 });
  world.cut();
  await world.back();
  world.said.length = 0;
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 30 });
  count(world, 2);
  list(world, ['ana', 'hal']);
  expect(world.told()).toEqual(['r (2, 0)', 'r joined hal']);
});

test('a room that still is sampled after coming back is not', async () => {
  const world = await known();
  world.socket.event('roomModeChanged', { roomID: 'r', mode: 'sampled', seq: 30 });
  world.cut();
  await world.back();
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 30 });
  world.socket.event('roomModeChanged', { roomID: 'r', mode: 'sampled', seq: 30 });
  count(world, 2000);
  expect(world.socket.count('queryRoomMemberList')).toBe(0);
});

test('what a loss asks for survives a link that is cut', async () => {
  const world = await known();
  lost(world, 20);
  world.cut();
  world.said.length = 0;
  await world.back();
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 20 });
  allAttributes(world, { topic: 'x' });
  count(world, 1);
  list(world, ['ana']);
  expect(world.told()).toEqual(['connection (2, 0)', 'r (2, 0)', 'r attributes delete {"lang":""}', 'r left bob,cid']);
  expect(world.socket.count('queryRoomAllAttributes')).toBe(1);
});

test('what could not be read is read when the room is connected anew', async () => {
  const world = await known();
  lost(world, 20);
  world.socket.refuse('queryRoomAllAttributes', 6000005);
  world.socket.refuse('queryRoomOnlineMemberCount', 6000005);
  world.cut();
  await world.back();
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 20 });
  allAttributes(world, { topic: 'x' });
  count(world, 2);
  world.socket.refuse('queryRoomMemberList', 6000005); // and once more
  world.cut();
  await world.back();
  world.said.length = 0;
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 20 });
  count(world, 2);
  list(world, ['ana', 'bob']);
  expect(world.told()).toEqual(['r (2, 0)', 'r left cid']);
});

test('what could not be read is read after a while, again and again, until it can be', async () => {
  const world = await known();
  vi.spyOn(Math, 'random').mockReturnValue(0.999);
  lost(world, 20);
  for (let i = 1; i < 8; i++) {
    world.socket.refuse('queryRoomAllAttributes', 6000005);
    world.socket.refuse('queryRoomOnlineMemberCount', 6000005);
    await vi.advanceTimersByTimeAsync(Math.min(8_000, 500 * 2 ** (i - 1)));
    expect(world.socket.count('queryRoomAllAttributes')).toBe(i + 1);
    expect(world.socket.count('queryRoomOnlineMemberCount')).toBe(i + 1);
  }
  allAttributes(world, { topic: 'x' });
  count(world, 1);
  world.socket.refuse('queryRoomMemberList', 6000005);
  await vi.advanceTimersByTimeAsync(500); // from the beginning
  expect(world.socket.count('queryRoomAllAttributes')).toBe(8);
  count(world, 1);
  list(world, ['ana']);
  expect(world.told()).toEqual(['r lost 10–20', 'r attributes delete {"lang":""}', 'r left bob,cid']);
  await vi.advanceTimersByTimeAsync(8_000);
  expect(world.socket.count('queryRoomOnlineMemberCount')).toBe(9);
  lost(world, 30);
  world.socket.refuse('queryRoomOnlineMemberCount', 6000005);
  await vi.advanceTimersByTimeAsync(500); // the wait begins anew
  expect(world.socket.count('queryRoomOnlineMemberCount')).toBe(11);
});

test('the wait for attributes alone grows, and begins anew once they were read', async () => {
  const world = await known();
  vi.spyOn(Math, 'random').mockReturnValue(0.999);
  const failing = async (ms: number) => {
    const before = world.socket.count('queryRoomAllAttributes');
    world.socket.refuse('queryRoomAllAttributes', 6000005);
    await vi.advanceTimersByTimeAsync(ms);
    expect(world.socket.count('queryRoomAllAttributes')).toBe(before + 1);
  };
  lost(world, 20);
  await failing(500);
  await failing(1_000);
  allAttributes(world, { topic: 'x', lang: 'en' });
  lost(world, 30);
  await failing(500);
});

test('an answer that cannot be read is asked for again', async () => {
  vi.spyOn(console, 'error').mockImplementation(() => {});
  const world = await known();
  lost(world, 20);
  world.socket.answer('queryRoomAllAttributes', { roomID: 'r', roomAttributes: 7 });
  world.socket.answer('queryRoomOnlineMemberCount', { roomID: 'r', count: 'x' });
  await vi.advanceTimersByTimeAsync(500);
  allAttributes(world, { topic: 'x', lang: 'en' });
  count(world, 1);
  list(world, ['ana']);
  expect(world.told()).toEqual(['r lost 10–20', 'error 6000109', 'error 6000109', 'r left bob,cid']);
});

test('a room that the client has left, or that comes back, is not read after that while', async () => {
  const world = await known();
  const refuse = () => world.socket.refuse('queryRoomOnlineMemberCount', 6000005);
  lost(world, 20);
  refuse();
  world.cut();
  await vi.advanceTimersByTimeAsync(500);
  world.acceptLogin({ resumed: true });
  expect(world.socket.count('queryRoomOnlineMemberCount')).toBe(0); // before it is connected
  world.socket.state('r', 'connected', 'success', { epoch: 7, seq: 20 });
  refuse();
  world.socket.state('r', 'disconnected', 'kickedOut');
  await vi.advanceTimersByTimeAsync(8_000);
  expect(world.socket.count('queryRoomOnlineMemberCount')).toBe(1);
});

test('a heal after a loss of data: interrupted, connected under another epoch, and the difference', async () => {
  const world = await known();
  world.socket.state('r', 'connecting', 'networkInterrupted');
  world.socket.state('r', 'connected', 'success', { epoch: 8, seq: 2 });
  world.socket.event('roomHistoryLost', { roomID: 'r', fromSeq: 0, toSeq: 2 });
  allAttributes(world, { topic: 'x', lang: 'en' });
  world.joined('r', ['bob'], 3, 2); // put back late; the application never took him out
  count(world, 2);
  list(world, ['ana', 'bob']);
  expect(world.told()).toEqual(['r (1, 1)', 'r (2, 0)', 'r lost 0–2', 'r left cid']);
});

test('who is out of the room has nothing read', async () => {
  const world = await known();
  lost(world, 20);
  world.socket.state('r', 'disconnected', 'roomNotExist');
  allAttributes(world, { other: '1' });
  count(world, 5);
  expect(world.told()).toEqual(['r lost 10–20', 'r (0, 3)']);
  expect(world.socket.count('queryRoomMemberList')).toBe(1); // the application's own
});

test('a room that a listener has made an end of has nothing read', async () => {
  const world = await known();
  const listener = vi.fn();
  world.zim.on('roomHistoryLost', () => {
    listener();
    world.zim.destroy();
  });
  lost(world, 20);
  expect(listener).toHaveBeenCalledOnce();
  expect(world.socket.count('queryRoomAllAttributes')).toBe(0);
  expect(vi.getTimerCount()).toBe(0); // nor does anything wait for it
});
