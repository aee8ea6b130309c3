// One client of the playground: a card with its login, its rooms, all its operations, and a log
// of what it did and heard.

import { ZIM, ZIMConnectionEvent, ZIMConnectionState, ZIMRoomAttributesUpdateAction, ZIMRoomEvent, ZIMRoomState } from '../../../client/js/src/index.js';
import { Cable } from './cable';
import { countDown } from './clock';
import type { State } from './diagram';
import { h, setProblem, setText } from './dom';
import { cut, timeOfDay } from './format';
import { type Field, Values, operations, roomField } from './operations';
import { RoomView, label } from './roomview';

/** How many lines of its log a client keeps, and how many rooms. */
const keptLines = 300;
const keptRooms = 12;

/** A client of the SDK. An application has one; here each card has its own. */
const NewZIM = ZIM as unknown as new (config: Parameters<typeof ZIM.create>[0]) => ZIM;

/** The name that a number of an enum has on the wire: networkInterrupted. */
function word(of: Record<number, string>, value: number): string {
  const name = of[value] ?? String(value);
  return name.charAt(0).toLowerCase() + name.slice(1);
}

let made = 0; // clients, for IDs of elements that are their own

export class ClientCard {
  readonly element: HTMLElement;
  #number = ++made;
  #zim: ZIM | undefined;
  #cable = new Cable((direction, frame) => this.#frame(direction, frame));
  #rooms = new Map<string, { view: RoomView; tab: HTMLElement }>();
  #chosen: string | undefined;
  #sessionTTL = 35_000;
  #connection: State | 'reconnecting' = 'disconnected';

  readonly #title = h('h2', { id: this.#id('title') });
  readonly #state = h('span', { class: 'state', role: 'status' });
  readonly #node = h('span', { class: 'node-name' });
  readonly #switch = h('button', { type: 'button', role: 'switch', class: 'switch', 'aria-checked': 'true', onclick: () => this.setLink(this.#cable.isCut) }, 'Link');
  readonly #logout = h('button', { type: 'button', class: 'small', hidden: true, onclick: () => this.logout() }, 'Log out');
  readonly #away = h('p', { class: 'away', hidden: true });
  readonly #left = h('span', { class: 'countdown' });
  readonly #problem = h('p', { class: 'problem', role: 'alert', hidden: true });

  readonly #userID = h('input', { id: this.#id('user'), maxlength: 64, required: true, autocomplete: 'off', spellcheck: 'false' });
  readonly #deviceID = h('input', { id: this.#id('device'), maxlength: 128, autocomplete: 'off', spellcheck: 'false' });
  readonly #gateway = h('select', { id: this.#id('gateway') });
  readonly #loginForm: HTMLElement;
  readonly #work: HTMLElement; // what a client does that is logged in

  readonly #roomID = h('input', { id: this.#id('room'), value: 'lobby', maxlength: 200, required: true, autocomplete: 'off', spellcheck: 'false' });
  readonly #text = h('input', { id: this.#id('text'), autocomplete: 'off', placeholder: 'hello' });
  readonly #tabs = h('div', { class: 'tabs', role: 'group', 'aria-label': 'Rooms' });
  readonly #view = h('div');
  readonly #operation = h('select', { id: this.#id('operation') }, ...operations.map((o) => h('option', {}, o.name)));
  readonly #fields = h('div', { class: 'fields' });
  readonly #log = h('div', { class: 'events', role: 'log', tabindex: 0, 'aria-label': 'Log of the client' });
  readonly #frames = h('input', { type: 'checkbox', id: this.#id('frames') });

  constructor(userID: string, removed: (card: ClientCard) => void) {
    this.#userID.value = userID;
    this.#loginForm = h('form', { class: 'row', 'aria-label': 'Log in', onsubmit: (e) => { e.preventDefault(); void this.login().then(() => this.#roomID.focus()); } },
      this.#field('User ID', this.#userID), this.#field('Gateway', this.#gateway, 'wide'), this.#field('Device ID', this.#deviceID),
      h('button', { class: 'primary' }, 'Log in'));
    this.#work = h('div', { hidden: true },
      h('form', { class: 'row', 'aria-label': 'Room', onsubmit: (e) => { e.preventDefault(); void this.enter(this.#roomID.value); } },
        this.#field('Room ID', this.#roomID, 'wide'),
        h('button', { class: 'primary' }, 'Enter'),
        h('button', { type: 'button', onclick: () => void this.perform('leaveRoom', { [roomField]: this.#roomID.value }) }, 'Leave')),
      h('form', { class: 'row', 'aria-label': 'Message', onsubmit: (e) => { e.preventDefault(); this.#say(); } },
        this.#field('Message to the room', this.#text, 'wide'), h('button', {}, 'Send')),
      this.#tabs, this.#view,
      h('details', {}, h('summary', {}, 'All operations'),
        h('form', { class: 'operation', 'aria-label': 'Operation', onsubmit: (e) => { e.preventDefault(); this.#call(); } },
          this.#field('Operation', this.#operation), this.#fields, h('button', { class: 'primary' }, 'Call'))));
    this.element = h('section', { class: 'card client', 'aria-labelledby': this.#id('title') },
      h('div', { class: 'head' }, this.#title, this.#state, this.#node, h('span', { class: 'spring' }), this.#switch,
        this.#logout,
        h('button', { type: 'button', class: 'small', 'aria-label': 'Remove this client', onclick: () => { this.#end(); removed(this); } }, '✕')),
      this.#away, this.#problem, this.#loginForm, this.#work,
      h('div', { class: 'head log-head' }, h('h3', {}, 'Log'),
        h('span', { class: 'check' }, this.#frames, h('label', { for: this.#frames.id }, 'with the frames on the wire')),
        h('button', { type: 'button', class: 'small', onclick: () => this.#log.replaceChildren() }, 'Clear')),
      this.#log);
    this.#away.append('The link is cut. The others see nothing of it; the place in every room is kept for ', this.#left, ' more.');
    this.#userID.addEventListener('input', () => this.#name());
    this.#operation.addEventListener('change', () => this.#showFields());
    this.#frames.addEventListener('change', () => this.#log.classList.toggle('with-frames', this.#frames.checked));
    this.#name();
    this.#showFields();
    this.#connected('disconnected', '');
  }

  get userID(): string {
    return this.#userID.value.trim();
  }

  /** Whether it is logged in, or on its way. */
  get loggedIn(): boolean {
    return this.#zim !== undefined;
  }

  /** The state in a room. */
  stateIn(roomID: string): State {
    return this.#rooms.get(roomID)?.view.state ?? 'disconnected';
  }

  /** Offers gateways to choose from, the nth of them if nothing is chosen yet. */
  offer(gateways: readonly string[], n: number): void {
    const before = this.#gateway.value;
    this.#gateway.replaceChildren(...gateways.map((url) => h('option', { value: url }, new URL(url).host)));
    this.#gateway.value = before || (gateways[n % gateways.length] ?? '');
  }

  /** Logs in; by the gateway that is chosen, and by the others when it comes back. */
  async login(): Promise<void> {
    this.#zim?.destroy();
    const chosen = this.#gateway.value;
    const others = [...this.#gateway.options].map((o) => o.value).filter((url) => url !== chosen);
    const zim = new NewZIM({
      appID: 1, server: [chosen, ...others], WebSocket: this.#cable.WebSocket,
      ...(this.#deviceID.value ? { deviceID: this.#deviceID.value } : {}),
    });
    zim.setLogConfig({ logLevel: 'disable' }); // what there is to say is in the card
    this.#zim = zim;
    this.#listen(zim);
    this.#loginForm.hidden = true;
    await this.#attempt(`login ${this.userID}`, () => zim.login({ userID: this.userID, userName: '', userAvatarUrl: '', userExtendedData: '' }, ''), () => {
      this.#work.hidden = this.#logout.hidden = false;
    }, () => {
      if (this.#zim === zim) this.#over();
    });
  }

  logout(): void {
    this.#line('call', '', 'logout');
    this.#zim?.logout();
  }

  enter(roomID: string): Promise<boolean> {
    return this.perform('enterRoom', { [roomField]: roomID, roomName: '', delay: '60', attributes: '' });
  }

  say(roomID: string, text: string): Promise<boolean> {
    return this.perform('sendRoomMessage', { [roomField]: roomID, type: '1', message: text, priority: '1', extendedData: '' });
  }

  /** Carries out an operation by its name, and tells whether it was successful. */
  async perform(name: string, given: Record<string, string | boolean>): Promise<boolean> {
    const operation = operations.find((o) => o.name === name);
    const zim = this.#zim;
    if (!operation || !zim) return false;
    // The room, and what is not as it would be anyway.
    const shown = operation.fields.filter((f) => f.name === roomField || f.name === 'message' || (given[f.name] ?? '') !== (f.value ?? false) && given[f.name]);
    return this.#attempt(`${name} ${shown.map((f) => `${f.name}=${given[f.name]}`).join(' ')}`, async () => operation.run(zim, new Values(given)));
  }

  /** Cuts the link, or mends it. */
  setLink(on: boolean): void {
    this.#switch.setAttribute('aria-checked', String(on));
    this.#line('call', '', on ? 'the link is mended' : 'the link is cut');
    if (on) this.#cable.mend();
    else this.#cable.cut();
    this.#away.hidden = on || this.#connection === 'disconnected';
    countDown(this.#left, on ? undefined : Date.now() + this.#sessionTTL);
  }

  #id(part: string): string {
    return `client-${this.#number}-${part}`;
  }

  #field(text: string, input: HTMLElement, kind = ''): HTMLElement {
    return h('div', { class: `field ${kind}` }, h('label', { for: input.id }, text), input);
  }

  #name(): void {
    setText(this.#title, this.userID || 'a client');
    this.#tabs.setAttribute('aria-label', `Rooms of ${this.userID}`);
    this.#log.setAttribute('aria-label', `Log of ${this.userID}`);
    this.#switch.setAttribute('aria-label', `Link of ${this.userID}`);
  }

  #say(): void {
    const text = this.#text.value || this.#text.placeholder;
    void this.say(this.#roomID.value, text).then((done) => {
      if (done) this.#text.value = '';
    });
  }

  // The form of the operation that is chosen.
  #showFields(): void {
    const operation = operations.find((o) => o.name === this.#operation.value);
    this.#fields.replaceChildren(...(operation?.fields ?? []).map((field) => this.#input(field)));
  }

  #input(field: Field): HTMLElement {
    const id = this.#id(`field-${field.name}`);
    const value = field.name === roomField ? this.#roomID.value : String(field.value ?? '');
    if (field.kind === 'flag') {
      return h('div', { class: 'check' }, h('input', { type: 'checkbox', id, name: field.name, checked: field.value === true }), h('label', { for: id }, field.label));
    }
    let input: HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;
    if (field.kind === 'choice') {
      input = h('select', { id, name: field.name }, ...(field.choices ?? []).map(([v, name]) => h('option', { value: v }, name)));
    } else if (field.kind === 'pairs') {
      input = h('textarea', { id, name: field.name, rows: 2, spellcheck: 'false', placeholder: field.hint });
    } else {
      input = h('input', { id, name: field.name, autocomplete: 'off', spellcheck: 'false', placeholder: field.hint, inputmode: field.kind === 'number' ? 'numeric' : undefined });
    }
    input.value = value;
    return this.#field(field.label, input, field.kind === 'pairs' ? 'wide' : '');
  }

  #call(): void {
    const given: Record<string, string | boolean> = {};
    for (const input of this.#fields.querySelectorAll<HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement>('[name]')) {
      given[input.name] = input instanceof HTMLInputElement && input.type === 'checkbox' ? input.checked : input.value;
    }
    void this.perform(this.#operation.value, given);
  }

  // Does something, and logs what it was and came to.
  async #attempt(what: string, work: () => Promise<unknown>, done?: () => void, failed?: () => void): Promise<boolean> {
    this.#line('call', '', what);
    setProblem(this.#problem, '');
    try {
      const result = await work();
      this.#line('result', '', result === undefined ? 'done' : cut(JSON.stringify(result), 110));
    } catch (err) {
      const { code, message } = err as { code?: number; message?: string };
      const told = `${code === undefined ? '' : `${code}: `}${message ?? String(err)}`;
      this.#line('error', '', told);
      setProblem(this.#problem, told);
      failed?.();
      return false;
    }
    done?.();
    return true;
  }

  #listen(zim: ZIM): void {
    zim.on('connectionStateChanged', (_, e) => {
      const state = word(ZIMConnectionState, e.state) as State | 'reconnecting';
      const event = word(ZIMConnectionEvent, e.event);
      this.#line('event', '', `connection (${state}, ${event})`);
      this.#connected(state, event);
      if (state === 'disconnected' && this.#zim === zim) this.#over();
    });
    zim.on('roomStateChanged', (_, e) => {
      const state = word(ZIMRoomState, e.state) as State;
      const event = word(ZIMRoomEvent, e.event);
      this.#line('event', e.seq, `${e.roomID} (${state}, ${event})${e.extendedData ? ` ${e.extendedData}` : ''}`);
      const view = this.#room(e.roomID);
      view.changed(state, event);
      if (state === 'connecting' && event.startsWith('active')) this.#choose(e.roomID);
      if (state === 'connected' && view.entered) void this.#list(zim, view);
      this.#showTabs();
    });
    for (const [type, joined] of [['roomMemberJoined', true], ['roomMemberLeft', false]] as const) {
      zim.on(type, (_, e) => {
        const names = e.memberList.map((m) => m.userID).join(', ');
        this.#line('event', e.seq, `${e.roomID}: ${names} ${joined ? 'entered' : 'left'}${e.memberCount === undefined ? '' : ` (${e.memberCount})`}`);
        this.#room(e.roomID).moved(e.memberList, joined, e.memberCount);
      });
    }
    zim.on('roomMessageReceived', (_, e) => {
      for (const m of e.messageList) {
        const text = (m as { message?: string | Uint8Array }).message;
        this.#line('message', e.seq, `${e.fromConversationID}: ${m.senderUserID}: ${text instanceof Uint8Array ? new TextDecoder().decode(text) : text}`);
      }
    });
    for (const type of ['roomAttributesUpdated', 'roomAttributesBatchUpdated'] as const) {
      zim.on(type, (_, e) => {
        this.#line('event', e.seq, `${e.roomID}: ${type} ${JSON.stringify(e.infos)}`);
        for (const info of e.infos) this.#room(e.roomID).set(info.roomAttributes, info.action === ZIMRoomAttributesUpdateAction.Delete);
      });
    }
    for (const type of ['roomMemberAttributesUpdated', 'roomHistoryLost', 'roomModeChanged', 'tokenWillExpire', 'error'] as const) {
      zim.on(type, (_: unknown, e: object) => this.#line('event', '', `${type} ${JSON.stringify(e)}`));
    }
  }

  async #list(zim: ZIM, view: RoomView): Promise<void> {
    try {
      const got = await zim.queryRoomMemberList(view.roomID, { count: 100, nextFlag: '' });
      view.listed(got.memberList);
      if (got.nextFlag) view.counted((await zim.queryRoomOnlineMemberCount(view.roomID)).count);
    } catch {
      // Out of the room again: then there is no list.
    }
  }

  #room(roomID: string): RoomView {
    const there = this.#rooms.get(roomID);
    if (there) return there.view;
    if (this.#rooms.size >= keptRooms) {
      const old = [...this.#rooms].find(([, r]) => r.view.state === 'disconnected');
      if (old) this.#rooms.delete(old[0]);
    }
    const view = new RoomView(roomID);
    const tab = h('button', { type: 'button', onclick: () => this.#choose(roomID) });
    this.#rooms.set(roomID, { view, tab });
    if (this.#chosen === undefined) this.#choose(roomID);
    return view;
  }

  #choose(roomID: string): void {
    this.#chosen = roomID;
    this.#roomID.value = roomID;
    const view = this.#rooms.get(roomID)?.view;
    if (view && view.element.parentElement !== this.#view) this.#view.replaceChildren(view.element);
    this.#showTabs();
  }

  #showTabs(): void {
    const tabs: HTMLElement[] = [];
    for (const [roomID, { view, tab }] of this.#rooms) {
      label(tab, view, roomID === this.#chosen);
      tabs.push(tab);
    }
    if (tabs.length !== this.#tabs.childElementCount || tabs.some((tab, i) => tab !== this.#tabs.children[i])) this.#tabs.replaceChildren(...tabs);
    this.#tabs.hidden = tabs.length < 2;
  }

  #connected(state: State | 'reconnecting', event: string): void {
    this.#connection = state;
    setText(this.#state, state === 'disconnected' && event === '' ? 'not logged in' : state);
    this.#state.className = `state ${state === 'connected' ? 'good' : state === 'disconnected' ? '' : 'warn'}`;
    if (state !== 'connected') setText(this.#node, '');
    this.#away.hidden = !(this.#cable.isCut && state === 'reconnecting');
  }

  // The login is over: another may follow.
  #over(): void {
    this.#zim?.destroy();
    this.#zim = undefined;
    this.#connected('disconnected', '');
    this.#work.hidden = this.#logout.hidden = true;
    this.#loginForm.hidden = false;
  }

  #end(): void {
    this.#zim?.logout();
    this.#zim?.destroy();
    this.#zim = undefined;
  }

  #frame(direction: 'out' | 'in', frame: string): void {
    if (direction === 'in' && frame.includes('"sessionTTLMs"')) {
      const { result } = JSON.parse(frame) as { result?: { node?: string; sessionTTLMs?: number } };
      if (result?.node) setText(this.#node, `on ${result.node}`);
      this.#sessionTTL = result?.sessionTTLMs ?? this.#sessionTTL;
    }
    this.#line(`frame ${direction}`, '', frame.replace(/("token":)"[^"]*"/g, '$1"…"'));
  }

  #line(kind: string, seq: number | undefined | '', text: string): void {
    const atEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    this.#log.append(h('div', { class: `event ${kind}` },
      h('span', { class: 'seq' }, seq ? String(seq) : ''), h('time', {}, timeOfDay(Date.now())),
      h('span', { class: 'kind', 'aria-hidden': 'true' }, marks[kind] ?? ''), h('span', { class: 'text' }, cut(text, 600))));
    while (this.#log.childElementCount > keptLines) this.#log.firstElementChild?.remove();
    if (atEnd) this.#log.scrollTop = this.#log.scrollHeight;
  }
}

/** What stands before a line: a call, what it came to, what came unasked, and what was on the wire. */
const marks: Record<string, string> = {
  call: '▶', result: '✓', error: '✕', event: '•', message: '✉', 'frame out': '→', 'frame in': '←',
};
