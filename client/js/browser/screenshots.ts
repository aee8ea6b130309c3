// Makes the pictures of the console and of the playground that the documentation has:
// npm run screenshots, or make screenshots. It is no test; Vitest only runs it.

import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { test } from 'vitest';
import { type Gateway, until, World } from './world.js';

const docs = join(import.meta.dirname, '../../../docs');
const rooms = ['algebra-1', 'algebra-2', 'chess:42', 'chess:43', 'live-concert', 'lobby', 'physics', 'quiz-night', 'stage', 'studio'];
const people = ['ana', 'bob', 'cleo', 'dan', 'eve', 'finn', 'gus', 'hana', 'ivo', 'june', 'kai', 'lea', 'max', 'nora', 'otto', 'pia', 'quin', 'rosa', 'sam', 'tess'];
const words = ['hello', 'who is next?', 'your move', 'one more song', 'I have a question', 'see page 12', 'ready', 'welcome'];

/** crowd lets people enter rooms and talk, from a page of a gateway, for as long as it is open. */
async function crowd(browser: Browser, gateway: Gateway, first: number): Promise<void> {
  const page = await (await browser.newContext()).newPage();
  await page.goto(`${gateway.http}/healthz`);
  await page.evaluate(
    ([url, people, rooms, words, first]) => {
      people.forEach((userID, i) => {
        if (i % 2 !== first) {
          return;
        }
        const socket = new WebSocket(url);
        const call = (method: string, params: object) => socket.send(JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }));
        const roomID = rooms[(i * 7) % rooms.length]!;
        socket.onopen = () => {
          call('login', { userID, userName: userID[0]!.toUpperCase() + userID.slice(1) });
          call('enterRoom', { roomInfo: { roomID, roomName: roomID.replace(/^./, (c) => c.toUpperCase()) }, config: { roomDestroyDelayTime: 300, roomAttributes: { topic: 'open to all' } } });
          if (roomID !== 'lobby') {
            call('enterRoom', { roomInfo: { roomID: 'lobby', roomName: 'The lobby' }, config: { roomDestroyDelayTime: 300 } });
          }
          let said = i;
          setInterval(() => {
            const pause = Math.sin(Date.now() / 9000) > 0.5 ? 5 : 3; // it is not always as lively
            if (said++ % pause === 0) {
              call('sendRoomMessage', { roomID: said % 4 === 0 ? 'lobby' : roomID, message: { type: 1, message: words[said % words.length] } });
            }
          }, 400 + 37 * i);
        };
      });
    },
    [`${gateway.url}/v1/ws`, people, rooms, words, first] as const,
  );
}

test('pictures', { timeout: 300_000 }, async () => {
  const world = await World.start();
  try {
    const flags = ['--session-ttl=35s', '--lease-ttl=10s'];
    const one = await world.gateway({ flags: ['--node-name=gw-1', ...flags] });
    const two = await world.gateway({ flags: ['--node-name=gw-2', ...flags] });
    const browser = await world.browser();
    const visit = async (path: string, colorScheme: 'light' | 'dark', height: number) => {
      const page = await (await browser.newContext({ viewport: { width: 1280, height }, colorScheme })).newPage();
      await page.goto(one.http + path);
      return page;
    };

    const play = await visit(`/console/play?gateway=127.0.0.1:${two.port}`, 'light', 930);
    await play.getByRole('button', { name: 'Show me' }).click();
    await play.getByText(/^Now bob's link is cut/).waitFor();
    await play.locator('.node.connecting.now').waitFor();
    await until('the countdown to have begun', async () => (await play.locator('.away .countdown').allTextContents()).some((t) => /^0:3[0-3]$/.test(t)));
    await play.screenshot({ path: join(docs, 'playground.png') });
    await play.close();

    await crowd(browser, one, 0);
    await crowd(browser, two, 1);
    for (const roomID of ['afterwards', 'rehearsal']) {
      await one.backend('POST', '/v1/rooms', { roomID, roomDestroyDelayTime: 600 });
    }
    const console = await visit('/console/#room/lobby', 'dark', 1080);
    for (const values of [8, 16, 24, 32, 40]) {
      await until('the charts to have something to show', async () => (await console.locator('.tile .line').last().getAttribute('d') ?? '').split('L').length >= values);
    }
    await console.screenshot({ path: join(docs, 'console.png') });
  } finally {
    await world.close();
  }
});
