// Requests on their way to their answers. Those that are under way when the link is
// lost are repeated on the next: queries always, and what changes something under its
// requestKey, so that it happens once.

import { jitter } from './backoff.js';
import { Failure, ZIMErrorCode } from './errors.js';
import { encodeRequest, type Fields, keyed, maxMessage } from './wire.js';

// Bounds of what one connection may have unanswered; the gateway refuses more. What is
// beyond them waits here, and this too has a bound.
export const maxUnansweredChanges = 32;
export const maxUnanswered = 200;
export const maxUnansweredBytes = 512 * 1024;
export const maxPending = 1_000;
export const maxPendingBytes = 4 * 1024 * 1024;

// What the gateway could not carry out is sent again after a random wait: up to
// asideFirst at first, growing to asideMost while there are only such answers. That is
// soon enough for a gateway to see that an entry is still wanted.
const asideFirst = 100;
const asideMost = 500;

/**
 * Done is told what a request came to: by the gateway's Failure, by one that says why there is
 * no answer, or by the result. That happens before anything else that was received is looked
 * at, which the callbacks of a promise do not promise.
 */
export type Done = (err: Failure | undefined, result: Fields) => void;

/** A Call is a request on its way. */
export interface Call {
  readonly id: number;
  readonly method: string;
  readonly params: object;
  readonly frame: string;
  readonly bytes: number;
  readonly keyed: boolean;
  readonly changes: boolean; // counts among those that change something: a logout does, without a key
  readonly done: Done;
  timer: ReturnType<typeof setTimeout> | undefined;
  onLink: boolean; // written to the link that there is now
  writes: number;
  aside: boolean; // answered that it may be sent again, and waits for that
  refused: Failure | undefined; // the last such answer
  abandoned: boolean; // nobody waits any more
}

export interface CallsConfig {
  timeout: number;
  write(frame: string): void;
  /** A call ends without an answer, or with one that may be repeated: what it did is not known. */
  unknown(call: Call): void;
}

const utf8 = new TextEncoder();

export class Calls {
  private readonly pending = new Map<number, Call>();
  private pendingBytes = 0;
  private queue: Call[] = []; // to be written, in this order
  private online = false;
  private held = false; // nothing more is written to this link
  private unanswered = 0;
  private unansweredChanges = 0;
  private unansweredBytes = 0;
  private lastID = 0; // over all sessions; also the requestKey

  private againTimer: ReturnType<typeof setTimeout> | undefined;
  private refusals = 0; // in a row, of the kind that sets calls aside

  constructor(private readonly cfg: CallsConfig) {}

  nextID(): number {
    return ++this.lastID;
  }

  /** send sends a request, or leaves it to wait for a link. What cannot be sent is refused at once. */
  send(method: string, params: object, done: Done): void {
    const id = this.nextID();
    const key = keyed(method);
    let frame: string;
    try {
      frame = encodeRequest(id, method, key ? { ...params, requestKey: id } : params);
    } catch (err) {
      done(encodingFailure(method, err), {});
      return;
    }
    const bytes = utf8.encode(frame).length;
    const refusal = this.refusal(method, bytes);
    if (refusal) {
      done(refusal, {});
      return;
    }
    const call: Call = {
      id,
      method,
      params,
      frame,
      bytes,
      keyed: key,
      changes: key || method === 'logout',
      done,
      timer: setTimeout(() => this.timedOut(call), this.cfg.timeout),
      onLink: false,
      writes: 0,
      aside: false,
      refused: undefined,
      abandoned: false,
    };
    this.pending.set(id, call);
    this.pendingBytes += bytes;
    this.queue.push(call);
    this.pump();
  }

  /** entry finds the request under way that enters a room. */
  entry(roomID: string): Call | undefined {
    for (const call of this.pending.values()) {
      if (enters(call) === roomID) {
        return call;
      }
    }
    return undefined;
  }

  /** hold has nothing more be written until there is another link. */
  hold(): void {
    this.held = true;
  }

  /** isIdle says that the link owes no answer. */
  get isIdle(): boolean {
    return this.unanswered === 0;
  }

  /** linked sends what is pending over a new link, in the order in which it was asked for. */
  linked(resumed: boolean): void {
    this.online = true;
    this.queue = [];
    for (const call of [...this.pending.values()]) {
      if (call.keyed && call.writes > 0 && !resumed) {
        this.end(call);
        this.fail(call, ZIMErrorCode.NetworkModuleNetworkError, 'the session has ended meanwhile');
      } else {
        this.queue.push(call);
      }
    }
    this.pump();
  }

  /** unlinked keeps what is unanswered for the next link. */
  unlinked(): void {
    this.online = this.held = false;
    this.unanswered = this.unansweredChanges = this.unansweredBytes = 0;
    clearTimeout(this.againTimer);
    this.againTimer = undefined;
    for (const call of [...this.pending.values()]) {
      call.onLink = call.aside = false;
      if (call.abandoned) {
        this.end(call);
        this.cfg.unknown(call);
      }
    }
  }

  /** failAll ends all calls. */
  failAll(code: number, why: string): void {
    for (const call of [...this.pending.values()]) {
      this.end(call);
      this.fail(call, code, why);
    }
  }

  /**
   * answered takes an answer, and gives the call it ends: undefined if nobody asked, or if
   * the call goes on. The caller says so to its done, unless it is abandoned.
   */
  answered(id: unknown, err: Failure | undefined): Call | undefined {
    const call = typeof id === 'number' ? this.pending.get(id) : undefined;
    if (!call?.onLink) {
      return undefined;
    }
    this.landed(call);
    if (err?.retryable && !call.abandoned) {
      this.setAside(call, err);
      return undefined;
    }
    this.refusals = 0;
    this.end(call);
    this.pump();
    return call;
  }

  private refusal(method: string, bytes: number): Failure | undefined {
    if (bytes > maxMessage) {
      return new Failure(ZIMErrorCode.CommonModuleParamsInvalid, `${method}: the request has ${bytes} bytes, the limit is ${maxMessage}`);
    }
    if (this.pending.size >= maxPending) {
      return new Failure(ZIMErrorCode.CommonModuleTriggerSDKFrequencyLimit, `${method}: ${maxPending} requests are unanswered, which is the limit`);
    }
    if (this.pendingBytes + bytes > maxPendingBytes) {
      return new Failure(
        ZIMErrorCode.CommonModuleTriggerSDKFrequencyLimit,
        `${method}: unanswered requests have ${this.pendingBytes} bytes together, with this one more than the limit of ${maxPendingBytes}`,
      );
    }
    return undefined;
  }

  private pump(): void {
    while (this.online && !this.held) {
      const call = this.next();
      if (!call) {
        return; // the next answer goes on here
      }
      this.queue.splice(this.queue.indexOf(call), 1);
      call.onLink = true;
      call.writes++;
      this.unanswered++;
      this.unansweredChanges += call.changes ? 1 : 0;
      this.unansweredBytes += call.bytes;
      this.cfg.write(call.frame);
    }
  }

  /**
   * next is the call to be written now: the first, if there is room for it. A new token has no
   * place in the order of the others, and does not wait behind them until the old one is over.
   */
  private next(): Call | undefined {
    const first = this.queue[0];
    if (!first || this.fits(first)) {
      return first;
    }
    return this.queue.find((call) => call.method === 'renewToken' && this.fits(call));
  }

  private fits(call: Call): boolean {
    return (
      (!call.changes || this.unansweredChanges < maxUnansweredChanges) &&
      this.unanswered < maxUnanswered &&
      this.unansweredBytes + call.bytes <= maxUnansweredBytes
    );
  }

  private landed(call: Call): void {
    call.onLink = false;
    this.unanswered--;
    this.unansweredChanges -= call.changes ? 1 : 0;
    this.unansweredBytes -= call.bytes;
  }

  // Those that wait go together, in the order in which they were asked for.
  private setAside(call: Call, err: Failure): void {
    call.refused = err;
    call.aside = true;
    this.againTimer ??= setTimeout(() => this.sendAside(), jitter(this.refusals++, asideFirst, asideMost));
    this.pump();
  }

  private sendAside(): void {
    this.againTimer = undefined;
    for (const call of this.pending.values()) {
      if (call.aside) {
        call.aside = false;
        this.queue.push(call);
      }
    }
    this.queue.sort((a, b) => a.id - b.id);
    this.pump();
  }

  private timedOut(call: Call): void {
    call.abandoned = true;
    call.timer = undefined;
    if (!call.onLink) {
      this.end(call); // else it counts as unanswered until it is answered
    }
    this.fail(call, ZIMErrorCode.NetworkModuleRequestTimeout, `no answer within ${this.cfg.timeout} ms`);
  }

  /** fail rejects a call that has no answer, or none that counts. */
  private fail(call: Call, code: number, why: string): void {
    if (!call.onLink) {
      this.cfg.unknown(call);
    }
    const outcome = call.writes === 0 ? 'not sent' : 'the outcome is not known';
    const last = call.refused ? `; the last answer was ${call.refused.code}: ${call.refused.message}` : '';
    call.done(new Failure(call.refused?.code ?? code, `${call.method}: ${why}; ${outcome}${last}`), {});
  }

  private end(call: Call): void {
    clearTimeout(call.timer);
    if (this.pending.delete(call.id)) {
      this.pendingBytes -= call.bytes;
    }
    const i = this.queue.indexOf(call);
    if (i >= 0) {
      this.queue.splice(i, 1);
    }
  }
}

/** encodingFailure says why a request could not be written. */
export function encodingFailure(method: string, err: unknown): Failure {
  const why = err instanceof Failure ? err.message : 'the parameters cannot be written as JSON';
  return new Failure(ZIMErrorCode.CommonModuleParamsInvalid, `${method}: ${why}`);
}

/** enters is the room that a request enters, if it does. */
export function enters(call: Pick<Call, 'method' | 'params'>): string | undefined {
  const p = call.params as { roomID?: string; roomInfo?: { roomID: string }; toRoomInfo?: { roomID: string } };
  switch (call.method) {
    case 'joinRoom':
      return p.roomID;
    case 'createRoom':
    case 'enterRoom':
      return p.roomInfo?.roomID;
    case 'switchRoom':
      return p.toRoomInfo?.roomID;
  }
  return undefined;
}
