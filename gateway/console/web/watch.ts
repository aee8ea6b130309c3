// The live event log of a room.

import type { API } from './api';
import { Failure, reason } from './api';
import { h, setText } from './dom';
import { cut, many, timeOfDay } from './format';
import { serverEvents } from './sse';

/** How many events are shown; older ones go. */
const kept = 500;

/** How many of the events before the log was opened it begins with, if they are kept. */
const before = 50;

/** Waits between attempts to come back to a stream that ended, in ms. */
const waits = [500, 1000, 2000, 4000, 8000];

interface User { userID: string; userName: string }

/** The fields of all kinds of events, as docs/openapi.yaml has them. */
interface RoomEvent {
  epoch?: number;
  endedEpoch?: number;
  seq?: number;
  after?: number;
  time?: number;
  user?: User;
  memberCount?: number;
  reason?: string;
  message?: { type: number; message: string; senderUserID: string; timestamp: number };
  userID?: string;
  set?: Record<string, string>;
  deleted?: string[];
  infos?: { userID: string; attributes: Record<string, string> }[];
  fromSeq?: number;
  toSeq?: number;
  fromEpoch?: number;
}

const messageTypes: Record<number, string> = { 1: 'text', 2: 'command', 20: 'barrage', 200: 'custom' };

/** What left means, by the reason that the log has for it. */
const departures: Record<string, string> = {
  left: 'left', kicked: 'was kicked out', timeout: 'did not come back in time',
  device: 'left with a device that had to go', replaced: 'was replaced by a newer login',
};

export class EventLog {
  readonly element: HTMLElement;
  readonly #rows = h('div', { class: 'events', role: 'log', tabindex: 0, 'aria-label': 'Events of the room' });
  readonly #state = h('span', { class: 'state', role: 'status' });
  readonly #pause = h('button', { type: 'button', onclick: () => this.#toggle() }, 'Pause');
  #waiting: HTMLElement[] = []; // rows for the next frame
  #frame = 0;
  #last = 0; // seq of the last event that came
  #epoch = 0; // and of the life that it is of; 0: not known yet
  #running: AbortController | undefined;

  /** There will be no more events, since the room is gone. */
  over = false;

  /** happened hears of every event, by its kind. It has to be watched from a seq on. */
  constructor(readonly api: API, readonly roomID: string, readonly signal: AbortSignal, readonly happened: (kind: string) => void) {
    this.element = h('section', { 'aria-labelledby': 'events-title', class: 'block' },
      h('div', { class: 'head' }, h('h3', { id: 'events-title' }, 'Events'), this.#state, this.#pause),
      this.#rows);
    signal.addEventListener('abort', () => this.#running?.abort());
  }

  /** Begins a little before what happened last, which has this seq. */
  open(seq: number): void {
    this.over = false;
    this.#last = Math.max(0, seq - before);
    this.#epoch = 0;
    this.#pause.hidden = false;
    this.#resume();
  }

  #toggle(): void {
    if (this.#running) {
      this.#running.abort();
      this.#running = undefined;
      this.#tell('paused', '');
    } else {
      this.#resume();
    }
    setText(this.#pause, this.#running ? 'Pause' : 'Go on');
  }

  #resume(): void {
    const running = new AbortController();
    this.#running = running;
    void this.#run(running.signal);
    setText(this.#pause, 'Pause');
  }

  // Goes on over streams that end for as long as the room is there.
  async #run(signal: AbortSignal): Promise<void> {
    let from = this.#last + 1;
    for (let failures = 0; !signal.aborted; failures++) {
      try {
        const stream = await this.api.events(this.roomID, from, this.#epoch, signal);
        this.#tell('live', 'good');
        const end = await this.#read(stream, signal, () => { failures = 0; });
        if (end === 'over') {
          this.#stop('The room is over');
          return;
        }
        from = this.#last + 1;
      } catch (err) {
        if (signal.aborted) return;
        if (err instanceof Failure && (err.status === 404 || err.status === 401)) {
          this.#stop(cut(reason(err), 120));
          return;
        }
        // What is asked for is beyond the room's end, since it has lost some: from now on, then.
        from = err instanceof Failure && err.status === 400 ? 0 : this.#last + 1;
        this.#tell(`no events: ${cut(reason(err), 120)}`, 'bad');
      }
      await new Promise<void>((resolve) => {
        setTimeout(resolve, (waits[Math.min(failures, waits.length - 1)] ?? 0) * (0.5 + Math.random() / 2));
        signal.addEventListener('abort', () => resolve(), { once: true });
      });
    }
  }

  // Shows one stream to its end, and says why it ended.
  async #read(stream: ReadableStream<Uint8Array>, signal: AbortSignal, came: () => void): Promise<string> {
    for await (const { type, data } of serverEvents(stream)) {
      if (signal.aborted) return 'aborted';
      came();
      const event = JSON.parse(data) as RoomEvent;
      if (type === 'opened') {
        this.#last = event.seq ?? 0;
        this.#epoch = event.epoch ?? 0;
        if (event.endedEpoch !== undefined) {
          this.#add(row('', undefined, 'created', 'The room was over, and has been created again.'));
          this.happened('created');
        }
        continue;
      }
      if (type === 'end') {
        this.#add(row('', undefined, 'end', endings[event.reason ?? ''] ?? event.reason ?? ''));
        return event.reason ?? '';
      }
      if (type === 'lost') this.#last = event.toSeq ?? this.#last;
      else if (event.seq !== undefined) this.#last = event.seq;
      if (type === 'healed') this.#epoch = event.epoch ?? this.#epoch;
      this.#add(describe(type, event));
      this.happened(type);
    }
    return 'cut';
  }

  #tell(text: string, kind: string): void {
    setText(this.#state, text);
    this.#state.className = `state ${kind}`;
  }

  #stop(why: string): void {
    this.#running = undefined;
    this.over = true;
    this.#pause.hidden = true;
    this.#tell(why, 'bad');
    this.happened('over');
  }

  // Rows are added once a frame: a busy room has more events than a screen has frames. In a page
  // that nobody sees there are no frames, and the newest wait.
  #add(made: HTMLElement): void {
    this.#waiting.push(made);
    if (this.#waiting.length > kept) this.#waiting.shift();
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      const rows = this.#rows;
      const atEnd = rows.scrollHeight - rows.scrollTop - rows.clientHeight < 40;
      rows.append(...this.#waiting);
      this.#waiting = [];
      while (rows.childElementCount > kept) rows.firstElementChild?.remove();
      if (atEnd) rows.scrollTop = rows.scrollHeight;
    });
  }
}

const endings: Record<string, string> = {
  over: 'The room is over.',
  slow: 'This page fell too far behind.',
  interrupted: 'Redis was started anew or lost data.',
  stopping: 'The gateway is being stopped.',
};

function row(seq: string, time: number | undefined, kind: string, ...text: (string | Node)[]): HTMLElement {
  return h('div', { class: `event ${kind}` },
    h('span', { class: 'seq' }, seq), h('time', {}, time === undefined ? '' : timeOfDay(time)),
    h('span', { class: 'kind' }, kind), h('span', { class: 'text' }, ...text));
}

function who(user: User | undefined): Node {
  return h('b', {}, user?.userID ?? '?');
}

function pairs(attributes: Record<string, string>): string {
  return cut(Object.entries(attributes).map(([key, value]) => `${key} = ${JSON.stringify(value)}`).join(', '), 400);
}

/** One event as a line. */
function describe(kind: string, e: RoomEvent): HTMLElement {
  const seq = e.seq === undefined ? e.after === undefined ? '' : `>${e.after}` : String(e.seq);
  const line = (name: string, ...text: (string | Node)[]) => row(seq, e.time ?? e.message?.timestamp, name, ...text);
  const left = e.memberCount === undefined ? '' : ` (${many(e.memberCount, 'member')})`;
  switch (kind) {
    case 'memberJoined':
      return line('joined', who(e.user), ` entered${left}`);
    case 'memberLeft':
      return line('left', who(e.user), ` ${departures[e.reason ?? ''] ?? 'left'}${left}`);
    case 'memberMoved':
      return line('moved', who(e.user), ' goes on from another device');
    case 'message':
    case 'command': {
      const m = e.message;
      return line(messageTypes[m?.type ?? 0] ?? 'message', h('b', {}, m?.senderUserID ?? '?'), ` ${cut(m?.message ?? '', 400)}`);
    }
    case 'attributes': {
      const done = [Object.keys(e.set ?? {}).length > 0 ? ` set ${pairs(e.set ?? {})}` : '', (e.deleted ?? []).length > 0 ? ` deleted ${(e.deleted ?? []).join(', ')}` : ''];
      return line('attributes', h('b', {}, e.userID ?? ''), done.filter(Boolean).join(';'));
    }
    case 'memberAttributes':
      return line('attributes', h('b', {}, e.userID ?? ''), ` set ${(e.infos ?? []).map((i) => `of ${i.userID} ${pairs(i.attributes)}`).join('; ')}`);
    case 'destroyed':
      return line('destroyed', e.reason === 'emptied' ? 'Nobody was left.' : 'A backend ended the room.');
    case 'healed':
      return line('healed', `Redis lost data; the room goes on under epoch ${e.epoch}, after ${e.fromEpoch}.`);
    case 'lost':
      return row(`${e.fromSeq}–${e.toSeq}`, undefined, 'lost', 'These events are not kept any more.');
    default:
      return line(kind, cut(JSON.stringify(e), 400));
  }
}
