import { expect, test } from 'vitest';
import { duration, many, rate, roughly } from '../../../gateway/console/web/format.js';
import { serverEvents } from '../../../gateway/console/web/sse.js';

/** stream gives bytes in pieces of a size. */
function stream(text: string, size: number): ReadableStream<Uint8Array> {
  const bytes = new TextEncoder().encode(text);
  return new ReadableStream({
    start(controller) {
      for (let i = 0; i < bytes.length; i += size) {
        controller.enqueue(bytes.slice(i, i + size));
      }
      controller.close();
    },
  });
}

async function read(text: string, size: number): Promise<string[]> {
  const got: string[] = [];
  for await (const { type, data } of serverEvents(stream(text, size))) {
    got.push(`${type}: ${data}`);
  }
  return got;
}

test('events are read whole, wherever the stream is divided', async () => {
  const text = [
    'event: opened\ndata: {"seq":1}\n\n',
    ': a comment, so that proxies keep the connection\n\n',
    'id: 2\nevent: message\ndata: {"text":"häßlich 🙂"}\n\n',
    'data: first\ndata: second\r\n\r\n', // two lines are one text; the end of a line may be CRLF
    'event: cut\ndata: never finished',
  ].join('');
  const want = ['opened: {"seq":1}', 'message: {"text":"häßlich 🙂"}', 'message: first\nsecond'];
  for (const size of [1, 2, 3, 7, 64, 4096]) {
    expect(await read(text, size), `pieces of ${size}`).toEqual(want);
  }
});

test('a line without an end is given up', async () => {
  await expect(read(`data: ${'x'.repeat(2 << 20)}`, 1 << 16)).rejects.toThrow('too long');
});

test('a stream that nobody reads any more is cancelled', async () => {
  let cancelled = false;
  const endless = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.enqueue(new TextEncoder().encode('data: again\n\n')),
    cancel: () => {
      cancelled = true;
    },
  });
  for await (const event of serverEvents(endless)) {
    expect(event.data).toBe('again');
    break;
  }
  await expect.poll(() => cancelled).toBe(true);
});

test.each([
  [-5, '0:00'],
  [1, '0:01'], // a deadline that is not over yet never shows as over
  [59_001, '1:00'],
  [151_000, '2:31'],
  [3_600_000, '1:00:00'],
  [10_800_000, '3:00:00'],
])('%i ms are %s', (ms, want) => expect(duration(ms)).toBe(want));

test('numbers are written as people read them', () => {
  expect([many(1, 'member'), many(0, 'member'), many(12_345, 'room')]).toEqual(['1 member', '0 members', '12,345 rooms']);
  expect([rate(0), rate(0.25), rate(9.94), rate(10), rate(1234.5)]).toEqual(['0', '0.3', '9.9', '10', '1,235']);
  expect([roughly(-1), roughly(59_000), roughly(60_000), roughly(7_200_000), roughly(3 * 86_400_000)]).toEqual(['0 s', '59 s', '1 min', '2 h', '3 d']);
});
