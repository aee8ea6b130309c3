// What one client knows of one room: its state, who is in it, its attributes.

import { Diagram, type State } from './diagram';
import { h, setText } from './dom';
import { count } from './format';

interface User { userID: string }

/** How many members are named; above that there is only their number. */
const named = 30;

export class RoomView {
  readonly element: HTMLElement;
  readonly diagram: Diagram;
  state: State = 'disconnected';
  /** The way into the state was an entry, and not a way back to a room one is in. */
  entered = false;
  #members = new Map<string, User>();
  #count = 0;
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
      }
    }
    this.state = state;
    this.diagram.step(state, event);
    if (state === 'disconnected') {
      this.#members.clear();
      this.#count = 0;
      this.#attributes.clear();
    }
    this.#render();
  }

  /** Takes a list of the members, which is never older than what was told before it. */
  listed(members: User[]): void {
    if (this.state !== 'connected') return;
    this.#members = new Map(members.map((m) => [m.userID, m]));
    this.counted(members.length);
  }

  /** Takes how many there are, listed or not. */
  counted(all: number): void {
    this.#count = all;
    this.#render();
  }

  /** Takes entries, or departures. */
  moved(members: User[], joined: boolean, count: number | undefined): void {
    for (const m of members) {
      if (joined) this.#members.set(m.userID, m);
      else this.#members.delete(m.userID);
    }
    this.counted(count ?? this.#members.size);
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
