import { expect, test } from 'vitest';
import { failure, room, timed, wireMessage, World } from './fake.js';

// The rows of the table of operations: what the gateway sends for each, and what the
// application sees of it. The numbers are those of the table in docs/protocol.md.

timed();

type Step = [event: 'state', roomID: string, state: string, event: string] | ['attributes', roomID: string];

interface Row {
  row: string;
  /** The rooms the client is in before. */
  in?: string[];
  call: (world: World) => Promise<unknown>;
  method: string;
  steps: Step[];
  refused?: number;
  result?: object;
  told: string[];
}

const info = { roomID: 'r', roomName: '' };
const connecting = (event: string, roomID = 'r'): Step => ['state', roomID, 'connecting', event];
const connected = (roomID = 'r'): Step => ['state', roomID, 'connected', 'success'];
const disconnected = (event: string, roomID = 'r'): Step => ['state', roomID, 'disconnected', event];
const create = (w: World) => w.zim.createRoom(info);
const join = (w: World) => w.zim.joinRoom('r');
const enter = (w: World) => w.zim.enterRoom(info);
const switchTo = (w: World) => w.zim.switchRoom('q', info, true);
const entered = room('r', 10);
const attributes: Step = ['attributes', 'r'];
const set = 'r attributes set {"topic":"x"}';

const rows: Row[] = [
  {
    row: '1 createRoom, with attributes',
    call: create,
    method: 'createRoom',
    steps: [connecting('activeCreate'), attributes, connected()],
    result: entered,
    told: ['r (1, 4)', set, 'r (2, 0)'],
  },
  {
    row: '2, 4, 11 createRoom refused',
    call: create,
    method: 'createRoom',
    steps: [connecting('activeCreate'), disconnected('createFailed')],
    refused: 6000323,
    told: ['r (1, 4)', 'r (0, 5)'],
  },
  { row: '3 createRoom, in it', in: ['r'], call: create, method: 'createRoom', steps: [], refused: 6000323, told: [] },
  {
    row: '5 joinRoom',
    call: join,
    method: 'joinRoom',
    steps: [connecting('activeEnter'), attributes, connected()],
    result: entered,
    told: ['r (1, 6)', set, 'r (2, 0)'],
  },
  {
    row: '6 joinRoom, no such room',
    call: join,
    method: 'joinRoom',
    steps: [connecting('activeEnter'), disconnected('roomNotExist')],
    refused: 6000322,
    told: ['r (1, 6)', 'r (0, 3)'],
  },
  {
    row: '7, 8 enterRoom',
    call: enter,
    method: 'enterRoom',
    steps: [connecting('activeEnter'), connected()],
    result: entered,
    told: ['r (1, 6)', 'r (2, 0)'],
  },
  {
    row: '9, 12, 13 enterRoom refused',
    call: enter,
    method: 'enterRoom',
    steps: [connecting('activeEnter'), disconnected('enterFailed')],
    refused: 6000304,
    told: ['r (1, 6)', 'r (0, 7)'],
  },
  { row: '10 joinRoom, in it', in: ['r'], call: join, method: 'joinRoom', steps: [], result: entered, told: [] },
  { row: '14 another is under way', in: ['r'], call: join, method: 'joinRoom', steps: [], refused: 6000326, told: [] },
  {
    row: '15, 16, 20 switchRoom',
    in: ['q'],
    call: switchTo,
    method: 'switchRoom',
    steps: [connecting('activeSwitch'), attributes, connected(), disconnected('success', 'q')],
    result: entered,
    told: ['r (1, 11)', set, 'r (2, 0)', 'q (0, 0)'],
  },
  {
    row: '17, 18 switchRoom refused',
    in: ['q'],
    call: switchTo,
    method: 'switchRoom',
    steps: [connecting('activeSwitch'), disconnected('switchFailed')],
    refused: 6000322,
    told: ['r (1, 11)', 'r (0, 12)'],
  },
  { row: '19 switchRoom, not in from', call: switchTo, method: 'switchRoom', steps: [], refused: 6000001, told: [] },
  {
    row: '21 leaveRoom',
    in: ['r'],
    call: (w) => w.zim.leaveRoom('r'),
    method: 'leaveRoom',
    steps: [disconnected('success')],
    result: { roomID: 'r' },
    told: ['r (0, 0)'],
  },
  { row: '22 leaveRoom, not in it', call: (w) => w.zim.leaveRoom('r'), method: 'leaveRoom', steps: [], refused: 6000321, told: [] },
  { row: '23 leaveRoom, no such room', call: (w) => w.zim.leaveRoom('r'), method: 'leaveRoom', steps: [], refused: 6000306, told: [] },
  {
    row: '24 leaveAllRoom',
    in: ['r', 'q'],
    call: (w) => w.zim.leaveAllRoom(),
    method: 'leaveAllRoom',
    steps: [disconnected('success', 'q'), disconnected('success')],
    result: { roomIDs: ['q', 'r'] },
    told: ['q (0, 0)', 'r (0, 0)'],
  },
  { row: '26, 27a refused before the store', call: join, method: 'joinRoom', steps: [], refused: 6000005, told: [] },
  {
    row: '27b Redis silent, not to be repeated',
    call: enter,
    method: 'enterRoom',
    steps: [connecting('activeEnter'), disconnected('enterFailed')],
    refused: 6000007,
    told: ['r (1, 6)', 'r (0, 7)'],
  },
  { row: '27b a departure, Redis silent', in: ['r'], call: (w) => w.zim.leaveRoom('r'), method: 'leaveRoom', steps: [], refused: 6000007, told: [] },
  {
    row: '28 a message, no such room',
    call: (w) => w.zim.sendRoomMessage({ type: 1, message: 'hi' } as never, 'r'),
    method: 'sendRoomMessage',
    steps: [],
    refused: 6000204,
    told: [],
  },
];

test.each(rows)('row $row', async (r) => {
  const world = await World.loggedIn();
  for (const roomID of r.in ?? []) {
    await world.entered(roomID);
  }
  const call = r.call(world);
  for (const step of r.steps) {
    if (step[0] === 'attributes') {
      world.attributes(step[1], { topic: 'x' }, 10);
    } else {
      const [, roomID, state, event] = step;
      world.socket.state(roomID, state, event, state === 'connected' ? { epoch: 7, seq: 10 } : {});
    }
  }
  if (r.refused !== undefined) {
    const failed = failure(call);
    world.socket.refuse(r.method, r.refused, 'a sentence');
    expect(await failed).toMatchObject({ code: r.refused, message: 'a sentence' });
  } else {
    world.socket.answer(r.method, r.result);
    expect(await call).toEqual(r.result);
  }
  expect(world.told()).toEqual(r.told);

  // Where the client is after that is what it would name when it comes back.
  const connectedTo = new Set(r.in ?? []);
  for (const line of r.told) {
    const [, roomID, state] = /^(\w+) \((\d), \d+\)$/.exec(line) ?? [];
    if (roomID !== undefined) {
      connectedTo[state === '2' ? 'add' : 'delete'](roomID);
    }
  }
  world.cut();
  await world.back();
  const named = world.socket.asked('login').params.resume.rooms.map((at: { roomID: string }) => at.roomID);
  expect(new Set(named)).toEqual(connectedTo);
});

test.each([
  ['29', 'roomNotExist', 3],
  ['29, to an old client', 'kickedOut', 8],
  ['31', 'kickedOutByOtherDevice', 10],
])('row %s: the room is over', async (_, event, number) => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.socket.state('r', 'disconnected', event);
  expect(world.told()).toEqual([`r (0, ${number})`]);
});

test('row 30: kicked, and told why', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  const extendedData = '{"room_id":"r","reason":"late","message":""}';
  world.socket.event('roomStateChanged', { roomID: 'r', state: 'disconnected', event: 'kickedOut', extendedData });
  expect(world.said).toEqual([['roomStateChanged', { roomID: 'r', state: 0, event: 8, extendedData }]]);
});

test('no login declares a version: one below 2.13.0 would get the events of that time', async () => {
  const world = await World.loggedIn();
  expect(world.socket.asked('login').params).not.toHaveProperty('sdkVersion');
});

test('a switch that happened after all is told unasked', async () => {
  const world = await World.loggedIn({ requestTimeout: 1_000 });
  await world.entered('q');
  const switching = failure(switchTo(world));
  world.socket.state('r', 'connecting', 'activeSwitch');
  world.socket.state('r', 'disconnected', 'switchFailed');
  world.socket.refuse('switchRoom', 6000007); // and no word that it may be repeated
  expect(await switching).toMatchObject({ code: 6000007 });
  world.socket.state('q', 'disconnected', 'success');
  world.socket.state('r', 'connecting', 'activeSwitch');
  world.attributes('r', { topic: 'x' }, 3);
  world.socket.state('r', 'connected', 'success', { epoch: 9, seq: 3 });
  expect(world.told()).toEqual(['r (1, 11)', 'r (0, 12)', 'q (0, 0)', 'r (1, 11)', set, 'r (2, 0)']);
  expect(world.socket.sent.filter((r) => r.method.startsWith('query'))).toEqual([]); // nothing is missing
});

test('events of a room come with their fields, in ZIM\'s shape', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.joined('r', ['bob'], 11, 2);
  world.left('r', ['bob'], 12, 1);
  world.socket.event('roomAttributesBatchUpdated', {
    roomID: 'r',
    infos: [{ action: 'set', roomAttributes: { a: '1' } }, { action: 'delete', roomAttributes: { b: '' } }],
    operatedInfo: { userID: 'bob' },
    seq: 13,
  });
  world.socket.event('roomMemberAttributesUpdated', {
    roomID: 'r',
    infos: [{ attributesInfo: { userID: 'bob', attributes: { level: '7' } } }],
    operatedInfo: { userID: 'cid' },
    seq: 14,
  });
  const bob = { userID: 'bob', userName: 'bob', userAvatarUrl: '', userExtendedData: '' };
  expect(world.said).toEqual([
    ['roomMemberJoined', { roomID: 'r', memberList: [bob], memberCount: 2, seq: 11 }],
    ['roomMemberLeft', { roomID: 'r', memberList: [bob], memberCount: 1, seq: 12 }],
    [
      'roomAttributesBatchUpdated',
      {
        roomID: 'r',
        infos: [{ action: 0, roomAttributes: { a: '1' } }, { action: 1, roomAttributes: { b: '' } }],
        operatedInfo: { userID: 'bob' },
        seq: 13,
      },
    ],
    [
      'roomMemberAttributesUpdated',
      { roomID: 'r', infos: [{ attributesInfo: { userID: 'bob', attributes: { level: '7' } } }], operatedInfo: { userID: 'cid' }, seq: 14 },
    ],
  ]);
});

test('those who left are told before those who came, when they come as two halves', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  world.left('r', ['bob'], 0);
  expect(world.told()).toEqual([]);
  world.joined('r', ['cid'], 12);
  expect(world.told()).toEqual(['r left bob', 'r joined cid']);
  world.left('r', ['cid'], 0);
  world.socket.state('r', 'disconnected', 'kickedOut');
  expect(world.told().slice(2)).toEqual(['r left cid', 'r (0, 8)']);
});

test('one\'s own message moves the position, and is not heard', async () => {
  const world = await World.loggedIn();
  await world.entered('r');
  const sending = world.zim.sendRoomMessage({ type: 1, message: 'hi' } as never, 'r');
  world.socket.answer('sendRoomMessage', { message: wireMessage({ senderUserID: 'ana' }), epoch: 7, seq: 11 });
  await sending;
  world.message('r', 'late', 11);
  expect(world.told()).toEqual([]);
  const other = world.zim.sendRoomMessage({ type: 1, message: 'hi' } as never, 'r');
  world.socket.answer('sendRoomMessage', { message: wireMessage({ senderUserID: 'ana' }), epoch: 6, seq: 40 }); // of another life
  await other;
  world.message('r', 'new', 12);
  expect(world.told()).toEqual(['r message new']);
});
