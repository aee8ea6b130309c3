import { decodeFrame, encodeRequest, type Frame, Malformed, subprotocol } from './wire.js';
import type { WebSocketConstructor, WebSocketLike } from './types.js';

/** Why a link has ended: a close code of the gateway, or 1006 where there was none, as in browsers. */
export interface End {
  code: number;
  reason: string;
}

export interface LinkHandler {
  opened(): void;
  received(frame: Frame): void;
  malformed(why: Malformed): void;
  ended(end: End): void;
}

const open = 1; // WebSocket.OPEN

// After this much longer than it was set for, a timer says that nothing ran meanwhile: the
// tab slept, or the page was busy. What was not heard then says nothing about the link. That
// excuses one timer of a silence: in a tab that is hidden every timer is late, by up to a minute.
const asleep = 1_000;

/** A probe that something else gave rise to is given this long to be answered. */
const probeTimeout = 3_000;

/**
 * A Link is one WebSocket to one gateway. It is watched once watch was called: the
 * page cannot see the gateway's pings, so after 1.25 heartbeat intervals of silence it
 * asks for a sign of life, and after 0.75 more gives the link up.
 */
export class Link {
  private readonly ws: WebSocketLike;
  private handler: LinkHandler | undefined;

  private answered = false; // in this turn
  private behind: Frame[] = []; // what came behind the answer

  private interval = 0;
  private heard = 0;
  private asked = false;
  private excused = false; // in this silence, for one timer that was late
  private timer: ReturnType<typeof setTimeout> | undefined;
  private due = 0;

  /** It throws what the constructor of the WebSocket throws. */
  constructor(url: string, WebSocket: WebSocketConstructor, handler: LinkHandler) {
    this.handler = handler;
    this.ws = new WebSocket(url, [subprotocol]);
    this.ws.onopen = () => this.handler?.opened();
    this.ws.onmessage = (e: { data: unknown }) => this.received(e.data);
    this.ws.onclose = (e: { code?: number; reason?: unknown }) => {
      this.end({ code: e.code ?? 1006, reason: String(e.reason ?? '') });
    };
    this.ws.onerror = () => {}; // a close event follows, and says all there is to say
  }

  send(text: string): void {
    if (this.ws.readyState === open) {
      this.ws.send(text);
    }
  }

  /** watch begins to look after signs of life. */
  watch(interval: number): void {
    this.interval = interval;
    this.heard = Date.now();
    this.checkIn(this.pingAfter());
  }

  /** probe asks for a sign of life now, on a link that is watched. If it was asked already, it is given less time. */
  probe(): void {
    const timeout = Math.min(probeTimeout, this.pingTimeout());
    const left = this.due - Date.now();
    if (!this.asked || left < 0) {
      this.ask(timeout);
    } else if (left > timeout) {
      this.checkIn(timeout);
    }
  }

  /** close ends the link from this side. The handler hears nothing any more. */
  close(): void {
    this.handler = undefined;
    clearTimeout(this.timer);
    this.ws.close();
  }

  private received(data: unknown): void {
    this.heard = Date.now();
    this.asked = this.excused = false;
    let frame: Frame;
    try {
      frame = decodeFrame(data);
    } catch (err) {
      this.handler?.malformed(err as Malformed);
      return;
    }
    this.pass(frame);
  }

  /**
   * pass has whoever waited for an answer go on before the events behind it are passed on. In
   * browsers each message has a turn of its own; Node passes on all that it has read in one.
   */
  private pass(frame: Frame): void {
    if (this.answered && (frame.kind === 'event' || this.behind.length > 0)) {
      this.behind.push(frame);
      return;
    }
    if (frame.kind !== 'event' && !this.answered) {
      const node = globalThis as { setImmediate?: (f: () => void) => unknown };
      this.answered = node.setImmediate?.(() => this.turn()) !== undefined;
    }
    this.handler?.received(frame);
  }

  private turn(): void {
    const frames = this.behind;
    this.behind = [];
    this.answered = false;
    frames.forEach((frame) => this.pass(frame));
  }

  private end(end: End): void {
    this.behind.forEach((frame) => this.handler?.received(frame));
    this.behind = [];
    const handler = this.handler;
    this.handler = undefined;
    clearTimeout(this.timer);
    handler?.ended(end);
  }

  private pingAfter(): number {
    return this.interval * 1.25;
  }

  private pingTimeout(): number {
    return this.interval * 0.75;
  }

  private checkIn(ms: number): void {
    clearTimeout(this.timer);
    this.due = Date.now() + ms;
    this.timer = setTimeout(() => this.check(), ms);
  }

  private ask(timeout: number): void {
    this.asked = true;
    this.send(encodeRequest('ping', 'ping', {}));
    this.checkIn(timeout);
  }

  private check(): void {
    const now = Date.now();
    this.heard = Math.min(this.heard, now); // the clock may have been set back
    const quiet = now - this.heard;
    const late = now - this.due >= asleep;
    if (this.asked && (!late || this.excused)) {
      this.ws.close();
      this.end({ code: 1006, reason: 'no sign of life' });
    } else if (this.asked || quiet >= this.pingAfter()) {
      this.excused = this.asked;
      this.ask(this.pingTimeout());
    } else {
      this.checkIn(this.pingAfter() - quiet);
    }
  }
}
