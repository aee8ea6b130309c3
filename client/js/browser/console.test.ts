import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { contrasts, createRooms, Member, nameless, tokensKey, Visit } from './pages.js';
import { type Gateway, until, World } from './world.js';

// The console, on one of two gateways that share a Redis.

let world: World;
let one: Gateway;
let two: Gateway;
let browser: Browser;

beforeAll(async () => {
  world = await World.start();
  one = await world.gateway({ flags: ['--node-name=one'] });
  two = await world.gateway({ flags: ['--node-name=two'] });
  browser = await world.browser();
});

afterAll(() => world.close());

const open = (options = {}) => Visit.to(browser, `${one.http}/console/`, options);

/** The lines of the event log, as "seq kind text". */
async function events(page: Page): Promise<string[]> {
  const lines = await page.getByRole('log').locator('.event').all();
  return Promise.all(lines.map(async (l) => `${await l.locator('.seq').textContent()} ${await l.locator('.kind').textContent()} ${await l.locator('.text').textContent()}`));
}

/** choose opens a room from the list. */
async function choose(page: Page, roomID: string): Promise<void> {
  await page.getByLabel('ID begins with').fill(roomID);
  await page.getByRole('link', { name: roomID, exact: true }).click();
  await page.getByRole('heading', { name: roomID, exact: true }).waitFor();
}

/** member is the row of a member. */
const member = (page: Page, userID: string) => page.getByRole('row').filter({ has: page.getByRole('button', { name: `Kick ${userID} out` }) });

test('the key is asked for, is not in the URL, and is forgotten', async () => {
  const closed = await world.gateway({ tokens: true, flags: ['--console'] });
  const visit = await Visit.to(browser, `${closed.http}/console/`);
  const { page } = visit;
  const urls: string[] = [];
  page.on('request', (r) => urls.push(r.url()));

  await page.getByLabel('API key').fill('not-the-key-of-this-one');
  await page.keyboard.press('Enter');
  await page.getByRole('alert').filter({ hasText: 'wrong API key' }).waitFor();
  expect(await page.getByRole('heading', { name: 'Rooms' }).isVisible()).toBe(false);

  await page.getByLabel('API key').fill(tokensKey);
  await page.getByRole('button', { name: 'Open the console' }).click();
  await page.getByText('Page 1 of').waitFor();
  await page.reload();
  await page.getByText('Page 1 of').waitFor();

  expect(await page.getByRole('link', { name: 'Playground' }).count()).toBe(0);
  expect((await fetch(`${closed.http}/console/play`)).status).toBe(404);

  await page.getByRole('button', { name: 'Forget the key' }).click();
  await page.getByLabel('API key').waitFor();
  await page.reload();
  await page.getByLabel('API key').waitFor();
  expect(await page.evaluate(() => JSON.stringify([{ ...sessionStorage }, { ...localStorage }, document.cookie]))).not.toContain(tokensKey);
  expect(urls.concat(page.url()).filter((u) => u.includes(tokensKey))).toEqual([]);
  await visit.close();
});

test('ten thousand rooms are searched and paged', async () => {
  const many = 10_000;
  const id = (n: number) => `${['chat', 'class', 'game', 'live', 'stage'][n % 5]}-${String(n).padStart(5, '0')}`;
  await createRooms(one, many, id);
  const visit = await open();
  const { page } = visit;
  await page.getByText(/^Page 1 of [\d,]+, 10,000 rooms$/).waitFor();

  // All of them, page by page, as fast as they come.
  const walked = await page.evaluate(async () => {
    const next = document.getElementById('next') as HTMLButtonElement;
    const text = document.getElementById('page')!;
    const list = document.getElementById('room-list')!;
    const all: string[][] = [];
    for (;;) {
      all.push([...list.querySelectorAll('a')].map((a) => a.textContent!));
      if (next.ariaDisabled === 'true') {
        return all;
      }
      const before = text.textContent;
      next.click();
      await new Promise<void>((resolve) => {
        const observer = new MutationObserver(() => {
          if (text.textContent !== before) {
            observer.disconnect();
            resolve();
          }
        });
        observer.observe(text, { childList: true, characterData: true, subtree: true });
      });
    }
  });
  expect(walked.flat()).toEqual(Array.from({ length: many }, (_, n) => id(n)).sort());
  expect(Math.max(...walked.map((p) => p.length))).toBeLessThanOrEqual(50);

  await page.getByRole('button', { name: 'Previous' }).first().click();
  await page.getByText(`Page ${walked.length - 1} of`).waitFor();
  expect(await page.locator('#room-list a').allTextContents()).toEqual(walked.at(-2));

  await page.getByLabel('ID begins with').fill('game-0001');
  await page.getByText('Page 1 of 1, 2 rooms').waitFor();
  expect(await page.locator('#room-list a').allTextContents()).toEqual(['game-00012', 'game-00017']);

  // Its end comes nearer, also where nothing is heard of it.
  const ends = () => page.getByRole('row', { name: /game-00012/ }).locator('td').last().textContent();
  await page.route('**/v1/**', (route) => route.abort());
  const seconds = async () => ((await ends()) ?? '').split(':').reduce((all, part) => all * 60 + Number(part), 0);
  const first = await seconds();
  expect(first).toBeGreaterThan(0);
  await until('two seconds', async () => (await seconds()) <= first - 2);
  await page.getByRole('alert').filter({ hasText: 'The rooms are not known' }).waitFor();
  await page.unroute('**/v1/**');
  await page.getByRole('alert').filter({ hasText: 'The rooms are not known' }).waitFor({ state: 'hidden' });

  await page.getByLabel('ID begins with').fill('nowhere');
  await page.getByText('No room\'s ID begins with “nowhere”.').waitFor();
  await visit.close();
}, 240_000);

test('a room is watched: members, where they are, and what happens, by its seq', async () => {
  const ana = await Member.enter(browser, one, 'ana', 'watched', 60);
  const visit = await open();
  const { page } = visit;
  await choose(page, 'watched');
  await member(page, 'ana').getByText('connected').waitFor();
  await page.getByText('live', { exact: true }).waitFor();

  const bob = await Member.enter(browser, two, 'bob', 'watched', 60);
  await bob.call('sendRoomMessage', { roomID: 'watched', message: { type: 1, message: 'hello <b>all</b>' } });
  await ana.call('setRoomAttributes', { roomID: 'watched', roomAttributes: { topic: 'news' } });
  await member(page, 'bob').getByText('two', { exact: true }).waitFor();
  await member(page, 'ana').getByText('one', { exact: true }).waitFor();
  await page.locator('dd code', { hasText: 'topic = news' }).waitFor();
  await until('the events', async () => (await events(page)).length === 4);
  expect(await events(page)).toEqual([
    '1 joined ana entered (1 member)',
    '2 joined bob entered (2 members)',
    '3 text bob hello <b>all</b>',
    '4 attributes ana set topic = "news"',
  ]);

  // What happens while it is paused comes afterwards, once and in order.
  await page.getByRole('button', { name: 'Pause' }).click();
  await page.getByText('paused', { exact: true }).waitFor();
  for (const message of ['five', 'six']) {
    await bob.call('sendRoomMessage', { roomID: 'watched', message: { type: 1, message } });
    await ana.hears('roomMessageReceived', { seq: message === 'five' ? 5 : 6 });
  }
  await bob.call('leaveRoom', { roomID: 'watched' });
  await ana.hears('roomMemberLeft', { seq: 7 });
  expect(await events(page)).toHaveLength(4);
  await page.getByRole('button', { name: 'Go on' }).click();
  await until('the events', async () => (await events(page)).length >= 7);
  expect((await events(page)).slice(4)).toEqual(['5 text bob five', '6 text bob six', '7 left bob left (1 member)']);
  await ana.goes();
  await bob.goes();
  await visit.close();
});

test('a member that is away and a room that is empty are counted down to their end', async () => {
  const ana = await Member.enter(browser, one, 'ana', 'waning', 3);
  const visit = await open();
  const { page } = visit;
  await choose(page, 'waning');
  await member(page, 'ana').getByText('connected').waitFor();
  await ana.goes();
  await member(page, 'ana').getByText(/away, out in/).waitFor();
  const left = () => member(page, 'ana').locator('.countdown').textContent();
  const first = await left();
  expect(first).toMatch(/^0:\d\d$/);
  await until('another second', async () => (await member(page, 'ana').count()) === 0 || ((await left()) ?? '') < (first ?? ''));
  await page.getByText('nobody is in this room').waitFor();
  await page.locator('.facts div', { hasText: 'Ends in' }).getByText(/^0:\d\d$/).waitFor();
  await page.getByText('There is no such room now.').waitFor();
  await until('the end', async () => (await events(page)).some((e) => e.includes('destroyed Nobody was left.')));
  expect((await events(page)).some((e) => e.includes('left ana did not come back in time'))).toBe(true);
  await visit.close();
});

test('an operator sends, kicks out, and destroys', async () => {
  const ana = await Member.enter(browser, one, 'ana', 'handled', 60);
  const bob = await Member.enter(browser, two, 'bob', 'handled', 60);
  const visit = await open();
  const { page } = visit;
  await choose(page, 'handled');

  await page.getByLabel('As user').fill('operator');
  await page.getByLabel('Message', { exact: true }).fill('five minutes left');
  await page.getByRole('button', { name: 'Send' }).click();
  const got = await bob.hears('roomMessageReceived', { fromConversationID: 'handled' });
  expect(got.messageList[0]).toMatchObject({ senderUserID: 'operator', message: 'five minutes left', type: 1 });
  await page.getByText('Sent.', { exact: true }).waitFor();

  await page.getByLabel('Type').selectOption('command'); // its bytes are those of the text
  await page.getByLabel('Priority').selectOption('high');
  await page.getByLabel('Message', { exact: true }).fill('läuten');
  await page.getByRole('button', { name: 'Send' }).click();
  await until('the command', async () => (await events(page)).some((e) => e.endsWith(`command operator ${Buffer.from('läuten').toString('base64')}`)));
  await page.getByLabel('Type').selectOption('text');

  await page.getByLabel('As user').fill('a user?/'); // no ID
  await page.getByLabel('Message', { exact: true }).fill('kept');
  await page.getByRole('button', { name: 'Send' }).click();
  await page.getByRole('alert').filter({ hasText: 'The message was not sent' }).waitFor();
  expect(await page.getByLabel('Message', { exact: true }).inputValue()).toBe('kept');

  await page.getByRole('button', { name: 'Kick bob out' }).click();
  await page.getByLabel('Reason, which they are told').fill('late again');
  await page.getByRole('button', { name: 'Kick out' }).click();
  const out = await bob.hears('roomStateChanged', { event: 'kickedOut' });
  expect(JSON.parse(out.extendedData)).toMatchObject({ room_id: 'handled', reason: 'late again' });
  await member(page, 'bob').waitFor({ state: 'detached' });
  await until('the kick in the log', async () => (await events(page)).some((e) => e.endsWith('left bob was kicked out (1 member)')));

  await page.getByRole('button', { name: 'Destroy…' }).click();
  await page.getByRole('dialog', { name: 'Destroy this room?' }).waitFor();
  await page.keyboard.press('Escape');
  expect(await one.backend('GET', '/v1/rooms/handled')).toBe(200);
  await page.getByRole('button', { name: 'Destroy…' }).click();
  await page.getByRole('button', { name: 'Cancel' }).click();
  expect(await one.backend('GET', '/v1/rooms/handled')).toBe(200);
  await page.getByRole('button', { name: 'Destroy…' }).click();
  await page.getByRole('button', { name: 'Destroy the room' }).click();
  await ana.hears('roomStateChanged', { event: 'roomNotExist' });
  await page.getByText('The room is over', { exact: true }).waitFor();
  await until('the end in the log', async () => (await events(page)).some((e) => e.includes('destroyed A backend ended the room.')));
  expect(await one.backend('GET', '/v1/rooms/handled')).toBe(404);

  // A room that is created anew under this ID is shown as well.
  await page.getByText('There is no such room now.').waitFor();
  const cleo = await Member.enter(browser, one, 'cleo', 'handled', 0);
  await page.getByText('live', { exact: true }).waitFor();
  await until('the new room in the log', async () => (await events(page)).at(-1) === '1 joined cleo entered (1 member)');
  expect(await page.getByText('There is no such room now.').isVisible()).toBe(false);
  await cleo.goes();
  await ana.goes();
  await bob.goes();
  await visit.close();
});

test('gateways and what they do are shown, and one that goes is gone', async () => {
  const third = await world.gateway({ flags: ['--node-name=third'] });
  const ana = await Member.enter(browser, third, 'ana', 'counted', 0);
  const visit = await open();
  const { page } = visit;
  await page.getByRole('row', { name: /^third/ }).getByText('serving').waitFor();
  await page.getByRole('img', { name: /^Connections of third: now 1,/ }).waitFor();
  await page.getByRole('img', { name: /^Connections: now [1-9]/ }).waitFor();
  await page.getByRole('img', { name: /^Rooms: now [1-9]/ }).waitFor();
  await third.process.end('SIGKILL');
  await page.getByRole('row', { name: /^third/ }).waitFor({ state: 'detached' });
  await ana.goes();
  await visit.close();
});

test('what a room is called cannot become markup', async () => {
  const roomID = '<b>bold';
  expect(await one.backend('POST', '/v1/rooms', { roomID, roomName: '<img src=x onerror=alert(1)>' })).toBe(201);
  const visit = await open();
  const { page } = visit;
  await choose(page, roomID);
  await one.backend('POST', `/v1/rooms/${encodeURIComponent(roomID)}/messages`, { senderUserID: 'x', type: 1, message: '<script>alert(1)</script>' });
  await until('the message', async () => (await events(page)).some((e) => e.endsWith('text x <script>alert(1)</script>')));
  expect(await page.locator('main b:text-is("bold"), main img, main script').count()).toBe(0);
  await page.reload(); // the URL has the room in it
  await page.getByRole('heading', { name: roomID, exact: true }).waitFor();
  await visit.close();
});

test.each([
  ['light', 1280],
  ['dark', 1280],
  ['light', 390],
  ['dark', 390],
] as const)('it can be read and named: %s, %i pixels wide', async (colorScheme, width) => {
  const ana = await Member.enter(browser, one, 'ana', 'read', 60);
  const visit = await open({ colorScheme, viewport: { width, height: 844 } });
  const { page } = visit;
  await page.getByText('Page 1 of').waitFor();
  expect(await contrasts(page)).toEqual([]);
  expect(await nameless(page)).toEqual([]);
  await choose(page, 'read');
  await member(page, 'ana').waitFor();
  expect(await contrasts(page)).toEqual([]);
  expect(await nameless(page)).toEqual([]);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  expect(wide, 'nothing is wider than the screen').toBeLessThanOrEqual(0);
  await page.getByRole('button', { name: 'Destroy…' }).click();
  expect(await contrasts(page)).toEqual([]);
  await ana.goes();
  await visit.close();
});
