// The list of rooms: searched, and a page at a time.

import type { API, Room, RoomPage } from './api';
import { reason } from './api';
import { countDown } from './clock';
import { List, byID, h, setProblem, setText } from './dom';
import { count, many } from './format';
import { Pager } from './pager';
import { poll } from './poll';
import { linkTo } from './route';

const pageSize = 25;

/** How often the page that is shown is asked for again, in ms. */
const every = 3000;

/** How long the person has stopped typing when a search begins, in ms. */
const pause = 200;

/** Shows the rooms until the signal ends it. The returned function shows which one is chosen. */
export function showRooms(api: API, signal: AbortSignal, failed: (err: unknown) => void): (chosen: string | undefined) => void {
  const section = byID('rooms');
  const problem = section.querySelector<HTMLElement>('[data-problem]')!;
  const search = byID<HTMLInputElement>('search');
  const page = byID('page');
  const none = byID('no-rooms');

  let searched = '';
  let chosen: string | undefined;
  const rows = new List<Room>(byID('room-list'), (r) => `${r.roomID}\n${r.epoch}`, (first) => roomRow(first, () => chosen));

  const refresh = poll(every, signal, async () => {
    const flag = pager.flag;
    const prefix = searched;
    let got: RoomPage;
    try {
      got = await api.rooms(prefix, flag, pageSize);
    } catch (err) {
      if (!signal.aborted) {
        setProblem(problem, `The rooms are not known: ${reason(err)}`);
        failed(err);
      }
      return;
    }
    if (signal.aborted || flag !== pager.flag || prefix !== searched) return; // the person has gone on
    setProblem(problem, '');
    pager.got(got.nextFlag);
    rows.show(got.roomList);
    setText(page, `Page ${count(pager.number)} of ${count(pager.pages(got.roomCount, pageSize))}, ${many(got.roomCount, 'room')}`);
    none.hidden = got.roomList.length > 0;
    setText(none, prefix ? `No room's ID begins with “${prefix}”.` : pager.number > 1 ? 'No more rooms.' : 'There are no rooms.');
  });

  const pager = new Pager(byID('previous'), byID('next'), signal, refresh);

  let timer: ReturnType<typeof setTimeout> | undefined;
  const begin = (): void => {
    clearTimeout(timer);
    if (search.value === searched) return;
    searched = search.value;
    pager.first();
  };
  search.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(begin, pause);
  }, { signal });
  byID('search-form').addEventListener('submit', (event) => {
    event.preventDefault();
    begin();
  }, { signal });

  return (roomID) => {
    chosen = roomID;
    for (const link of section.querySelectorAll('tbody a')) {
      link.closest('tr')?.classList.toggle('chosen', link.getAttribute('href') === (roomID === undefined ? '' : linkTo(roomID)));
    }
  };
}

function roomRow(first: Room, chosen: () => string | undefined): { element: HTMLElement; update(r: Room): void } {
  const members = h('td', { class: 'number' });
  const seq = h('td', { class: 'number' });
  const ends = h('td', { class: 'number' });
  const element = h('tr', { class: chosen() === first.roomID ? 'chosen' : '' },
    h('th', { scope: 'row' }, h('a', { href: linkTo(first.roomID) }, first.roomID), ' ', h('small', {}, first.roomName)),
    members, seq, ends);
  return {
    element,
    update(r) {
      setText(members, count(r.memberCount));
      setText(seq, count(r.seq));
      countDown(ends, r.deadline);
    },
  };
}
