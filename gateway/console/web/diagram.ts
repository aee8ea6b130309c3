// A client's state in a room, and the ways between states: what goes by lights up.

import { h, setText } from './dom';

export type State = 'disconnected' | 'connecting' | 'connected';

/** What an edge is labelled with: the events that are raised on this way. */
interface Edge {
  from: State;
  to: State;
  events: readonly string[];
}

/** All ways there are. A departure whose answer was lost shows as success from connecting. */
const edges: readonly Edge[] = [
  { from: 'disconnected', to: 'connecting', events: ['activeCreate', 'activeEnter', 'activeSwitch'] },
  {
    from: 'connecting', to: 'disconnected', events: [
      'createFailed', 'enterFailed', 'switchFailed', 'roomNotExist', 'connectTimeout', 'kickedOut', 'kickedOutByOtherDevice', 'networkDisconnected', 'success',
    ],
  },
  { from: 'connecting', to: 'connected', events: ['success'] },
  { from: 'connected', to: 'connecting', events: ['networkInterrupted'] },
  { from: 'connected', to: 'disconnected', events: ['success', 'roomNotExist', 'kickedOut', 'kickedOutByOtherDevice'] },
];

/** How long each step is shown before the next, in ms: two that come at once are seen both. */
const beat = 450;

/** How many steps may wait to be shown; then the oldest are not. */
const waiting = 12;

/** One client in one room. */
export class Diagram {
  readonly element: HTMLElement;
  readonly #nodes = new Map<State, HTMLElement>();
  readonly #edges = new Map<string, { element: HTMLElement; list: HTMLElement; events: Map<string, HTMLElement> }>();
  readonly #caption = h('figcaption', { class: 'unseen' });
  #steps: { state: State; event: string }[] = [];
  #shown: State = 'disconnected';
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(readonly roomID: string) {
    const parts: HTMLElement[] = [];
    for (const state of ['disconnected', 'connecting', 'connected'] as const) {
      const node = h('div', { class: `node ${state}` }, state);
      this.#nodes.set(state, node);
      parts.push(node);
    }
    for (const { from, to, events } of edges) {
      const list = h('ul', { 'aria-label': `From ${from} to ${to}` });
      const element = h('div', { class: `edge ${from}-${to}` }, h('span', { class: 'arrow' }), list);
      const made = { element, list, events: new Map<string, HTMLElement>() };
      this.#edges.set(`${from}-${to}`, made);
      for (const event of events) this.#label(made, event);
      parts.push(element);
    }
    this.element = h('figure', { class: 'diagram', 'aria-label': `State in room ${roomID}` }, ...parts, this.#caption);
    this.#mark('disconnected');
    setText(this.#caption, 'disconnected');
  }

  /** Shows that this went by, after what waits to be shown. */
  step(state: State, event: string): void {
    this.#steps.push({ state, event });
    if (this.#steps.length > waiting) this.#steps.shift();
    if (this.#timer === undefined) this.#next();
  }

  #next(): void {
    this.#timer = undefined;
    const step = this.#steps.shift();
    if (!step) return;
    this.#show(step.state, step.event);
    this.#timer = setTimeout(() => this.#next(), beat);
  }

  #show(state: State, event: string): void {
    for (const lit of this.element.querySelectorAll('.lit')) lit.classList.remove('lit');
    const edge = this.#edges.get(`${this.#shown}-${state}`);
    if (edge) {
      const label = edge.events.get(event) ?? this.#label(edge, event);
      edge.element.classList.add('lit');
      label.classList.add('lit', 'seen');
      label.dataset['times'] = String(Number(label.dataset['times'] ?? 0) + 1);
    }
    this.#mark(state);
    setText(this.#caption, `${state}, ${event}`);
  }

  #mark(state: State): void {
    this.#shown = state;
    for (const [name, node] of this.#nodes) {
      node.classList.toggle('now', name === state);
      if (name === state) node.setAttribute('aria-current', 'true');
      else node.removeAttribute('aria-current');
    }
  }

  #label(edge: { list: HTMLElement; events: Map<string, HTMLElement> }, event: string): HTMLElement {
    // Where it is narrow, a name is broken before a capital.
    const parts = event.split(/(?=[A-Z])/).flatMap((part, i) => (i === 0 ? [part] : [h('wbr'), part]));
    const label = h('li', { 'data-event': event }, ...parts);
    edge.events.set(event, label);
    edge.list.append(label);
    return label;
  }
}
