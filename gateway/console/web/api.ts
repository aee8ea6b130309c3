// The server API, as docs/openapi.yaml has it.

import { sync } from './clock';

export interface Gateway {
  node: string;
  leaseLeftMs: number;
  name?: string;
  version?: string;
  since?: number;
  draining?: boolean;
  connections?: number;
  sessions?: number;
  rooms?: number;
  messagesPerSecond?: number;
  deliveriesPerSecond?: number;
}

export interface Cluster {
  gateways: Gateway[];
  roomCount: number;
  serverTime: number;
}

export interface Room {
  roomID: string;
  roomName: string;
  memberCount: number;
  roomDestroyDelayTime: number;
  createdAt: number;
  epoch: number;
  seq: number;
  deadline?: number;
}

export interface RoomPage {
  roomList: Room[];
  nextFlag: string;
  roomCount: number;
  serverTime: number;
}

export interface RoomDetail extends Room {
  roomAttributes: Record<string, string>;
  serverTime: number;
}

export interface User {
  userID: string;
  userName: string;
}

export interface Member extends User {
  state: 'connected' | 'away';
  joinedAt?: number;
  node?: string;
  deadline?: number;
}

export interface MemberPage {
  memberList: Member[];
  nextFlag: string;
  memberCount: number;
  epoch: number;
  seq: number;
  serverTime: number;
}

export interface Message {
  senderUserID: string;
  type: number;
  message: string;
  priority?: number;
}

/** An error of the API, or of the way to it (status 0). */
export class Failure extends Error {
  constructor(readonly status: number, readonly code: number, message: string) {
    super(message);
  }
}

/** What went wrong, as a sentence for a person. */
export function reason(err: unknown): string {
  return err instanceof Error ? err.message : String(err);
}

/** One part of a path. */
function segment(id: string): string {
  // To a URL of a browser these mean another place, however they are escaped.
  if (id === '.' || id === '..') throw new Failure(0, 0, `a browser cannot name the room "${id}" in a URL: use curl --path-as-is`);
  return encodeURIComponent(id);
}

/** How long one request may take, in ms; that to Redis takes two seconds at most. */
const patience = 10_000;

/** The API with one key. The key is nowhere but in this object and in the header of requests. */
export class API {
  readonly #key: string;

  constructor(key: string) {
    this.#key = key;
  }

  cluster(): Promise<Cluster> {
    return this.#call('GET', '/v1/cluster');
  }

  rooms(search: string, nextFlag: string, count: number): Promise<RoomPage> {
    return this.#call('GET', `/v1/rooms?${new URLSearchParams({ count: String(count), nextFlag, search })}`);
  }

  room(roomID: string): Promise<RoomDetail> {
    return this.#call('GET', `/v1/rooms/${segment(roomID)}`);
  }

  members(roomID: string, nextFlag: string, count: number): Promise<MemberPage> {
    return this.#call('GET', `/v1/rooms/${segment(roomID)}/members?${new URLSearchParams({ count: String(count), nextFlag })}`);
  }

  destroy(roomID: string): Promise<unknown> {
    return this.#call('DELETE', `/v1/rooms/${segment(roomID)}`);
  }

  kick(roomID: string, userID: string, why: string): Promise<unknown> {
    return this.#call('POST', `/v1/rooms/${segment(roomID)}/kick`, { userID, reason: why });
  }

  send(roomID: string, message: Message): Promise<{ messageID: string; seq?: number }> {
    return this.#call('POST', `/v1/rooms/${segment(roomID)}/messages`, message);
  }

  /**
   * Opens the event stream of a room, from the event with this seq on or, with 0, from now on.
   * epoch is the life that the seq is of, 0 the one that the room is in.
   * It goes on until it ends or the signal ends it.
   */
  async events(roomID: string, from: number, epoch: number, signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
    const query = from === 0 ? '' : epoch === 0 ? `?from=${from}` : `?from=${from}&epoch=${epoch}`;
    const answer = await this.#fetch('GET', `/v1/rooms/${segment(roomID)}/events${query}`, undefined, signal);
    if (!answer.body) throw new Failure(answer.status, 0, 'the stream of events has no body');
    return answer.body;
  }

  async #call<T>(method: string, path: string, body?: unknown): Promise<T> {
    const answer = await this.#fetch(method, path, body, AbortSignal.timeout(patience));
    const value = await answer.json() as T & { serverTime?: number };
    if (value.serverTime !== undefined) sync(value.serverTime);
    return value;
  }

  async #fetch(method: string, path: string, body: unknown, signal: AbortSignal): Promise<Response> {
    let answer: Response;
    try {
      answer = await fetch(path, {
        method, signal, cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer',
        headers: { Authorization: `Bearer ${this.#key}`, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    } catch (err) {
      if (signal.aborted && signal.reason instanceof DOMException && signal.reason.name === 'TimeoutError') {
        throw new Failure(0, 0, `the gateway did not answer within ${patience / 1000} s`);
      }
      throw new Failure(0, 0, `the gateway cannot be reached: ${reason(err)}`);
    }
    if (answer.ok) return answer;
    let code = 0;
    let message = `the gateway answered ${answer.status}`;
    try {
      const refusal = await answer.json() as { error: { code: number; message: string } };
      ({ code, message } = refusal.error);
    } catch {
      // Not an answer of the API's: a proxy's, perhaps. Its status says enough.
    }
    throw new Failure(answer.status, code, message);
  }
}
