// What travels: JSON-RPC 2.0 in text frames. The functions that read it check what
// they return, so that the rest need not: what a gateway should never send ends here.

import { decodeBase64 } from './base64.js';
import {
  fromWire,
  ZIMConnectionEvent,
  ZIMConnectionState,
  ZIMConversationType,
  ZIMMessageDirection,
  ZIMMessageSentStatus,
  ZIMMessageType,
  ZIMRoomAttributesUpdateAction,
  ZIMRoomEvent,
  ZIMRoomState,
} from './enums.js';
import { Failure, ZIMErrorCode } from './errors.js';
import type {
  ZIMCommandMessage,
  ZIMMessage,
  ZIMRoomAttributesUpdateInfo,
  ZIMRoomMemberAttributesInfo,
  ZIMUserInfo,
} from './types.js';

export const path = '/v1/ws';
export const subprotocol = 'roomgate.v1';

/** maxMessage is the largest message a gateway takes, in bytes; it closes with 1009 beyond. */
export const maxMessage = 65_536;

/** maxRead is the longest text that is read. A page of members can be long, but not that long. */
export const maxRead = 16 * 1024 * 1024;

/** Close codes, those that are told apart here. */
export const close = { normal: 1000, tooBig: 1009, notAuthorised: 4503, kickedByLogin: 4509, takenOver: 4510 };

/** comesBack says whether a client should connect again after a close code. */
export function comesBack(code: number): boolean {
  return code !== close.normal && code !== close.tooBig && code < 4500;
}

/** reconnectAfter is how long the reason of a close frame asks to stay away, if it does. */
export function reconnectAfter(reason: string): number | undefined {
  try {
    return wait((JSON.parse(reason) as { reconnectAfterMs?: unknown }).reconnectAfterMs);
  } catch {
    return undefined;
  }
}

/** wait is a number of milliseconds that a gateway names, a day at most: timers take no more. */
export function wait(ms: unknown): number | undefined {
  return typeof ms === 'number' && ms >= 0 ? Math.min(ms, 86_400_000) : undefined;
}

// One table would tell whether a method changes something; it begins with "query" if not.
const unkeyed = new Set(['login', 'logout', 'ping', 'renewToken']);

/** keyed says whether a method changes something, so that it goes under a requestKey. */
export function keyed(method: string): boolean {
  return !unkeyed.has(method) && !method.startsWith('query');
}

/** encodeRequest throws what JSON.stringify throws, and a Failure for a number that JSON would write as null. */
export function encodeRequest(id: number | string, method: string, params: object): string {
  return JSON.stringify({ jsonrpc: '2.0', id, method, params }, (name, value: unknown) => {
    if (typeof value === 'number' && !Number.isFinite(value)) {
      throw new Failure(ZIMErrorCode.CommonModuleParamsInvalid, `${name} is ${value}, it has to be a finite number`);
    }
    return value;
  });
}

/** A Malformed text or event is skipped. Its message never has any of the text in it. */
export class Malformed extends Error {}

export type Fields = Record<string, unknown>;

export type Frame =
  | { kind: 'event'; method: string; params: Fields }
  | { kind: 'result'; id: number | string | null; result: Fields }
  | { kind: 'error'; id: number | string | null; error: Failure };

export function decodeFrame(text: unknown): Frame {
  if (typeof text !== 'string') {
    throw new Malformed('a frame is not text');
  }
  if (text.length > maxRead) {
    throw new Malformed(`a frame has ${text.length} characters, the limit is ${maxRead}`);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw new Malformed('a frame is not JSON');
  }
  const m = object(parsed, 'a frame');
  if (typeof m['method'] === 'string') {
    return { kind: 'event', method: m['method'], params: object(m['params'] ?? {}, `the params of ${m['method']}`) };
  }
  const id = m['id'];
  if (typeof id !== 'number' && typeof id !== 'string' && id !== null) {
    throw new Malformed('a frame is neither an answer nor an event');
  }
  if (m['error'] !== undefined && m['error'] !== null) {
    return { kind: 'error', id, error: decodeError(m['error']) };
  }
  return { kind: 'result', id, result: object(m['result'], 'a result') };
}

function decodeError(v: unknown): Failure {
  const e = object(v, 'an error');
  const data = e['data'] as Fields | null | undefined;
  const code = e['code'];
  if (typeof code !== 'number') {
    throw new Malformed('an error has no code');
  }
  // A parameter of the wrong JSON type is a bad parameter to a JavaScript application.
  const given = code === -32602 ? ZIMErrorCode.CommonModuleParamsInvalid : code;
  return new Failure(given, String(e['message'] ?? ''), data?.['retryable'] === true);
}

// Parts of events and results.

export function object(v: unknown, what: string): Fields {
  if (typeof v !== 'object' || v === null || Array.isArray(v)) {
    throw new Malformed(`${what} is no object`);
  }
  return v as Fields;
}

export function text(of: Fields, name: string): string {
  const v = of[name];
  if (typeof v !== 'string') {
    throw new Malformed(`${name} is no text`);
  }
  return v;
}

/** whole is 0 for a number that is not there. */
export function whole(of: Fields, name: string): number {
  const v = of[name] ?? 0;
  if (!Number.isSafeInteger(v)) {
    throw new Malformed(`${name} is no whole number`);
  }
  return v as number;
}

export function list(of: Fields, name: string): Fields[] {
  const v = of[name];
  if (!Array.isArray(v)) {
    throw new Malformed(`${name} is no list`);
  }
  return v.map((x) => object(x, `an entry of ${name}`));
}

function optionalText(of: Fields, name: string): string {
  return typeof of[name] === 'string' ? of[name] : '';
}

export function users(of: Fields, name: string): ZIMUserInfo[] {
  return list(of, name).map((u) => ({
    userID: text(u, 'userID'),
    userName: optionalText(u, 'userName'),
    userAvatarUrl: optionalText(u, 'userAvatarUrl'),
    userExtendedData: optionalText(u, 'userExtendedData'),
  }));
}

export function attributes(of: Fields, name: string): Record<string, string> {
  const v = object(of[name], name);
  for (const key of Object.keys(v)) {
    text(v, key);
  }
  return v as Record<string, string>;
}

/** States that are not known have no meaning; a new event of a known state has that of the state. */
export function roomState(of: Fields): { state: ZIMRoomState; event: ZIMRoomEvent } {
  const state = fromWire<ZIMRoomState>(ZIMRoomState, text(of, 'state'));
  if (state === undefined) {
    throw new Malformed('the state of a room is none of those known');
  }
  const usual = {
    [ZIMRoomState.Disconnected]: ZIMRoomEvent.NetworkDisconnected,
    [ZIMRoomState.Connecting]: ZIMRoomEvent.NetworkInterrupted,
    [ZIMRoomState.Connected]: ZIMRoomEvent.Success,
  };
  return { state, event: fromWire<ZIMRoomEvent>(ZIMRoomEvent, text(of, 'event')) ?? usual[state] };
}

export function connectionState(of: Fields): { state: ZIMConnectionState; event: ZIMConnectionEvent } {
  const state = fromWire<ZIMConnectionState>(ZIMConnectionState, text(of, 'state'));
  if (state === undefined) {
    throw new Malformed('the state of the connection is none of those known');
  }
  const event = fromWire<ZIMConnectionEvent>(ZIMConnectionEvent, text(of, 'event'));
  return { state, event: event ?? ZIMConnectionEvent.LoginInterrupted };
}

export function attributeInfos(of: Fields): ZIMRoomAttributesUpdateInfo[] {
  return list(of, 'infos').map((i) => {
    const action = fromWire<ZIMRoomAttributesUpdateAction>(ZIMRoomAttributesUpdateAction, text(i, 'action'));
    if (action === undefined) {
      throw new Malformed('an action on attributes is none of those known');
    }
    return { action, roomAttributes: attributes(i, 'roomAttributes') };
  });
}

export function memberAttributes(of: Fields): ZIMRoomMemberAttributesInfo {
  return { userID: text(of, 'userID'), attributes: attributes(of, 'attributes') };
}

export function message(of: Fields, self: string): ZIMMessage {
  const senderUserID = text(of, 'senderUserID');
  const m: ZIMMessage & { message: unknown; subType: number; priority: number } = {
    type: whole(of, 'type'),
    message: text(of, 'message'),
    subType: whole(of, 'subType'),
    extendedData: optionalText(of, 'extendedData'),
    priority: whole(of, 'priority'),
    messageID: text(of, 'messageID'),
    messageSeq: whole(of, 'messageSeq'),
    orderKey: whole(of, 'orderKey'),
    timestamp: whole(of, 'timestamp'),
    senderUserID,
    conversationID: text(of, 'conversationID'),
    conversationType: ZIMConversationType.Room,
    direction: senderUserID === self ? ZIMMessageDirection.Send : ZIMMessageDirection.Receive,
    sentStatus: ZIMMessageSentStatus.Success,
  };
  if (m.type === ZIMMessageType.Command) {
    try {
      (m as ZIMCommandMessage).message = decodeBase64(text(of, 'message'));
    } catch {
      throw new Malformed('a command message is not base64');
    }
  }
  return m;
}
