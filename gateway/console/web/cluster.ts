// The gateways of the deployment, with charts of what they do.

import type { API, Cluster, Gateway } from './api';
import { reason } from './api';
import { Chart } from './chart';
import { serverNow } from './clock';
import { List, byID, h, setProblem, setText } from './dom';
import { count, duration, rate, roughly } from './format';
import { poll } from './poll';

/** How often the gateways are asked about, in ms: about as often as they say something new. */
const every = 2000;

const names = new Map<string, string>(); // of the gateways there are, by node

let longestLease = 0; // that was seen, in ms: about what a fresh one has

/** What people call the gateway that the API calls node. */
export function nameOf(node: string): string {
  return names.get(node) ?? node;
}

/** A number over all gateways, large, with its chart. */
class Tile {
  readonly #value = h('strong');
  readonly #chart: Chart;

  constructor(parent: HTMLElement, name: string, readonly format: (n: number) => string) {
    this.#chart = new Chart(name, format);
    parent.append(h('div', { class: 'card tile' }, h('span', {}, name), this.#value, this.#chart.element));
  }

  add(value: number): void {
    setText(this.#value, this.format(value));
    this.#chart.add(value);
  }
}

/** Shows the gateways until the signal ends it. failed hears what goes wrong. */
export function showCluster(api: API, signal: AbortSignal, failed: (err: unknown) => void): void {
  const problem = byID('console').querySelector<HTMLElement>('[data-problem]')!;
  const parent = byID('tiles');
  parent.replaceChildren();
  const tiles = {
    rooms: new Tile(parent, 'Rooms', count),
    connections: new Tile(parent, 'Connections', count),
    messages: new Tile(parent, 'Messages per second', rate),
    deliveries: new Tile(parent, 'Deliveries per second', rate),
  };
  const rows = new List<Gateway>(byID('gateways'), (g) => g.node, gatewayRow);
  poll(every, signal, async () => {
    let cluster: Cluster;
    try {
      cluster = await api.cluster();
    } catch (err) {
      if (!signal.aborted) {
        setProblem(problem, `What the gateways do is not known: ${reason(err)}`);
        failed(err);
      }
      return;
    }
    if (signal.aborted) return;
    setProblem(problem, '');
    names.clear();
    for (const g of cluster.gateways) names.set(g.node, g.name ?? g.node);
    const sum = (of: (g: Gateway) => number | undefined) => cluster.gateways.reduce((all, g) => all + (of(g) ?? 0), 0);
    tiles.rooms.add(cluster.roomCount);
    tiles.connections.add(sum((g) => g.connections));
    tiles.messages.add(sum((g) => g.messagesPerSecond));
    tiles.deliveries.add(sum((g) => g.deliveriesPerSecond));
    rows.show(cluster.gateways.toSorted((a, b) => (a.name ?? '').localeCompare(b.name ?? '') || a.node.localeCompare(b.node)));
  });
}

function gatewayRow(first: Gateway): { element: HTMLElement; update(g: Gateway): void } {
  const name = first.name ?? first.node;
  const state = h('td');
  const lease = h('td', { class: 'number' });
  const connections = h('span');
  const messages = h('span');
  const sessions = h('td', { class: 'number' });
  const rooms = h('td', { class: 'number' });
  const uptime = h('td', { class: 'number' });
  const version = h('td');
  const connectionsChart = new Chart(`Connections of ${name}`, count);
  const messagesChart = new Chart(`Messages per second of ${name}`, rate);
  const element = h('tr', {},
    h('th', { scope: 'row' }, name, ' ', h('small', {}, first.node)), state, lease,
    h('td', { class: 'number' }, h('span', { class: 'beside' }, connectionsChart.element, connections)),
    h('td', { class: 'number' }, h('span', { class: 'beside' }, messagesChart.element, messages)),
    sessions, rooms, uptime, version);
  return {
    element,
    update(g) {
      // A lease is renewed each quarter of it: one that runs out is a gateway that says nothing.
      longestLease = Math.max(longestLease, g.leaseLeftMs);
      const late = g.leaseLeftMs < longestLease * 0.4;
      setText(state, g.draining ? 'draining' : late ? 'silent' : 'serving');
      state.className = g.draining ? 'state warn' : late ? 'state bad' : 'state good';
      setText(lease, duration(g.leaseLeftMs));
      setText(connections, known(g.connections, count));
      setText(messages, known(g.messagesPerSecond, rate));
      setText(sessions, known(g.sessions, count));
      setText(rooms, known(g.rooms, count));
      setText(uptime, known(g.since, (since) => roughly(serverNow() - since)));
      setText(version, g.version ?? '–');
      connectionsChart.add(g.connections ?? 0);
      messagesChart.add(g.messagesPerSecond ?? 0);
    },
  };
}

function known(value: number | undefined, format: (n: number) => string): string {
  return value === undefined ? '–' : format(value);
}
