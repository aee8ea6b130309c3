// One room: what it is, who is in it, what happens there, and what an operator does to it.

import type { API, Member, RoomDetail } from './api';
import { Failure, reason } from './api';
import { countDown, serverNow } from './clock';
import { nameOf } from './cluster';
import { ask } from './dialog';
import { List, byID, h, setProblem, setText } from './dom';
import { count, duration, many, roughly } from './format';
import { Pager } from './pager';
import { poll } from './poll';
import { EventLog } from './watch';

const pageSize = 50;

/** How often the room and its members are asked for again, in ms; events make it sooner. */
const every = 3000;

/** How long after an event they are, in ms, so that many events ask once. */
const pause = 300;

/** Shows a room in its section until the signal ends it. */
export function showRoom(api: API, roomID: string, signal: AbortSignal): void {
  const problem = h('p', { class: 'problem', role: 'alert', hidden: true });
  const said = h('p', { class: 'note', role: 'status' });
  const tell = (text: string): void => setText(said, text);
  const attempt = async (what: string, done: string, work: () => Promise<unknown>): Promise<boolean> => {
    try {
      await work();
    } catch (err) {
      tell('');
      setProblem(problem, `${what}: ${reason(err)}`);
      return false;
    }
    setProblem(problem, '');
    tell(done);
    return true;
  };

  const facts = new Facts();
  const members = new Members(api, roomID, signal, (userID) => void kick(userID));
  let known: RoomDetail | undefined;
  let life = 0; // the epoch whose events are shown

  const refresh = poll(every, signal, async () => {
    try {
      const room = await api.room(roomID);
      if (signal.aborted) return;
      known = room;
      facts.show(room);
      await members.refresh();
      if (problem.dataset['of'] === 'poll') setProblem(problem, '');
      delete problem.dataset['of'];
      if (room.epoch !== life && (life === 0 || log.over)) log.open(room.seq); // or a room created anew
      life = room.epoch;
    } catch (err) {
      if (signal.aborted) return;
      problem.dataset['of'] = 'poll';
      setProblem(problem, err instanceof Failure && err.status === 404 ? 'There is no such room now.' : `The room is not known: ${reason(err)}`);
      if (err instanceof Failure && err.status === 404) gone();
    }
  });

  let timer: ReturnType<typeof setTimeout> | undefined;
  const log = new EventLog(api, roomID, signal, (kind) => {
    if (kind === 'message' || kind === 'command') return; // the next round has them, too
    timer ??= setTimeout(() => {
      timer = undefined;
      refresh();
    }, pause);
  });
  signal.addEventListener('abort', () => clearTimeout(timer));

  async function destroy(): Promise<void> {
    const text = `“${roomID}” ends at once for ${many(known?.memberCount ?? 0, 'member')}. Nothing of it is kept.`;
    if (await ask('Destroy this room?', text, 'Destroy the room') === undefined) return;
    if (await attempt('The room was not destroyed', 'The room was destroyed.', () => api.destroy(roomID))) refresh();
  }

  async function kick(userID: string): Promise<void> {
    const why = await ask(`Kick ${userID} out?`, 'They leave this room on all their devices, and may enter it again.', 'Kick out', 'Reason, which they are told');
    if (why === undefined) return;
    if (await attempt(`${userID} was not kicked out`, `${userID} was kicked out.`, () => api.kick(roomID, userID, why))) refresh();
  }

  const actions = h('button', { type: 'button', class: 'danger', onclick: () => void destroy() }, 'Destroy…');
  const form = sendForm(async (message) => attempt('The message was not sent', 'Sent.', () => api.send(roomID, message)));
  const gone = (): void => {
    members.clear();
    known = undefined;
  };

  byID('room').replaceChildren(
    h('div', { class: 'head' },
      h('h2', {}, roomID), facts.name,
      h('a', { class: 'back', href: '#' }, 'All rooms'), actions),
    problem, said,
    h('div', { class: 'card' }, facts.element),
    members.element,
    log.element,
    form);
}

/** What is told of the room itself. */
class Facts {
  readonly name = h('span', { class: 'name' });
  readonly element = h('dl', { class: 'facts' });
  readonly #members = this.#fact('Members');
  readonly #ends = this.#fact('Ends in');
  readonly #delay = this.#fact('Stays empty for');
  readonly #age = this.#fact('Age');
  readonly #seq = this.#fact('Events (seq)');
  readonly #epoch = this.#fact('Epoch');
  readonly #attributes = this.#fact('Attributes', 'wide');

  #fact(name: string, kind = ''): HTMLElement {
    const value = h('dd');
    this.element.append(h('div', { class: kind }, h('dt', {}, name), value));
    return value;
  }

  show(room: RoomDetail): void {
    setText(this.name, room.roomName);
    setText(this.#members, count(room.memberCount));
    countDown(this.#ends, room.deadline, '–');
    setText(this.#delay, room.roomDestroyDelayTime === 0 ? 'not at all' : duration(room.roomDestroyDelayTime * 1000));
    setText(this.#age, roughly(serverNow() - room.createdAt));
    setText(this.#seq, String(room.seq));
    setText(this.#epoch, String(room.epoch));
    const attributes = Object.entries(room.roomAttributes);
    if (attributes.length === 0) setText(this.#attributes, 'none');
    else this.#attributes.replaceChildren(...attributes.map(([key, value]) => h('code', {}, `${key} = ${value}`)));
  }
}

/** The members, a page at a time. */
class Members {
  readonly element: HTMLElement;
  readonly #count = h('span', { class: 'note' });
  readonly #page = h('span', { role: 'status' });
  readonly #nav: HTMLElement;
  readonly #pager: Pager;
  readonly #rows: List<Member>;

  constructor(readonly api: API, readonly roomID: string, readonly signal: AbortSignal, kick: (userID: string) => void) {
    const previous = h('button', { type: 'button' }, 'Previous');
    const next = h('button', { type: 'button' }, 'Next');
    const body = h('tbody');
    this.#nav = h('nav', { class: 'pager', 'aria-label': 'Pages of members' }, previous, this.#page, next);
    this.element = h('section', { class: 'block', 'aria-labelledby': 'members-title' },
      h('div', { class: 'head' }, h('h3', { id: 'members-title' }, 'Members'), this.#count),
      h('div', { class: 'card scroll members', tabindex: 0, role: 'region', 'aria-label': 'Members, as a table' },
        h('table', {},
          h('thead', {}, h('tr', {}, ...['User', 'State', 'Gateway', 'In for'].map((name) => h('th', { scope: 'col' }, name)), h('td'))),
          body),
        this.#nav));
    this.#rows = new List<Member>(body, (m) => m.userID, (m) => memberRow(m, kick));
    this.#pager = new Pager(previous, next, signal, () => {
      // What goes wrong with a page the next round says.
      this.refresh().catch(() => undefined);
    });
  }

  async refresh(): Promise<void> {
    const flag = this.#pager.flag;
    let got;
    try {
      got = await this.api.members(this.roomID, flag, pageSize);
    } catch (err) {
      if (!(err instanceof Failure && err.status === 400 && flag !== '')) throw err;
      this.#pager.first(); // the page belongs to an earlier life of the room
      return;
    }
    if (this.signal.aborted || flag !== this.#pager.flag) return;
    this.#pager.got(got.nextFlag);
    this.#rows.show(got.memberList);
    const pages = this.#pager.pages(got.memberCount, pageSize);
    setText(this.#count, got.memberCount === 0 ? 'nobody is in this room' : many(got.memberCount, 'member'));
    setText(this.#page, `Page ${count(this.#pager.number)} of ${count(pages)}`);
    this.#nav.hidden = pages < 2;
  }

  clear(): void {
    this.#rows.show([]);
    setText(this.#count, '');
    this.#nav.hidden = true;
  }
}

function memberRow(first: Member, kick: (userID: string) => void): { element: HTMLElement; update(m: Member): void } {
  const name = h('small');
  const word = h('span');
  const left = h('span', { class: 'countdown' });
  const state = h('td', {}, word, left);
  const node = h('td');
  const since = h('td');
  const element = h('tr', {},
    h('th', { scope: 'row' }, first.userID, ' ', name), state, node, since,
    h('td', { class: 'number' }, h('button', { type: 'button', class: 'small', 'aria-label': `Kick ${first.userID} out`, onclick: () => kick(first.userID) }, 'Kick…')));
  return {
    element,
    update(m) {
      setText(name, m.userName);
      setText(word, m.state === 'away' ? 'away, out in ' : 'connected');
      word.className = m.state === 'away' ? 'state warn' : 'state good';
      countDown(left, m.deadline);
      setText(node, m.node === undefined ? '–' : nameOf(m.node));
      setText(since, m.joinedAt === undefined ? '–' : roughly(serverNow() - m.joinedAt));
    },
  };
}

interface NewMessage { senderUserID: string; type: number; message: string; priority: number }

function sendForm(send: (message: NewMessage) => Promise<boolean>): HTMLElement {
  const user = h('input', { id: 'send-user', value: 'console', maxlength: 32, required: true, autocomplete: 'off', spellcheck: 'false' });
  const type = h('select', { id: 'send-type' },
    ...[['1', 'text'], ['200', 'custom'], ['20', 'barrage'], ['2', 'command']].map(([value, name]) => h('option', { value }, name ?? '')));
  const priority = h('select', { id: 'send-priority' },
    ...['low', 'medium', 'high'].map((name, i) => h('option', { value: i + 1 }, name)));
  const text = h('input', { id: 'send-text', required: true, autocomplete: 'off', placeholder: 'Say something to everyone in the room' });
  const field = (label: string, input: HTMLElement, kind = '') => h('div', { class: `field ${kind}` }, h('label', { for: input.id }, label), input);
  return h('form', {
    class: 'card send', 'aria-label': 'Send a message',
    onsubmit: (event) => {
      event.preventDefault();
      const message = type.value === '2' ? base64(text.value) : text.value;
      void send({ senderUserID: user.value, type: Number(type.value), message, priority: Number(priority.value) }).then((done) => {
        if (done) text.value = '';
      });
    },
  },
    field('As user', user), field('Type', type), field('Priority', priority), field('Message', text, 'wide'),
    h('button', { class: 'primary' }, 'Send'));
}

/** A text as a command carries it: its UTF-8 in base64. */
function base64(text: string): string {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
