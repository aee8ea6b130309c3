import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import type { ZIM } from '../src/index.js';
import { failure, settle, timed, World } from './fake.js';

// The golden messages of the wire, to which every client is held.

timed();

const folder = join(import.meta.dirname, '../../../protocol/testdata');
const files = readdirSync(folder).filter((name) => name.endsWith('.json'));
const golden = (name: string) => JSON.parse(readFileSync(join(folder, name), 'utf8'));
const named = (prefix: string) => files.filter((name) => name.startsWith(prefix)).map((name) => [name.slice(prefix.length, -5), name] as const);

/** calls make each request, from the params it has on the wire. */
const calls: Record<string, (zim: ZIM, p: any) => Promise<unknown>> = {
  renewToken: (zim, p) => zim.renewToken(p.token),
  createRoom: (zim, p) => zim.createRoom(p.roomInfo, p.config),
  enterRoom: (zim, p) => zim.enterRoom(p.roomInfo, p.config),
  joinRoom: (zim, p) => zim.joinRoom(p.roomID),
  switchRoom: (zim, p) => zim.switchRoom(p.fromRoomID, p.toRoomInfo, p.isCreateWhenRoomNotExisted, p.config),
  leaveRoom: (zim, p) => zim.leaveRoom(p.roomID),
  leaveAllRoom: (zim) => zim.leaveAllRoom(),
  sendRoomMessage: (zim, p) => {
    const command = p.message.type === 2;
    const message = command ? { ...p.message, message: Uint8Array.from(Buffer.from(p.message.message, 'base64')) } : p.message;
    return zim.sendMessage(message, p.roomID, 1, p.config);
  },
  queryRoomMemberList: (zim, p) => zim.queryRoomMemberList(p.roomID, p.config),
  queryRoomMembers: (zim, p) => zim.queryRoomMembers(p.userIDs, p.roomID),
  queryRoomOnlineMemberCount: (zim, p) => zim.queryRoomOnlineMemberCount(p.roomID),
  queryRoomHistory: (zim, p) => zim.queryRoomHistory(p.roomID, p.config),
  setRoomAttributes: (zim, p) => zim.setRoomAttributes(p.roomAttributes, p.roomID, p.config),
  deleteRoomAttributes: (zim, p) => zim.deleteRoomAttributes(p.keys, p.roomID, p.config),
  batchRoomAttributes: (zim, p) => {
    zim.beginRoomAttributesBatchOperation(p.roomID, p.config);
    for (const o of p.operations) {
      void (o.action === 'set' ? zim.setRoomAttributes(o.roomAttributes, p.roomID, {}) : zim.deleteRoomAttributes(o.keys, p.roomID, {}));
    }
    return zim.endRoomAttributesBatchOperation(p.roomID);
  },
  queryRoomAllAttributes: (zim, p) => zim.queryRoomAllAttributes(p.roomID),
  setRoomMembersAttributes: (zim, p) => zim.setRoomMembersAttributes(p.attributes, p.userIDs, p.roomID, p.config),
  queryRoomMembersAttributes: (zim, p) => zim.queryRoomMembersAttributes(p.userIDs, p.roomID),
  queryRoomMemberAttributesList: (zim, p) => zim.queryRoomMemberAttributesList(p.roomID, p.config),
};

const byLink = ['login', 'logout', 'ping']; // they are no calls: other tests have them
const method = (name: string) => name.split('_')[0] as string;

test.each(named('request_').filter(([name]) => !byLink.includes(method(name))))('the request %s', async (name, file) => {
  const world = await World.loggedIn();
  const { params = {} } = golden(file);
  calls[method(name)]?.(world.zim, params).catch(() => {});
  const { requestKey, ...sent } = world.socket.asked(method(name)).params;
  const { requestKey: _, ...want } = params;
  if (name === 'deleteRoomAttributes') {
    want.config = { isForce: want.config.isForce }; // there is no other in ZIM
  }
  expect(sent).toEqual(want);
  expect(requestKey === undefined).toBe(method(name).startsWith('query') || name === 'renewToken');
});

test.each(named('result_').filter(([name]) => !byLink.includes(method(name))))('the result %s', async (name, file) => {
  const world = await World.loggedIn();
  const { params = {} } = golden(`request_${method(name)}.json`);
  const { result } = golden(file);
  const call = calls[method(name)]?.(world.zim, params);
  world.socket.answer(method(name), result);
  const got: any = await call;
  switch (name) {
    case 'renewToken':
      expect(got).toEqual({ token: params.token });
      break;
    case 'sendRoomMessage':
      expect(got.message).toMatchObject(result.message);
      break;
    case 'queryRoomHistory':
      expect(got.messageList).toMatchObject(result.messageList);
      break;
    default:
      expect(got).toEqual(result);
  }
});

test.each(named('error_'))('the error %s', async (_, file) => {
  const world = await World.loggedIn({ requestTimeout: 500 });
  const message = golden(file);
  const call = failure(world.zim.joinRoom('R'));
  const { id } = world.socket.asked('joinRoom');
  world.socket.raw(JSON.stringify({ ...message, id: message.id === null ? null : id }));
  await vi.advanceTimersByTimeAsync(500);
  const err = await call;
  expect(world.said).toEqual([]);
  if (message.id !== null) {
    expect(err.code).toBe(message.error.code);
    expect(err.message).toContain(message.error.message);
  }
});

test.each(named('event_'))('the event %s', async (name, file) => {
  const world = await World.loggedIn();
  const params = golden(file).params;
  if (method(name) !== 'roomStateChanged' || params.state === 'disconnected') {
    await world.entered(params.roomID ?? 'R', undefined, 0);
  }
  world.socket.raw(readFileSync(join(folder, file), 'utf8'));
  if (method(name) === 'roomMemberLeft') {
    world.socket.state('R', 'disconnected', 'success'); // it may be the first half of a difference
  }
  await settle();
  expect(world.said.filter(([type]) => type === 'error')).toEqual([]);
  expect(world.said.length > 0 || method(name) === 'serverDraining').toBe(true);
});
