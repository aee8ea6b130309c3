import { jitter } from './backoff.js';
import { type Call, Calls, encodingFailure } from './calls.js';
import { ZIMConnectionEvent, ZIMConnectionState, ZIMRoomEvent } from './enums.js';
import { Failure, ZIMErrorCode } from './errors.js';
import type { Emit } from './events.js';
import { type End, Link } from './link.js';
import type { Log } from './log.js';
import { Rooms } from './rooms.js';
import type { WebSocketConstructor } from './types.js';
import { onWake } from './wake.js';
import {
  close,
  comesBack,
  connectionState,
  encodeRequest,
  type Fields,
  type Frame,
  Malformed,
  reconnectAfter,
  text,
  wait,
  whole,
} from './wire.js';

// The wait before the nth attempt in a row is random, up to minBackoff·2ⁿ, maxBackoff at most.
// Once a link has lasted for settled, they begin anew.
const minBackoff = 500;
const maxBackoff = 8_000;
const settled = 10_000;

/** One attempt to connect and log in may take this long. */
const attemptTimeout = 10_000;

/**
 * For so long a login that was not answered may still take effect, and more than that: a
 * gateway that stands still for longer than two leases has lost its own.
 */
const doubtful = 30_000;

/** How long a logout may take; after it the session is left to its time. */
const logoutTimeout = 5_000;

/** How long a gateway that is left in its turn may take for the answers it owes. */
const moveTimeout = 1_500;

/** Where nothing else says how often the gateway pings. */
const usualInterval = 10_000;

/** Who logs in, and what others see of them. */
export interface User {
  userID: string;
  userName?: string | undefined;
  userAvatarUrl?: string | undefined;
  userExtendedData?: string | undefined;
}

export interface SessionConfig {
  servers: string[];
  WebSocket: WebSocketConstructor;
  user: User;
  token: string;
  deviceID: string | undefined;
  loginTimeout: number;
  requestTimeout: number;
  reenter: boolean;
  log: Log;
  emit: Emit;
  /** Called once, when nothing can come of the session any more. */
  over(): void;
}

/** How a session ends: what whoever waits for an answer is told, and what the connection says. */
interface Ending {
  code: number;
  message: string;
  event: ZIMConnectionEvent;
}

/**
 * A Session is one login. It connects, and connects again whenever the link is lost,
 * until the application logs out or a gateway says not to come back.
 */
export class Session {
  readonly calls: Calls;
  private readonly rooms: Rooms;

  private link: Link | undefined;
  private online = false; // logged in over link
  private isOver = false;
  private muted = false; // the application hears nothing any more
  private leaving = false; // logout was called
  private hasEnded = false; // and the application was told

  private token: string; // the last that a gateway has accepted
  private renewing: string | undefined; // a newer one, of which that is not known
  private sessionID = '';
  private loginID = 0;

  private attempts = 0; // all of them: they take the servers in turn
  private tries = 0; // in a row
  private since = 0; // of the last login
  private doubt = 0; // when a login was given up that had been sent
  private moving = false; // away from a gateway that drains, as soon as nothing is unanswered
  private lastAttempt = 'there was no answer';

  private retryTimer: ReturnType<typeof setTimeout> | undefined;
  private retryIsTold = false;
  private retryAt = 0;
  private linkTimer: ReturnType<typeof setTimeout> | undefined; // ends the attempt, or the link that drains
  private endTimer: ReturnType<typeof setTimeout> | undefined; // ends the first login, or the logout
  private readonly stopWaking: () => void;
  private resolveEnded = () => {};

  /** ended resolves when nothing can come of the session any more. */
  readonly ended = new Promise<void>((resolve) => {
    this.resolveEnded = resolve;
  });

  private loggedIn: { resolve(): void; reject(err: Failure): void } | undefined;

  constructor(private readonly cfg: SessionConfig) {
    this.token = cfg.token;
    this.calls = new Calls({
      timeout: cfg.requestTimeout,
      write: (frame) => this.link?.send(frame),
      unknown: (call: Call) => this.rooms.unknown(call),
    });
    this.rooms = new Rooms(cfg.user.userID, this.calls, this.emit, cfg.reenter);
    this.stopWaking = onWake(() => this.wake());
  }

  /** login begins. It is called once. */
  login(): Promise<void> {
    const promise = new Promise<void>((resolve, reject) => {
      this.loggedIn = { resolve, reject };
    });
    this.endTimer = setTimeout(() => {
      this.end({
        code: ZIMErrorCode.NetworkModuleRequestTimeout,
        message: `no login within ${this.cfg.loginTimeout} ms; at the last attempt ${this.lastAttempt}`,
        event: ZIMConnectionEvent.LoginTimeout,
      });
    }, this.cfg.loginTimeout);
    this.say(ZIMConnectionState.Connecting, ZIMConnectionEvent.ActiveLogin);
    if (!this.isOver) {
      this.connect();
    }
    return promise;
  }

  /** request sends a request. Its promise is rejected with a Failure. */
  request(method: string, params: object = {}): Promise<Fields> {
    return new Promise((resolve, reject) => {
      if (this.isOver || this.leaving) {
        reject(new Failure(ZIMErrorCode.NetworkModuleUserIsNotLogged, `${method}: not logged in`));
        return;
      }
      this.rooms.ask(method, params, (err, result) => {
        if (err) {
          reject(err);
          return;
        }
        try {
          this.rooms.shown(method, params, result);
          resolve(result);
        } catch (why) {
          reject(unreadable(method, why as Malformed));
        }
      });
    });
  }

  /**
   * renewToken replaces the token, of later logins too. Until the answer is there, a login
   * tries the new one first.
   */
  async renewToken(token: string): Promise<void> {
    this.renewing = token;
    let err: unknown;
    try {
      await this.request('renewToken', { token });
      this.token = token;
    } catch (why) {
      err = why;
    }
    if (this.renewing === token && (!err || refusesToken(err))) {
      this.renewing = undefined;
    }
    if (err) {
      throw err;
    }
  }

  /**
   * logout ends the session. While there is a link, the gateway says what becomes of the
   * rooms; without one the application is told at once, and a gateway as soon as one is
   * there, within logoutTimeout.
   */
  logout(): void {
    if (this.isOver || this.leaving) {
      return;
    }
    this.leaving = true;
    if (this.nothingToLeave()) {
      this.end(bye);
      return;
    }
    // Whatever comes of it, this session is over for the application.
    const loggedOut = () => this.end(bye);
    clearTimeout(this.endTimer);
    this.endTimer = setTimeout(loggedOut, logoutTimeout);
    if (!this.online) {
      this.tellEnd(bye);
      this.muted = true;
    }
    this.calls.send('logout', {}, loggedOut);
    this.hurry();
  }

  /** hurry has a gateway hear of the logout in time, even if one has asked to stay away for longer. */
  private hurry(): void {
    if (this.retryTimer && this.retryIsTold && this.retryAt - Date.now() >= logoutTimeout) {
      this.retryIn(jitter(0, minBackoff, maxBackoff));
    } else {
      this.connectNow();
    }
  }

  /** nothingToLeave says that no gateway can have a session that has to be logged out. */
  private nothingToLeave(): boolean {
    return this.sessionID === '' && this.loginID === 0;
  }

  get userID(): string {
    return this.cfg.user.userID;
  }

  /**
   * isEnding says that something is still to be said of the end: to the application, or to a
   * gateway that is to hear of a logout.
   */
  get isEnding(): boolean {
    return (this.leaving || this.isOver) && !this.hasEnded;
  }

  /** destroy ends the session without a word, but for a logout that is under way. */
  destroy(): void {
    this.muted = true;
    if (!this.leaving) {
      this.end({
        code: ZIMErrorCode.CommonModuleNotInit,
        message: 'the instance was destroyed',
        event: ZIMConnectionEvent.LoginInterrupted,
      });
    }
  }

  // Connecting

  private connect(): void {
    const url = this.cfg.servers[this.attempts++ % this.cfg.servers.length] as string;
    let link: Link;
    try {
      link = new Link(url, this.cfg.WebSocket, {
        opened: () => this.opened(),
        received: (frame) => this.received(frame),
        malformed: (why) => this.malformed(why),
        ended: (end) => this.lost(end),
      });
    } catch {
      // The URL was checked: what is left is a page that may not connect there.
      this.end({
        code: ZIMErrorCode.NetworkModuleNetworkError,
        message: `a WebSocket to ${new URL(url).origin} cannot be made here; a page that came by https needs wss://`,
        event: ZIMConnectionEvent.LoginInterrupted,
      });
      return;
    }
    this.link = link;
    this.linkTimer = setTimeout(() => this.give(link, 'there was no answer'), attemptTimeout);
    this.cfg.log.debug(`connecting to ${new URL(url).origin}`); // without its query, which is the operator's own
  }

  /** connectNow does not wait for what is left of a backoff, unless a gateway has asked for it. */
  private connectNow(spread = 0): void {
    if (this.retryTimer && !this.retryIsTold) {
      this.retryIn(Math.random() * spread);
    }
  }

  private retryIn(ms: number): void {
    clearTimeout(this.retryTimer);
    this.retryAt = Date.now() + ms;
    this.retryTimer = setTimeout(() => {
      this.retryTimer = undefined;
      this.connect();
    }, ms);
  }

  private opened(): void {
    if (this.leaving && this.nothingToLeave()) {
      this.end(bye);
      return;
    }
    try {
      this.sendLogin();
    } catch (err) {
      const { code, message } = encodingFailure('login', err);
      this.end({ code, message, event: ZIMConnectionEvent.LoginInterrupted });
    }
  }

  private sendLogin(): void {
    const { user, deviceID } = this.cfg;
    this.loginID = this.calls.nextID();
    const resume = this.sessionID ? { sessionID: this.sessionID, rooms: this.rooms.positions() } : undefined;
    const params = {
      userID: user.userID,
      userName: user.userName || undefined,
      userAvatarUrl: user.userAvatarUrl || undefined,
      userExtendedData: user.userExtendedData || undefined,
      token: (this.renewing ?? this.token) || undefined,
      // A session that only says farewell must not take the place of a later one on the device.
      deviceID: (!this.leaving && deviceID) || undefined,
      platform: 'web',
      resume,
    };
    this.link?.send(encodeRequest(this.loginID, 'login', params));
  }

  /** give ends a link from this side, as if it had broken. */
  private give(link: Link, why: string): void {
    link.close();
    this.lost({ code: 1006, reason: why });
  }

  /** lost goes on after the end of a link. */
  private lost(end: End): void {
    const was = this.online;
    const moving = this.moving;
    const asked = this.loginID !== 0;
    this.dropLink();
    this.cfg.log.debug(`disconnected with code ${end.code}`);
    this.lastAttempt = attempt(end);
    if (this.leaving && (end.code === close.normal || this.nothingToLeave())) {
      this.end(bye);
      return;
    }
    const taken = end.code === close.takenOver;
    if (!comesBack(end.code) && !(taken && Date.now() - this.doubt < doubtful)) {
      this.end(endingOf(end));
      return;
    }
    if (taken) {
      this.doubt = 0; // it was that login: nobody is at the other end of its connection
    } else if (asked) {
      this.doubt = Date.now();
    }
    if (was) {
      if (Date.now() - this.since >= settled) {
        this.tries = 0;
      }
      this.say(ZIMConnectionState.Reconnecting, ZIMConnectionEvent.LoginInterrupted);
      this.rooms.interrupted();
    }
    const told = reconnectAfter(end.reason) ?? (moving ? 0 : undefined); // it was this client's turn
    this.retryIsTold = told !== undefined;
    if (!this.isOver) {
      this.retryIn(told ?? jitter(this.tries++, minBackoff, maxBackoff));
    }
    if (was && this.leaving) {
      this.hurry();
    }
  }

  private dropLink(): void {
    this.link = undefined;
    this.online = this.moving = false;
    this.loginID = 0;
    clearTimeout(this.linkTimer);
    this.calls.unlinked();
  }

  // Receiving

  private received(frame: Frame): void {
    try {
      if (frame.kind === 'event') {
        this.event(frame.method, frame.params);
      } else if (frame.id === this.loginID) {
        this.loginAnswered(frame);
      } else {
        this.answered(frame);
      }
    } catch (err) {
      if (!(err instanceof Malformed)) {
        throw err;
      }
      this.malformed(err);
    }
    this.moveIfIdle();
  }

  private malformed(why: Malformed): void {
    this.cfg.log.error(`skipped what a gateway has sent: ${why.message}`);
    this.emit('error', { code: ZIMErrorCode.NetworkModuleRspProtoParseError, message: why.message });
  }

  private event(method: string, params: Fields): void {
    switch (method) {
      case 'connectionStateChanged': {
        const { state, event } = connectionState(params);
        if (state === ZIMConnectionState.Disconnected) {
          this.end(endings[event] ?? { ...lostForGood, event });
        }
        return;
      }
      case 'tokenWillExpire':
        this.emit('tokenWillExpire', { second: whole(params, 'second') });
        return;
      case 'serverDraining':
        this.moveIn(wait(params['reconnectAfterMs']) ?? 0);
        return;
    }
    this.rooms.received(method, params);
  }

  private answered(frame: Exclude<Frame, { kind: 'event' }>): void {
    const err = frame.kind === 'error' ? frame.error : undefined;
    const result = frame.kind === 'result' ? frame.result : {};
    const call = this.calls.answered(frame.id, err);
    if (!call) {
      return;
    }
    let failure = err;
    try {
      this.rooms.answered(call, !err, result);
    } catch (why) {
      if (!(why instanceof Malformed)) {
        throw why;
      }
      this.malformed(why);
      failure = unreadable(call.method, why);
    }
    if (!call.abandoned) {
      call.done(failure, result);
    }
  }

  private loginAnswered(frame: Exclude<Frame, { kind: 'event' }>): void {
    const link = this.link as Link;
    this.loginID = 0; // it is answered once
    if (frame.kind === 'error') {
      const { code, message, retryable } = frame.error;
      if (this.renewing !== undefined && refusesToken(frame.error)) {
        this.renewing = undefined;
        this.sendLogin(); // with the token that was good before
        return;
      }
      link.close();
      if (retryable || passing.has(code)) {
        this.lost({ code: 1006, reason: message });
      } else {
        this.dropLink();
        const expired = code === ZIMErrorCode.NetworkModuleTokenExpired;
        this.end({ code, message, event: expired ? ZIMConnectionEvent.TokenExpired : ZIMConnectionEvent.LoginInterrupted });
      }
      return;
    }
    const sessionID = text(frame.result, 'sessionID');
    const resumed = frame.result['resumed'] === true && sessionID === this.sessionID;
    this.sessionID = sessionID;
    this.token = this.renewing ?? this.token;
    this.renewing = undefined;
    this.online = true;
    this.since = Date.now();
    clearTimeout(this.linkTimer);
    link.watch(wait(frame.result['heartbeatIntervalMs']) || usualInterval);
    this.cfg.log.debug(resumed ? 'logged in again' : 'logged in');
    if (!this.leaving) {
      clearTimeout(this.endTimer);
    }
    this.say(ZIMConnectionState.Connected, ZIMConnectionEvent.Success);
    this.loggedIn?.resolve();
    this.loggedIn = undefined;
    this.calls.linked(resumed);
  }

  /** moveIn has the session move to another gateway after a while. */
  private moveIn(ms: number): void {
    const link = this.link;
    if (link && this.online && !this.moving) {
      clearTimeout(this.linkTimer);
      this.linkTimer = setTimeout(() => this.move(link), ms);
    }
  }

  /** move leaves a gateway, once it has answered what it was asked, or has had the time to. */
  private move(link: Link): void {
    this.moving = true;
    this.calls.hold();
    this.linkTimer = setTimeout(() => this.give(link, ''), moveTimeout);
    this.moveIfIdle();
  }

  private moveIfIdle(): void {
    if (this.moving && this.link && this.calls.isIdle) {
      this.give(this.link, '');
    }
  }

  /** wake looks whether the link still is one, or connects at once if there is none. */
  private wake(): void {
    if (this.online) {
      this.link?.probe();
    } else {
      this.connectNow(minBackoff); // not all that come online at once at the same moment
    }
  }

  // Ending

  /** end ends the session: for the application, and towards the gateway. */
  private end(ending: Ending): void {
    if (this.isOver) {
      return;
    }
    this.isOver = true;
    clearTimeout(this.retryTimer);
    clearTimeout(this.endTimer);
    this.stopWaking();
    this.link?.close();
    this.dropLink();
    this.tellEnd(ending);
    this.cfg.over();
    this.hasEnded = true;
    this.resolveEnded();
  }

  /** tellEnd tells the application: its rooms, its connection, then whoever waits for an answer. */
  private tellEnd(ending: Ending): void {
    const byItself = ending.event === ZIMConnectionEvent.Success;
    this.rooms.ended(byItself ? ZIMRoomEvent.Success : ZIMRoomEvent.NetworkDisconnected);
    this.say(ZIMConnectionState.Disconnected, ending.event);
    this.loggedIn?.reject(new Failure(ending.code, ending.message));
    this.loggedIn = undefined;
    this.calls.failAll(ending.code, ending.message);
  }

  private say(state: ZIMConnectionState, event: ZIMConnectionEvent): void {
    this.emit('connectionStateChanged', { state, event, extendedData: '' });
  }

  private readonly emit: Emit = (type, data) => {
    if (!this.muted) {
      this.cfg.emit(type, data);
    }
  };
}

export function unreadable(method: string, why: Malformed): Failure {
  return new Failure(ZIMErrorCode.NetworkModuleRspProtoParseError, `${method}: the answer cannot be read: ${why.message}`);
}

/** Refusals of a login that say nothing about the login. */
const passing = new Set<number>([
  ZIMErrorCode.CommonModuleIMServerError,
  ZIMErrorCode.CommonModuleTriggerServerFrequencyLimit,
  -32603,
]);

/** Refusals of a token, or of one that is no token. */
const ofToken = new Set<number>([
  ZIMErrorCode.CommonModuleParamsInvalid,
  ZIMErrorCode.NetworkModuleTokenInvalid,
  ZIMErrorCode.NetworkModuleTokenExpired,
]);

function refusesToken(err: unknown): boolean {
  return err instanceof Failure && ofToken.has(err.code);
}

const bye: Ending = {
  code: ZIMErrorCode.NetworkModuleUserHasAlreadyLoggedOut,
  message: 'logged out',
  event: ZIMConnectionEvent.Success,
};

const lostForGood: Ending = {
  code: ZIMErrorCode.CommonModuleIMServerError,
  message: 'the gateway has ended the session',
  event: ZIMConnectionEvent.LoginInterrupted,
};

const kickedOut: Ending = {
  code: ZIMErrorCode.NetworkModuleUserIsNotLogged,
  message: 'another login has taken the place of this one',
  event: ZIMConnectionEvent.KickedOut,
};

const expired: Ending = {
  code: ZIMErrorCode.NetworkModuleTokenExpired,
  message: 'the token has expired, or three logins were refused',
  event: ZIMConnectionEvent.TokenExpired,
};

const endings: Partial<Record<ZIMConnectionEvent, Ending>> = {
  [ZIMConnectionEvent.Success]: bye,
  [ZIMConnectionEvent.KickedOut]: kickedOut,
  [ZIMConnectionEvent.TokenExpired]: expired,
};

/** endingOf tells what a close code means that says not to come back. */
function endingOf(end: End): Ending {
  switch (end.code) {
    case close.kickedByLogin:
    case close.takenOver:
      return kickedOut;
    case close.notAuthorised:
      return expired;
  }
  return { ...lostForGood, message: `the gateway has closed the connection with code ${end.code}` };
}

function attempt(end: End): string {
  return end.code === 1006 ? end.reason || 'there was no connection' : `the gateway closed with code ${end.code}`;
}
