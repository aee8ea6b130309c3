import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Tab } from './tab.js';
import { type Gateway, World } from './world.js';

// The samples are programs as they are written for ZIM's Web SDK. They run unmodified, each in
// a tab of its own and on a gateway of its own, and report what they see.

let world: World;
let one: Gateway;
let two: Gateway;
let browser: Browser;
let site: string;

beforeAll(async () => {
  world = await World.start();
  [one, two] = [await world.gateway(), await world.gateway()];
  browser = await world.browser();
  site = await world.pages(join(import.meta.dirname, 'samples'));
});

afterAll(() => world.close());

/** run calls a sample in a tab, and keeps what it gives there as zim. */
async function run(tab: Tab, file: string, name: string, options: object): Promise<void> {
  await tab.page.evaluate(
    async ([file, name, options]) => {
      const w = window as any;
      const program = (await w.load(`/${file}`))[name];
      w.zim = await program(w.ZIM, { ...options, zim: w.zim, report: w.report });
    },
    [file, name, options] as const,
  );
}

test('a teacher makes a room, and a student comes, speaks and goes', async () => {
  const roomID = 'algebra-1';
  const teacher = await Tab.open(browser, site);
  await run(teacher, 'teacher-and-students.js', 'teacher', { appID: 1, server: one.url, userID: 'teacher', token: '', roomID });
  const student = await Tab.open(browser, site);
  await run(student, 'teacher-and-students.js', 'student', { appID: 1, server: two.url, userID: 'sue', token: '', roomID });
  await teacher.reported('left');

  expect(teacher.reports).toEqual([
    ['state', { roomID, state: 1, event: 4, extendedData: '' }], // connecting, activeCreate
    ['state', { roomID, state: 2, event: 0, extendedData: '' }], // connected, success
    ['created', { roomID, roomName: 'Algebra' }],
    ['joined', { roomID, users: ['sue'] }],
    ['message', { roomID, texts: ['hello'] }],
    ['left', { roomID, users: ['sue'] }],
  ]);
  const state = (state: number, event: number) => expect.objectContaining({ roomID, state, event, extendedData: '' });
  expect(student.reports).toEqual([
    ['state', state(1, 6)], // connecting, activeEnter
    ['attributes', { roomID, infos: [{ action: 0, roomAttributes: { topic: 'fractions' } }] }],
    ['state', state(2, 0)],
    ['entered', { roomID, roomName: 'Algebra' }],
    ['members', { users: ['teacher', 'sue'], nextFlag: '' }],
    ['state', state(0, 0)], // disconnected, success
    ['gone', { roomID }],
  ]);
});

test('a second teacher cannot make the room, and a student cannot join one that is not there', async () => {
  const roomID = 'algebra-2';
  const teacher = await Tab.open(browser, site);
  await run(teacher, 'teacher-and-students.js', 'teacher', { appID: 1, server: one.url, userID: 'teacher', token: '', roomID });
  const other = await Tab.open(browser, site);
  await run(other, 'teacher-and-students.js', 'teacher', { appID: 1, server: two.url, userID: 'other', token: '', roomID });
  expect(other.reports).toEqual([
    ['state', { roomID, state: 1, event: 4, extendedData: '' }],
    ['state', { roomID, state: 0, event: 5, extendedData: '' }], // disconnected, createFailed
    ['create failed', { code: 6000323 }],
  ]);

  const student = await Tab.open(browser, site);
  const nowhere = 'algebra-3';
  const running = run(student, 'teacher-and-students.js', 'student', { appID: 1, server: two.url, userID: 'sue', token: '', roomID: nowhere });
  await expect(running).rejects.toThrow(/no such room/); // of its sendMessage, which nothing catches
  expect(student.reports).toEqual([
    ['state', expect.objectContaining({ roomID: nowhere, state: 1, event: 6 })],
    ['state', expect.objectContaining({ roomID: nowhere, state: 0, event: 3 })], // disconnected, roomNotExist
    ['join failed', { code: 6000322 }],
  ]);
});

test.each([
  { mayCreate: true, lobby: 'lobby-1', table: 'table-1' },
  { mayCreate: false, lobby: 'lobby-2', table: 'table-2' },
])('a player moves from a lobby to a table that is not there, mayCreate $mayCreate', async ({ mayCreate, lobby, table }) => {
  const watcher = await Tab.open(browser, site);
  await run(watcher, 'teacher-and-students.js', 'teacher', { appID: 1, server: two.url, userID: 'watcher', token: '', roomID: lobby });
  const player = await Tab.open(browser, site);
  await run(player, 'lobby-switch.js', 'player', { appID: 1, server: one.url, userID: 'pia', token: '', lobby, table, mayCreate });
  await watcher.reported('left');

  const states = (...all: [roomID: string, state: number, event: number][]) =>
    all.map(([roomID, state, event]) => ['state', { roomID, state, event }]);
  expect(player.reports).toEqual(
    mayCreate
      ? [
          ...states([lobby, 1, 6], [lobby, 2, 0], [table, 1, 11], [table, 2, 0], [lobby, 0, 0]),
          ['switched', { roomID: table, roomName: 'Table' }],
          ...states([table, 0, 0]),
          ['left all', { roomIDs: [table] }],
        ]
      : [
          ...states([lobby, 1, 6], [lobby, 2, 0], [table, 1, 11], [table, 0, 12]), // switchFailed
          ['switch failed', { code: 6000322 }],
          ...states([lobby, 0, 0]),
          ['left all', { roomIDs: [lobby] }],
        ],
  );
  expect(watcher.reports.slice(3)).toEqual([
    ['joined', { roomID: lobby, users: ['pia'] }],
    ['left', { roomID: lobby, users: ['pia'] }],
  ]);
});

test('a host changes seats in one batch, and gives levels to members', async () => {
  const roomID = 'live-1';
  const guest = await Tab.open(browser, site);
  await run(guest, 'teacher-and-students.js', 'teacher', { appID: 1, server: two.url, userID: 'guest', token: '', roomID });
  await guest.page.evaluate(() => {
    const w = window as any;
    w.zim.on('roomAttributesUpdated', (_: unknown, { infos }: any) => w.report('attributes', infos));
    w.zim.on('roomAttributesBatchUpdated', (_: unknown, { infos }: any) => w.report('batch', infos));
    w.zim.on('roomMemberAttributesUpdated', (_: unknown, { infos }: any) => w.report('levels', infos));
  });
  const host = await Tab.open(browser, site);
  await host.page.evaluate(
    async ([server, roomID]) => {
      const w = window as any;
      w.zim = w.ZIM.create({ appID: 1, server });
      await w.zim.login('host', { userName: 'Host', token: '' });
      await w.zim.joinRoom(roomID);
    },
    [one.url, roomID] as const,
  );
  await run(host, 'live-seats.js', 'host', { roomID });
  await guest.reported('levels');

  const batch = [
    { action: 0, roomAttributes: { seat2: 'guest' } },
    { action: 1, roomAttributes: { seat1: '' } },
  ];
  const levels = [{ attributesInfo: { userID: 'guest', attributes: { level: '7' } } }];
  expect(host.reports.filter(([step]) => step !== 'batch' && step !== 'levels')).toEqual([
    ['batch done', { roomID }],
    ['attributes now', { topic: 'fractions', seat2: 'guest' }],
    ['set levels', { ok: ['guest'], failed: ['nobody'] }],
  ]);
  await host.reported('levels');
  expect(host.reports).toContainEqual(['batch', { roomID, infos: batch }]);
  expect(host.reports).toContainEqual(['levels', { roomID, infos: levels, operatedInfo: { userID: 'host' } }]);
  expect(guest.reports.slice(3)).toEqual([
    ['joined', { roomID, users: ['host'] }],
    ['attributes', [{ action: 0, roomAttributes: { seat1: 'host', seat2: '' } }]],
    ['batch', batch],
    ['levels', levels],
  ]);
});
