// The console: which part is shown, and with which key.

import { API, Failure } from './api';
import { startClock } from './clock';
import { showCluster } from './cluster';
import { byID, setProblem, setText } from './dom';
import { showRoom } from './room';
import { showRooms } from './rooms';
import { routed } from './route';
import { settings } from './settings';
import { startTheme } from './theme';

/** Where the key is kept: in this tab, until it is closed. */
const keptKey = 'roomgate-api-key';

let shown: AbortController | undefined; // what the signed-in part runs under

function signIn(problem = ''): void {
  shown?.abort();
  shown = undefined;
  sessionStorage.removeItem(keptKey);
  byID('console').hidden = true;
  byID('forget').hidden = true;
  byID('sign-in').hidden = false;
  setProblem(byID('key-problem'), problem);
  byID('key').focus();
}

function open(key: string): void {
  shown?.abort();
  const running = new AbortController();
  shown = running;
  sessionStorage.setItem(keptKey, key);
  byID('sign-in').hidden = true;
  byID('console').hidden = false;
  byID('forget').hidden = false;

  const api = new API(key);
  const failed = (err: unknown): void => {
    if (err instanceof Failure && err.status === 401) signIn(err.message);
  };
  showCluster(api, running.signal, failed);
  const choose = showRooms(api, running.signal, failed);

  let room: AbortController | undefined;
  const route = (): void => {
    room?.abort();
    const roomID = routed();
    choose(roomID);
    byID('columns').classList.toggle('with-room', roomID !== undefined);
    setText(document.querySelector('title')!, roomID === undefined ? 'Roomgate console' : `${roomID} – Roomgate console`);
    byID('room').replaceChildren();
    if (roomID === undefined) return;
    room = new AbortController();
    showRoom(api, roomID, AbortSignal.any([room.signal, running.signal]));
  };
  addEventListener('hashchange', () => {
    route();
    // Those who follow the page by ear or keyboard go on in what they chose.
    if (routed() !== undefined) byID('room').focus();
  }, { signal: running.signal });
  route();
}

async function start(): Promise<void> {
  startTheme();
  startClock();
  byID('sign-in').querySelector('form')!.addEventListener('submit', (event) => {
    event.preventDefault();
    const input = byID<HTMLInputElement>('key');
    const key = input.value.trim();
    input.value = '';
    if (key) open(key);
  });
  byID('forget').addEventListener('click', () => signIn());

  const told = await settings();
  setText(byID('status'), `${told.node} · ${told.version}`);
  for (const link of document.querySelectorAll<HTMLElement>('[data-playground]')) link.hidden = !told.playground;
  const key = sessionStorage.getItem(keptKey) ?? told.apiKey;
  if (key) open(key);
  else signIn();
}

start().catch((err: unknown) => setText(byID('status'), `This page cannot be shown: ${err instanceof Error ? err.message : String(err)}`));
