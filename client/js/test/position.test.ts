import { expect, test } from 'vitest';
import { Progress } from '../src/position.js';

test('an event moves the position on, and is taken once', () => {
  const p = new Progress(7, 10);
  expect(p.take(12)).toBe('fresh'); // holes mean nothing
  expect(p.take(12)).toBe('duplicate');
  expect(p.take(11)).toBe('duplicate');
  expect(p.take(0)).toBe('fresh'); // without a number there is nothing to drop it for
  expect(p.onWire('r')).toEqual({ roomID: 'r', epoch: 7, seq: 12 });
});

test('another life of the room has other numbers', () => {
  const p = new Progress(7, 10);
  p.knowsMembers(20);
  p.connected(8, 3);
  expect(p.take(4)).toBe('fresh');
  expect(p.onWire('r')).toEqual({ roomID: 'r', epoch: 8, seq: 4 });
});

test('the repeat of an entry passes over what was had', () => {
  const p = new Progress(7, 10);
  p.take(11);
  p.take(12);
  p.connected(7, 10); // where the client came in
  expect(p.take(11)).toBe('repeated');
  expect(p.take(12)).toBe('repeated');
  expect(p.take(13)).toBe('fresh');
  expect(p.take(13)).toBe('duplicate');
});

test('a repeat that goes back to before the client came in brings what it never had', () => {
  const p = new Progress(7, 10); // by a resume that did not name the room
  p.take(11);
  p.connected(7, 5); // the first time the entry took effect
  expect(p.take(6)).toBe('fresh');
  expect(p.take(10)).toBe('fresh');
  expect(p.take(11)).toBe('repeated');
  expect(p.take(12)).toBe('fresh');
});

test('what is known of members is named until the position has reached it', () => {
  const p = new Progress(7, 3);
  p.knowsMembers(5);
  expect(p.onWire('r')).toEqual({ roomID: 'r', epoch: 7, seq: 3, membersSeq: 5 });
  p.take(4);
  expect(p.onWire('r')).toEqual({ roomID: 'r', epoch: 7, seq: 4, membersSeq: 5 });
  p.take(5);
  expect(p.onWire('r')).toEqual({ roomID: 'r', epoch: 7, seq: 5 });
});
