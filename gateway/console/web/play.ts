// The playground: clients side by side.

import { ClientCard } from './client';
import { startClock } from './clock';
import { byID, setProblem, setText } from './dom';
import { settings } from './settings';
import { tell } from './story';
import { startTheme } from './theme';

const names = ['ana', 'bob', 'cleo', 'dan', 'eve', 'finn', 'gus', 'hana'];

/** How many clients a page has at most, and how many gateways it knows. */
const maxClients = 8;
const maxGateways = 20;

const cards: ClientCard[] = [];
const gateways = [location.origin];
let numbered = 0;

/** A gateway's address as a person writes it, as a URL; undefined if it is none. */
function address(given: string): string | undefined {
  const text = given.trim();
  const url = /^\w+:\/\//.test(text) ? text : `${location.protocol}//${text}`;
  if (!URL.canParse(url)) return undefined;
  const { protocol, host } = new URL(url);
  if (!['http:', 'https:', 'ws:', 'wss:'].includes(protocol) || !/^[\w.:[\]-]+$/.test(host)) return undefined;
  return `${protocol.replace('ws', 'http')}//${host}`;
}

function offer(): void {
  cards.forEach((card, i) => card.offer(gateways, i));
}

/** Adds a gateway, and says what is wrong if it cannot be. */
function addGateway(given: string): string {
  const url = address(given);
  if (!url) return `“${given}” is not an address like localhost:8081`;
  if (gateways.includes(url)) return `${new URL(url).host} is there already`;
  if (gateways.length >= maxGateways) return `There are ${maxGateways} gateways, which is the limit.`;
  gateways.push(url);
  return '';
}

function addClient(): ClientCard {
  const card = new ClientCard(names[numbered] ?? `user${numbered + 1}`, (gone) => {
    cards.splice(cards.indexOf(gone), 1);
    gone.element.remove();
    update();
    byID('add-client').focus();
  });
  numbered++;
  cards.push(card);
  byID('clients').append(card.element);
  update();
  return card;
}

function update(): void {
  offer();
  byID<HTMLButtonElement>('add-client').disabled = cards.length >= maxClients;
}

function startStory(): void {
  const button = byID('story-button');
  const caption = byID('story');
  let running: AbortController | undefined;
  button.addEventListener('click', () => {
    if (running) {
      running.abort();
      return;
    }
    while (cards.length < 2) addClient();
    const [ana, bob] = cards as [ClientCard, ClientCard];
    const controller = new AbortController();
    running = controller;
    setText(button, 'Stop');
    tell(ana, bob, (text) => {
      caption.hidden = text === '';
      setText(caption, text);
    }, controller.signal).finally(() => {
      running = undefined;
      setText(button, 'Show me');
    });
  });
}

async function start(): Promise<void> {
  startTheme();
  startClock();
  // ?gateway=localhost:8081 names further gateways; a link to the page can have them in it.
  for (const given of new URLSearchParams(location.search).getAll('gateway')) addGateway(given);
  addClient();
  addClient();
  startStory();
  byID('add-client').addEventListener('click', () => addClient());
  byID('add-gateway').addEventListener('submit', (event) => {
    event.preventDefault();
    const input = byID<HTMLInputElement>('gateway');
    const problem = addGateway(input.value);
    setProblem(byID('gateway-problem'), problem);
    if (problem) return;
    input.value = '';
    const query = new URLSearchParams(gateways.slice(1).map((url) => ['gateway', new URL(url).host]));
    history.replaceState(null, '', `?${query}`);
    offer();
  });
  const told = await settings();
  setText(byID('status'), `${told.node} · ${told.version}`);
}

start().catch((err: unknown) => setText(byID('status'), `This page cannot be shown: ${err instanceof Error ? err.message : String(err)}`));
