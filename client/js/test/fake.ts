// A gateway that is played by the test: what the SDK sends is looked at, and what it gets is
// said. Time is the test's, too.

import { afterEach, beforeEach, vi } from 'vitest';
import { type ZIMAppConfig, ZIM } from '../src/index.js';

export interface Request {
  id: number | string;
  method: string;
  params: any;
}

/** A FakeSocket is one connection. The newest is the last of Gateway.sockets. */
export class FakeSocket {
  readyState = 0;
  onopen: ((event: any) => void) | null = null;
  onmessage: ((event: any) => void) | null = null;
  onerror: ((event: any) => void) | null = null;
  onclose: ((event: any) => void) | null = null;
  readonly sent: Request[] = [];
  closedByClient = false;

  constructor(
    readonly url: string,
    readonly protocols: string[],
    gateway: Gateway,
  ) {
    gateway.sockets.push(this);
  }

  send(data: string): void {
    this.sent.push(JSON.parse(data));
  }

  close(): void {
    this.closedByClient = true;
    this.readyState = 3;
  }

  // What the test does.

  open(): void {
    this.readyState = 1;
    this.onopen?.({});
  }

  /** closed ends the connection from the gateway's side. */
  closed(code: number, reason = ''): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  raw(data: unknown): void {
    this.onmessage?.({ data });
  }

  event(method: string, params: object): void {
    this.raw(JSON.stringify({ jsonrpc: '2.0', method, params }));
  }

  state(roomID: string, state: string, event: string, more: object = {}): void {
    this.event('roomStateChanged', { roomID, state, event, extendedData: '', ...more });
  }

  /** asked gives the newest request of a method. */
  asked(method: string): Request {
    const found = this.sent.findLast((r) => r.method === method);
    if (!found) {
      throw new Error(`there is no ${method} among ${this.sent.map((r) => r.method)}`);
    }
    return found;
  }

  count(method: string): number {
    return this.sent.filter((r) => r.method === method).length;
  }

  answer(method: string, result: object = {}): void {
    this.raw(JSON.stringify({ jsonrpc: '2.0', id: this.asked(method).id, result }));
  }

  refuse(method: string, code: number, message = 'refused', data?: object): void {
    this.raw(JSON.stringify({ jsonrpc: '2.0', id: this.asked(method).id, error: { code, message, data } }));
  }
}

/** A Gateway makes the sockets of one test. */
export class Gateway {
  readonly sockets: FakeSocket[] = [];
  readonly WebSocket: any;

  constructor() {
    const gateway = this;
    this.WebSocket = class extends FakeSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols, gateway);
      }
    };
  }

  get socket(): FakeSocket {
    const last = this.sockets.at(-1);
    if (!last) {
      throw new Error('there is no connection');
    }
    return last;
  }
}

export type Said = [type: string, data: any];

/** A World is an SDK that is logged in, unless it is asked not to be, as "ana" at a fake gateway. */
export class World {
  readonly gateway = new Gateway();
  readonly said: Said[] = [];
  readonly zim: ZIM;

  constructor(config: Partial<ZIMAppConfig> = {}) {
    this.zim = ZIM.create({ appID: 1, server: 'ws://one', WebSocket: this.gateway.WebSocket, ...config }) as ZIM;
    for (const type of eventTypes) {
      this.zim.on(type, (_: ZIM, data: unknown) => this.said.push([type, data]));
    }
  }

  static async loggedIn(config: Partial<ZIMAppConfig> = {}): Promise<World> {
    const world = new World(config);
    const login = world.zim.login('ana', { userName: 'Ana', token: 'secret-token' } as never);
    world.acceptLogin();
    await login;
    world.said.length = 0;
    return world;
  }

  get socket(): FakeSocket {
    return this.gateway.socket;
  }

  /** acceptLogin opens the newest connection and answers its login. */
  acceptLogin(result: object = {}): void {
    this.socket.open();
    this.socket.answer('login', {
      sessionID: 'S1',
      userID: 'ana',
      resumed: false,
      node: 'n',
      serverTime: 1,
      heartbeatIntervalMs: 10_000,
      sessionTTLMs: 35_000,
      ...result,
    });
  }

  /** entered brings the client into a room, without a word of it in said. */
  async entered(roomID: string, attributes?: Record<string, string>, seq = 10): Promise<void> {
    const before = this.said.length;
    const entering = this.zim.enterRoom({ roomID, roomName: roomID });
    this.socket.state(roomID, 'connecting', 'activeEnter');
    if (attributes) {
      this.attributes(roomID, attributes, seq);
    }
    this.socket.state(roomID, 'connected', 'success', { epoch: 7, seq });
    this.socket.answer('enterRoom', room(roomID, seq));
    await entering;
    this.said.length = before;
  }

  attributes(roomID: string, set: Record<string, string>, seq: number): void {
    const infos = [{ action: 'set', roomAttributes: set }];
    this.socket.event('roomAttributesUpdated', { roomID, infos, operatedInfo: { userID: 'bob' }, seq });
  }

  joined(roomID: string, users: string[], seq: number, memberCount = 3): void {
    this.socket.event('roomMemberJoined', { roomID, memberList: users.map(user), memberCount, seq });
  }

  left(roomID: string, users: string[], seq: number, memberCount = 3): void {
    this.socket.event('roomMemberLeft', { roomID, memberList: users.map(user), memberCount, seq });
  }

  message(roomID: string, text: string, seq: number, more: object = {}): void {
    this.socket.event('roomMessageReceived', {
      fromConversationID: roomID,
      messageList: [wireMessage({ message: text, conversationID: roomID })],
      info: { isOfflineMessage: false },
      seq,
      ...more,
    });
  }

  /** cut breaks the link without a code. */
  cut(): void {
    this.socket.closed(1006);
  }

  /** back lets the backoff pass and resumes the session. */
  async back(resumed = true): Promise<void> {
    await vi.advanceTimersByTimeAsync(8_000);
    this.acceptLogin(resumed ? { resumed: true } : { sessionID: 'S2' });
  }

  /** told gives what was said, in short: the states as (state, event), users and texts by themselves. */
  told(): string[] {
    return this.said.filter(([type]) => type !== 'receiveRoomMessage').map(([type, d]) => short(type, d));
  }
}

const eventTypes = [
  'error',
  'tokenWillExpire',
  'connectionStateChanged',
  'receiveRoomMessage',
  'roomMessageReceived',
  'roomStateChanged',
  'roomMemberJoined',
  'roomMemberLeft',
  'roomAttributesUpdated',
  'roomAttributesBatchUpdated',
  'roomMemberAttributesUpdated',
  'roomHistoryLost',
  'roomModeChanged',
] as const;

function short(type: string, d: any): string {
  const infos = () => d.infos.map((i: any) => `${i.action === 0 ? 'set' : 'delete'} ${JSON.stringify(i.roomAttributes)}`).join(' ');
  switch (type) {
    case 'connectionStateChanged':
      return `connection (${d.state}, ${d.event})`;
    case 'roomStateChanged':
      return `${d.roomID} (${d.state}, ${d.event})`;
    case 'roomMemberJoined':
      return `${d.roomID} joined ${d.memberList.map((u: any) => u.userID)}`;
    case 'roomMemberLeft':
      return `${d.roomID} left ${d.memberList.map((u: any) => u.userID)}`;
    case 'roomMessageReceived':
      return `${d.fromConversationID} message ${d.messageList.map((m: any) => m.message)}`;
    case 'roomAttributesUpdated':
      return `${d.roomID} attributes ${infos()}`;
    case 'roomAttributesBatchUpdated':
      return `${d.roomID} batch ${infos()}`;
    case 'roomHistoryLost':
      return `${d.roomID} lost ${d.fromSeq}–${d.toSeq}`;
    case 'roomModeChanged':
      return `${d.roomID} ${d.mode}`;
    case 'error':
      return `error ${d.code}`;
  }
  return type;
}

export function user(userID: string) {
  return { userID, userName: userID, userAvatarUrl: '', userExtendedData: '' };
}

export function room(roomID: string, seq: number, created = false) {
  return { roomInfo: { baseInfo: { roomID, roomName: roomID } }, created, epoch: 7, seq, memberCount: 3 };
}

export function wireMessage(more: object = {}) {
  return {
    type: 1,
    message: 'hello',
    subType: 0,
    extendedData: '',
    priority: 1,
    senderUserID: 'bob',
    conversationID: 'r',
    conversationType: 1,
    messageID: '8781067554405678585',
    messageSeq: 1,
    orderKey: 1795320737331827,
    timestamp: 1795320737331,
    ...more,
  };
}

/** settle lets promises that are settled call back. */
export async function settle(): Promise<void> {
  await vi.advanceTimersByTimeAsync(0);
}

/** failure gives what a promise is rejected with. */
export async function failure(of: Promise<unknown>): Promise<{ code: number; message: string }> {
  try {
    await of;
  } catch (err) {
    return err as { code: number; message: string };
  }
  throw new Error('it was not rejected');
}

/** timed has every test of a file begin with time and chance of its own, and end with no instance left. */
export function timed(): void {
  const { setImmediate } = globalThis;
  beforeEach(() => {
    vi.useFakeTimers();
    Object.assign(globalThis, { setImmediate: undefined }); // as in browsers
    vi.spyOn(Math, 'random').mockReturnValue(0.5);
  });
  afterEach(async () => {
    ZIM.getInstance()?.destroy();
    await vi.advanceTimersByTimeAsync(60_000);
    vi.useRealTimers();
    Object.assign(globalThis, { setImmediate });
    vi.restoreAllMocks();
  });
}
