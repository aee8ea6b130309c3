import type { Browser, Locator, Page } from 'playwright-core';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { contrasts, nameless, tabTo, Visit } from './pages.js';
import { type Gateway, until, World } from './world.js';

// The playground, on one of two gateways that share a Redis, with clients on both.

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

const open = (options = {}) => Visit.to(browser, `${one.http}/console/play?gateway=127.0.0.1:${two.port}`, options);

/** A Card is one client of the page. */
class Card {
  readonly element: Locator;

  constructor(page: Page, readonly userID: string) {
    this.element = page.getByRole('region', { name: userID, exact: true });
  }

  async login(): Promise<void> {
    await this.element.getByRole('button', { name: 'Log in' }).click();
    await this.element.getByText('connected', { exact: true }).first().waitFor();
    await this.element.getByLabel('Room ID', { exact: true }).first().waitFor();
  }

  async enter(roomID: string): Promise<void> {
    await this.element.getByLabel('Room ID', { exact: true }).first().fill(roomID);
    await this.element.getByRole('button', { name: 'Enter', exact: true }).click();
  }

  async say(text: string): Promise<void> {
    await this.element.getByLabel('Message to the room').fill(text);
    await this.element.getByRole('button', { name: 'Send', exact: true }).click();
    await until(`${text} to be sent`, async () => (await this.lines()).some((l) => l.startsWith('✓') && l.includes(text)));
  }

  /** perform carries out an operation by its form; with are values of its fields by their labels. */
  async perform(operation: string, values: Record<string, string> = {}): Promise<void> {
    const details = this.element.locator('details');
    if ((await details.getAttribute('open')) === null) {
      await details.locator('summary').click();
    }
    const form = this.element.getByRole('form', { name: 'Operation' });
    await form.getByLabel('Operation', { exact: true }).selectOption(operation);
    for (const [label, value] of Object.entries(values)) {
      await form.getByLabel(label, { exact: true }).fill(value);
    }
    await form.getByRole('button', { name: 'Call' }).click();
  }

  async link(): Promise<void> {
    await this.element.getByRole('switch', { name: `Link of ${this.userID}` }).click();
  }

  /** lines are what the log shows, as "mark text". */
  lines(): Promise<string[]> {
    return this.element
      .getByRole('log')
      .locator('.event:not(.frame)')
      .evaluateAll((all) => all.map((l) => `${l.querySelector('.kind')!.textContent} ${l.querySelector('.text')!.textContent}`));
  }

  async shows(line: string): Promise<void> {
    await until(`${this.userID} to show ${line}`, async () => (await this.lines()).includes(line));
  }

  /** passed waits until a way of the diagram has been gone so often. */
  async passed(from: string, to: string, event: string, times = 1): Promise<void> {
    await this.element.locator(`.edge.${from}-${to} li[data-event="${event}"][data-times="${times}"]`).waitFor();
  }

  /** at waits until the diagram has come to a state. */
  async at(state: string): Promise<void> {
    await this.element.locator('.node[aria-current="true"]', { hasText: state }).filter({ visible: true }).waitFor();
    await until(`the diagram to show ${state}`, async () => (await this.element.locator('.node.now').textContent()) === state);
  }

  /** people are those in the room that is shown. */
  async people(...want: string[]): Promise<void> {
    await until(`${this.userID} to see ${want}`, async () => {
      const got = await this.element.locator('.known').first().locator('b').allTextContents();
      return JSON.stringify(got.sort()) === JSON.stringify([...want].sort());
    });
  }
}

test('two clients meet in a room, each on its gateway', async () => {
  const visit = await open();
  const [ana, bob] = [new Card(visit.page, 'ana'), new Card(visit.page, 'bob')];
  await ana.login();
  await bob.login();
  await ana.element.getByText('on one', { exact: true }).waitFor();
  await bob.element.getByText('on two', { exact: true }).waitFor();

  await ana.enter('meeting');
  await ana.people('ana');
  await bob.enter('meeting');
  await ana.people('ana', 'bob');
  await bob.people('ana', 'bob');
  await ana.say('hello bob');
  await bob.shows('✉ meeting: ana: hello bob');
  await bob.perform('setRoomAttributes', { Attributes: 'topic = news\nseat = 1' });
  await ana.element.locator('.known code', { hasText: 'topic = news' }).waitFor();
  await bob.element.getByRole('button', { name: 'Leave', exact: true }).click();
  await ana.shows('• meeting: bob left (1)');
  await ana.people('ana');
  await bob.element.getByText('Not in this room').waitFor();

  // Another client of the same user takes the place, and the first is told.
  await visit.page.getByRole('button', { name: 'Add a client' }).click();
  const third = new Card(visit.page, 'cleo');
  await third.element.getByLabel('User ID').fill('ana');
  const again = new Card(visit.page, 'ana');
  await again.element.nth(1).getByRole('button', { name: 'Log in' }).click();
  await again.element.nth(1).getByLabel('Room ID', { exact: true }).first().fill('meeting');
  await again.element.nth(1).getByRole('button', { name: 'Enter', exact: true }).click();
  await again.element.nth(0).getByText('meeting (disconnected, kickedOutByOtherDevice)').waitFor();
  await visit.close();
});

test('a list of members that comes late takes nothing back', async () => {
  const visit = await open();
  const { page } = visit;
  const held: (() => void)[] = [];
  let holding = true;
  await page.routeWebSocket(/\/v1\/ws$/, (near) => {
    const far = near.connectToServer();
    far.onMessage((frame) => {
      if (holding && frame.includes('"nextFlag"')) {
        held.push(() => near.send(frame));
      } else {
        near.send(frame);
      }
    });
  });
  await page.reload();
  const [ana, bob] = [new Card(page, 'ana'), new Card(page, 'bob')];
  await ana.login();
  await bob.login();
  await ana.enter('late');
  await until('the list to be on its way', () => held.length === 1);
  await bob.enter('late');
  await ana.shows('• late: bob entered (2)');
  await until('the other list', () => held.length === 2);
  holding = false;
  held.forEach((release) => release());
  await ana.people('ana', 'bob');
  await bob.people('ana', 'bob');
  await visit.close();
});

test('the diagram lights up as states and events go by', async () => {
  const visit = await open();
  const { page } = visit;
  const ana = new Card(page, 'ana');
  await ana.login();

  await ana.enter('shown');
  await ana.passed('disconnected', 'connecting', 'activeEnter');
  await ana.passed('connecting', 'connected', 'success');
  await ana.at('connected');
  expect(await ana.element.locator('.edge.lit li.lit').textContent()).toContain('success');
  expect(await ana.element.locator('.lit').count()).toBe(2); // the last way, and its event
  await ana.element.getByRole('figure', { name: 'State in room shown' }).waitFor();

  expect(await one.backend('POST', '/v1/rooms/shown/kick', { userID: 'ana' })).toBe(200);
  await ana.passed('connected', 'disconnected', 'kickedOut');
  await ana.at('disconnected');

  await ana.perform('createRoom');
  await ana.passed('disconnected', 'connecting', 'activeCreate');
  await ana.passed('connecting', 'disconnected', 'createFailed'); // it exists for a minute more

  await ana.perform('joinRoom', { 'Room ID': 'nowhere' });
  await ana.passed('connecting', 'disconnected', 'roomNotExist');
  await ana.element.getByRole('alert').filter({ hasText: '6000322' }).waitFor();

  await ana.element.getByRole('button', { name: 'Room shown, disconnected' }).click(); // its tab
  await ana.enter('shown');
  await ana.passed('connecting', 'connected', 'success', 2);
  await ana.perform('switchRoom', { 'To room ID': 'stage' });
  await ana.passed('disconnected', 'connecting', 'activeSwitch');
  await ana.at('connected');
  await ana.element.getByRole('button', { name: 'Room shown, disconnected' }).click();
  await ana.passed('connected', 'disconnected', 'success');

  await ana.element.getByRole('button', { name: 'Room stage, connected' }).click();
  await ana.link();
  await ana.passed('connected', 'connecting', 'networkInterrupted');
  await ana.at('connecting');
  await ana.link();
  await ana.passed('connecting', 'connected', 'success', 2);

  expect(await one.backend('DELETE', '/v1/rooms/stage')).toBe(200);
  await ana.passed('connected', 'disconnected', 'roomNotExist');
  await visit.close();
});

test('a cut link: nobody sees it, and what was missed comes, once and in order', async () => {
  const visit = await open();
  const [ana, bob] = [new Card(visit.page, 'ana'), new Card(visit.page, 'bob')];
  await ana.login();
  await bob.login();
  await ana.enter('cutting');
  await ana.people('ana');
  await bob.enter('cutting');
  await ana.people('ana', 'bob');

  await bob.link();
  await bob.shows('• connection (reconnecting, loginInterrupted)');
  await bob.element.getByText('The link is cut.').waitFor();
  for (const text of ['one', 'two', 'three']) {
    await ana.say(text);
  }
  expect((await bob.lines()).filter((l) => l.startsWith('✉'))).toEqual([]);
  await bob.link();
  await bob.shows('✉ cutting: ana: three');
  expect((await bob.lines()).filter((l) => l.startsWith('✉'))).toEqual(['✉ cutting: ana: one', '✉ cutting: ana: two', '✉ cutting: ana: three']);
  expect(await bob.element.getByText('The link is cut.').isVisible()).toBe(false);
  expect((await ana.lines()).filter((l) => l.includes('left'))).toEqual([]);

  // For longer than the time to come back.
  await bob.link();
  await ana.shows('• cutting: bob left (1)');
  await bob.link();
  await bob.shows('• cutting (disconnected, connectTimeout)');
  await bob.passed('connecting', 'disconnected', 'connectTimeout');
  await ana.people('ana');
  await visit.close();
});

test('a client whose gateway dies goes on over the other one', async () => {
  const third = await world.gateway({ flags: ['--node-name=third'] });
  const visit = await open();
  const { page } = visit;
  await page.getByLabel('Another gateway').fill(`127.0.0.1:${third.port}`);
  await page.getByRole('button', { name: 'Add the gateway' }).click();
  await page.getByLabel('Another gateway').fill('no address');
  await page.getByRole('button', { name: 'Add the gateway' }).click();
  await page.getByRole('alert').filter({ hasText: 'is not an address' }).waitFor();
  const ana = new Card(page, 'ana');
  await ana.element.getByLabel('Gateway').selectOption(`127.0.0.1:${third.port}`);
  await ana.login();
  await ana.element.getByText('on third', { exact: true }).waitFor();
  await ana.enter('surviving');
  await ana.people('ana');
  await third.process.end('SIGKILL');
  await ana.shows('• surviving (connecting, networkInterrupted)');
  await ana.passed('connecting', 'connected', 'success', 2);
  await ana.element.getByText(/^on (one|two)$/).waitFor();
  await visit.close();
});

test('every operation can be called, and shows what came of it', async () => {
  const visit = await open();
  const { page } = visit;
  const ana = new Card(page, 'ana');
  await ana.login();
  await ana.enter('trial');
  await ana.people('ana');
  await ana.element.locator('summary').click();
  const names = await ana.element.getByLabel('Operation', { exact: true }).locator('option').allTextContents();
  expect(names).toEqual(expect.arrayContaining(['createRoom', 'joinRoom', 'enterRoom', 'switchRoom', 'leaveRoom', 'leaveAllRoom', 'sendRoomMessage',
    'queryRoomMemberList', 'queryRoomMembers', 'queryRoomOnlineMemberCount', 'setRoomAttributes', 'deleteRoomAttributes',
    'beginRoomAttributesBatchOperation', 'endRoomAttributesBatchOperation', 'queryRoomAllAttributes', 'setRoomMembersAttributes',
    'queryRoomMembersAttributes', 'queryRoomMemberAttributesList', 'renewToken']));
  const leaving = ['switchRoom', 'leaveRoom', 'leaveAllRoom'];
  const outcome = async (name: string, want: RegExp) => {
    const before = (await ana.lines()).length;
    await ana.perform(name);
    await until(`what ${name} came to`, async () => (await ana.lines()).slice(before).some((l) => /^[✓✕]/.test(l)));
    const told = (await ana.lines()).slice(before).find((l) => /^[✓✕]/.test(l)) ?? '';
    expect(told, name).toMatch(want);
  };
  const refused: Record<string, RegExp> = { createRoom: /^✕ 6000323/, endRoomAttributesBatchOperation: /^✕ 6000001: operations has 0/ };
  for (const name of names.filter((n) => !leaving.includes(n))) {
    await outcome(name, refused[name] ?? /^✓/);
  }
  await ana.perform('beginRoomAttributesBatchOperation');
  await ana.perform('setRoomAttributes', { Attributes: 'batched = yes' });
  await outcome('endRoomAttributesBatchOperation', /^✓/);
  await ana.element.locator('.known code', { hasText: 'batched = yes' }).waitFor();
  for (const [type, text] of [['command', 'at ease'], ['barrage', 'whoosh'], ['custom', '{}']] as const) {
    const form = ana.element.getByRole('form', { name: 'Operation' });
    await form.getByLabel('Operation', { exact: true }).selectOption('sendRoomMessage');
    await form.getByLabel('Type', { exact: true }).selectOption(type);
    await form.getByLabel('Message', { exact: true }).fill(text);
    const before = (await ana.lines()).length;
    await form.getByRole('button', { name: 'Call' }).click();
    await until(type, async () => (await ana.lines()).slice(before).some((l) => l.startsWith('✓')));
  }
  await outcome('switchRoom', /^✓/);
  await outcome('leaveAllRoom', /^✓ \{"roomIDs":\["stage"\]\}/);
  await outcome('leaveRoom', /^✕ 6000306|^✕ 6000321/);

  // What went over the wire can be seen.
  await ana.element.getByLabel('with the frames on the wire').check();
  expect(await ana.element.locator('.event.frame.out', { hasText: '"method":"leaveAllRoom"' }).isVisible()).toBe(true);
  await ana.element.getByRole('button', { name: 'Log out' }).click();
  await ana.element.getByRole('button', { name: 'Log in' }).waitFor();
  await visit.close();
});

test('the story is told to its end', async () => {
  // It takes as long as one reads, so the time to come back is what it is outside of tests.
  const patient = await World.start();
  onTestFinished(() => patient.close());
  const gateway = await patient.gateway({ flags: ['--session-ttl=35s'] });
  const visit = await Visit.to(browser, `${gateway.http}/console/play`);
  const { page } = visit;
  await page.getByRole('button', { name: 'Show me' }).click();
  await page.getByText('That was it.').waitFor({ timeout: 60_000 });
  const bob = new Card(page, 'bob');
  expect((await bob.lines()).filter((l) => l.startsWith('✉'))).toEqual(['✉ lobby: ana: hello bob', '✉ lobby: ana: one', '✉ lobby: ana: two', '✉ lobby: ana: three']);
  await page.getByRole('button', { name: 'Show me' }).waitFor();
  await visit.close();
}, 90_000);

test('it can be used with the keyboard alone', async () => {
  const visit = await open();
  const { page } = visit;
  const [ana, bob] = [new Card(page, 'ana'), new Card(page, 'bob')];
  for (const card of [ana, bob]) {
    await page.locator('.top a').first().focus();
    const inCard = (name: string) => tabTo(page, `${name} of ${card.userID}`, (n) => n === name);
    if (card === bob) {
      await tabTo(page, 'the link of bob', (n) => n === 'Link of bob'); // past ana's card
    }
    await inCard('Log in');
    await page.keyboard.press('Enter');
    await card.element.getByLabel('Room ID', { exact: true }).first().waitFor();
    await until('the room field to have the focus', () =>
      card.element.getByLabel('Room ID', { exact: true }).first().evaluate((e) => e === document.activeElement));
    await page.keyboard.press('ControlOrMeta+A');
    await page.keyboard.type('typed');
    await page.keyboard.press('Enter');
    await card.people(...(card === ana ? ['ana'] : ['ana', 'bob']));
  }
  await tabTo(page, 'the message', (n) => n === 'Message to the room');
  await page.keyboard.type('by hand');
  await page.keyboard.press('Enter');
  await ana.shows('✉ typed: bob: by hand');

  await page.locator('.top a').first().focus();
  await tabTo(page, 'the link of bob', (n) => n === 'Link of bob');
  await page.keyboard.press('Space');
  await bob.at('connecting');
  await page.keyboard.press('Space');
  await bob.at('connected');

  await tabTo(page, 'all operations', (n) => n === 'All operations');
  await page.keyboard.press('Enter');
  await tabTo(page, 'the operation', (n) => n === 'Operation');
  await page.keyboard.type('leaveRoom');
  await tabTo(page, 'Call', (n) => n === 'Call');
  await page.keyboard.press('Enter');
  await ana.shows('• typed: bob left (1)');
  await visit.close();
});

test.each([
  ['light', 1280],
  ['dark', 1280],
  ['light', 390],
  ['dark', 390],
] as const)('it can be read and named: %s, %i pixels wide', async (colorScheme, width) => {
  const visit = await open({ colorScheme, viewport: { width, height: 844 } });
  const { page } = visit;
  expect(await contrasts(page)).toEqual([]);
  const [ana, bob] = [new Card(page, 'ana'), new Card(page, 'bob')];
  await ana.login();
  await bob.login();
  await ana.enter('read');
  await bob.enter('read');
  await ana.people('ana', 'bob');
  await bob.link();
  await bob.at('connecting');
  await ana.perform('joinRoom', { 'Room ID': 'nowhere' }); // a problem, and tabs
  await ana.element.getByRole('alert').waitFor();
  await ana.element.getByLabel('with the frames on the wire').check();
  await until('colours to have settled', () => page.evaluate(() => document.getAnimations().every((a) => a.playState === 'finished')));
  expect(await contrasts(page)).toEqual([]);
  expect(await nameless(page)).toEqual([]);
  expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), 'nothing is wider than the screen').toBeLessThanOrEqual(0);
  await visit.close();
});
