// Every operation of a client, with its parameters, as forms need them.

import type { ZIM } from '../../../client/js/src/index.js';

export interface Field {
  name: string;
  label: string;
  /** line, lines of "key = value", names separated by commas, a number, yes or no, one of some. */
  kind: 'text' | 'pairs' | 'names' | 'number' | 'flag' | 'choice';
  /** What it begins with. */
  value?: string | boolean;
  /** For a choice: value and what it is called. */
  choices?: readonly (readonly [string, string])[];
  hint?: string;
}

/** What a person put into the fields. */
export class Values {
  constructor(readonly given: Record<string, string | boolean>) {}

  text(name: string): string {
    return String(this.given[name] ?? '');
  }

  /** A number, as it was written: whether it is allowed the gateway says. */
  number(name: string): number {
    return Number(this.text(name));
  }

  flag(name: string): boolean {
    return this.given[name] === true;
  }

  names(name: string): string[] {
    return this.text(name).split(',').map((part) => part.trim()).filter(Boolean);
  }

  pairs(name: string): Record<string, string> {
    const made: Record<string, string> = {};
    for (const line of this.text(name).split('\n').filter((l) => l.trim())) {
      const [key, ...value] = line.split('=');
      made[key?.trim() ?? ''] = value.join('=').trim();
    }
    return made;
  }
}

export interface Operation {
  name: string;
  fields: readonly Field[];
  run(zim: ZIM, v: Values): unknown;
}

/** The field that means the room that is shown, and follows it. */
export const roomField = 'roomID';

const room: Field = { name: roomField, label: 'Room ID', kind: 'text', value: 'lobby' };
const roomName: Field = { name: 'roomName', label: 'Room name', kind: 'text', value: '' };
const delay: Field = { name: 'delay', label: 'Destroy delay, s', kind: 'number', value: '60', hint: '0 to 10800, from when the last member goes' };
const attributes: Field = { name: 'attributes', label: 'Attributes', kind: 'pairs', value: '', hint: 'key = value, one a line' };
const page: readonly Field[] = [
  { name: 'count', label: 'Count', kind: 'number', value: '100' },
  { name: 'nextFlag', label: 'Next flag', kind: 'text', value: '', hint: 'as the page before had it' },
];
const force: Field = { name: 'isForce', label: 'Force: also what belongs to others', kind: 'flag' };
const take: Field = { name: 'isUpdateOwner', label: 'Update the owner: mine from now on', kind: 'flag' };
const leaves: Field = { name: 'isDeleteAfterOwnerLeft', label: 'Delete when the owner leaves', kind: 'flag' };
const users: Field = { name: 'users', label: 'User IDs', kind: 'names', value: 'ana, bob' };

const advanced = (v: Values) => ({ roomAttributes: v.pairs('attributes'), roomDestroyDelayTime: v.number('delay') });
const info = (v: Values) => ({ roomID: v.text(roomField), roomName: v.text('roomName') });
const owned = (v: Values) => ({
  isForce: v.flag('isForce'), isUpdateOwner: v.flag('isUpdateOwner'), isDeleteAfterOwnerLeft: v.flag('isDeleteAfterOwnerLeft'),
});
const paged = (v: Values) => ({ count: v.number('count'), nextFlag: v.text('nextFlag') });

export const operations: readonly Operation[] = [
  {
    name: 'enterRoom', fields: [room, roomName, delay, attributes],
    run: (zim, v) => zim.enterRoom(info(v), advanced(v)),
  },
  {
    name: 'createRoom', fields: [room, roomName, delay, attributes],
    run: (zim, v) => zim.createRoom(info(v), advanced(v)),
  },
  { name: 'joinRoom', fields: [room], run: (zim, v) => zim.joinRoom(v.text(roomField)) },
  {
    name: 'switchRoom', fields: [
      { ...room, label: 'From room ID' }, { name: 'to', label: 'To room ID', kind: 'text', value: 'stage' }, roomName,
      { name: 'create', label: 'Create it if there is none', kind: 'flag', value: true }, delay, attributes,
    ],
    run: (zim, v) => zim.switchRoom(v.text(roomField), { roomID: v.text('to'), roomName: v.text('roomName') }, v.flag('create'), advanced(v)),
  },
  { name: 'leaveRoom', fields: [room], run: (zim, v) => zim.leaveRoom(v.text(roomField)) },
  { name: 'leaveAllRoom', fields: [], run: (zim) => zim.leaveAllRoom() },
  {
    name: 'sendRoomMessage', fields: [
      room,
      { name: 'type', label: 'Type', kind: 'choice', value: '1', choices: [['1', 'text'], ['2', 'command'], ['20', 'barrage'], ['200', 'custom']] },
      { name: 'message', label: 'Message', kind: 'text', value: 'hello' },
      { name: 'priority', label: 'Priority', kind: 'choice', value: '1', choices: [['1', 'low'], ['2', 'medium'], ['3', 'high']] },
      { name: 'subType', label: 'Subtype (custom)', kind: 'number', value: '0' },
      { name: 'extendedData', label: 'Extended data', kind: 'text', value: '' },
    ],
    run: (zim, v) => {
      const type = v.number('type');
      const message = type === 2 ? new TextEncoder().encode(v.text('message')) : v.text('message');
      const extendedData = v.text('extendedData');
      return zim.sendRoomMessage({
        type, message, ...(type === 200 ? { subType: v.number('subType') } : {}), ...(extendedData ? { extendedData } : {}),
      } as Parameters<ZIM['sendRoomMessage']>[0], v.text(roomField), { priority: v.number('priority') });
    },
  },
  { name: 'queryRoomMemberList', fields: [room, ...page], run: (zim, v) => zim.queryRoomMemberList(v.text(roomField), paged(v)) },
  { name: 'queryRoomMembers', fields: [room, users], run: (zim, v) => zim.queryRoomMembers(v.names('users'), v.text(roomField)) },
  { name: 'queryRoomOnlineMemberCount', fields: [room], run: (zim, v) => zim.queryRoomOnlineMemberCount(v.text(roomField)) },
  {
    name: 'setRoomAttributes', fields: [room, { ...attributes, value: 'topic = news' }, force, take, leaves],
    run: (zim, v) => zim.setRoomAttributes(v.pairs('attributes'), v.text(roomField), owned(v)),
  },
  {
    name: 'deleteRoomAttributes', fields: [room, { name: 'keys', label: 'Keys', kind: 'names', value: 'topic' }, force],
    run: (zim, v) => zim.deleteRoomAttributes(v.names('keys'), v.text(roomField), { isForce: v.flag('isForce') }),
  },
  {
    name: 'beginRoomAttributesBatchOperation', fields: [room, force, take, leaves],
    run: (zim, v) => zim.beginRoomAttributesBatchOperation(v.text(roomField), owned(v)),
  },
  { name: 'endRoomAttributesBatchOperation', fields: [room], run: (zim, v) => zim.endRoomAttributesBatchOperation(v.text(roomField)) },
  { name: 'queryRoomAllAttributes', fields: [room], run: (zim, v) => zim.queryRoomAllAttributes(v.text(roomField)) },
  {
    name: 'setRoomMembersAttributes', fields: [
      room, users, { ...attributes, value: 'role = host' }, { ...leaves, value: true },
    ],
    run: (zim, v) => zim.setRoomMembersAttributes(v.pairs('attributes'), v.names('users'), v.text(roomField), {
      isDeleteAfterOwnerLeft: v.flag('isDeleteAfterOwnerLeft'),
    }),
  },
  { name: 'queryRoomMembersAttributes', fields: [room, users], run: (zim, v) => zim.queryRoomMembersAttributes(v.names('users'), v.text(roomField)) },
  { name: 'queryRoomMemberAttributesList', fields: [room, ...page], run: (zim, v) => zim.queryRoomMemberAttributesList(v.text(roomField), paged(v)) },
  { name: 'renewToken', fields: [{ name: 'token', label: 'Token', kind: 'text', value: 'any token will do' }], run: (zim, v) => zim.renewToken(v.text('token')) },
];
