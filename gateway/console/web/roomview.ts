// What one client knows of one room: its state, who is in it, its attributes.

import { Diagram, type State } from './diagram';
import { h, setText } from './dom';
import { count } from './format';

interface User { userID: string }

/** Entries, or departures. */
interface Move { members: User[]; joined: boolean; count: number | undefined; seq: number | undefined }

/** How many members are named; above that there is only their number. */
const named = 30;

/** How many moves are kept for a list that is on its way. */
const keptMoves = 500;

export class RoomView {
  readonly element: HTMLElement;
  readonly diagram: Diagram;
  state: State = 'disconnected';
  /** The way into the state was an entry, and not a way back to a room one is in. */
  entered = false;
  #members = new Map<string, User>();
  #count = 0;
  #since: Move[] | undefined; // the entry, while the list of that time is on its way
  #attributes = new Map<string, string>();
  readonly #people = h('p', { class: 'known' });
  readonly #data = h('p', { class: 'known' });

  constructor(readonly roomID: string) {
    this.diagram = new Diagram(roomID);
    this.element = h('div', { class: 'room-view' }, this.diagram.element, this.#people, this.#data);
    this.#render();
  }

  /** Takes a change of state. */
  changed(state: State, event: string): void {
    if (state === 'connecting') {
      this.entered = event !== 'networkInterrupted';
      if (this.entered) {
        this.#attributes.clear(); // they come with the entry
        this.#since = [];
      }
    }
    this.state = state;
    this.diagram.step(state, event);
    if (state === 'disconnected') {
      this.#members.clear();
      this.#count = 0;
      this.#since = undefined;
      this.#attributes.clear();
    }
    this.#render();
  }

  /** Takes a list of the members as of a position; what moved after it moves them on. */
  listed(members: User[], all: number, seq: number): void {
    const later = (this.#since ?? []).filter((move) => move.seq === undefined || move.seq > seq);
    if (this.state !== 'connected') return;
    this.#since = undefined;
    this.#members = new Map(members.map((m) => [m.userID, m]));
    this.#count = all;
    for (const move of later) this.#move(move);
    this.#render();
  }

  /** Takes entries, or departures. */
  moved(members: User[], joined: boolean, count: number | undefined, seq: number | undefined): void {
    const move = { members, joined, count, seq };
    if (this.#since && this.#since.length < keptMoves) this.#since.push(move);
    this.#move(move);
    this.#render();
  }

  #move({ members, joined, count }: Move): void {
    for (const m of members) {
      if (joined) this.#members.set(m.userID, m);
      else this.#members.delete(m.userID);
    }
    this.#count = count ?? this.#members.size;
  }

  /** Takes changes of attributes; deleted ones are "". */
  set(attributes: Record<string, string>, deleted: boolean): void {
    for (const [key, value] of Object.entries(attributes)) {
      if (deleted) this.#attributes.delete(key);
      else this.#attributes.set(key, value);
    }
    this.#render();
  }

  #render(): void {
    const names = [...this.#members.keys()];
    const more = this.#count - Math.min(names.length, named);
    this.#people.replaceChildren(
      h('span', {}, this.#count === 0 ? 'Not in this room' : `In the room (${count(this.#count)}):`),
      ...names.slice(0, named).map((name) => h('b', {}, name)), more > 0 && names.length > 0 ? ` and ${count(more)} more` : '');
    this.#data.hidden = this.#attributes.size === 0;
    this.#data.replaceChildren(h('span', {}, 'Attributes:'), ...[...this.#attributes].map(([key, value]) => h('code', {}, `${key} = ${value}`)));
  }
}

/** Sets what a button that stands for a room says. */
export function label(button: HTMLElement, view: RoomView, chosen: boolean): void {
  setText(button, view.roomID);
  button.className = `room-tab ${view.state}`;
  button.setAttribute('aria-pressed', String(chosen));
  button.setAttribute('aria-label', `Room ${view.roomID}, ${view.state}`);
}
