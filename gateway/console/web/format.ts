// Numbers and times as people read them.

const numbers = new Intl.NumberFormat('en');

/** 12345 as 12,345. */
export function count(n: number): string {
  return numbers.format(n);
}

/** How many, of what: 1 member, 2 members. */
export function many(n: number, one: string): string {
  return `${count(n)} ${one}${n === 1 ? '' : 's'}`;
}

/** A number per second: one digit behind the point while it is small. */
export function rate(n: number): string {
  return n > 0 && n < 10 ? n.toFixed(1) : count(Math.round(n));
}

/** A length of time in ms, as 0:07, 2:31 or 1:02:31. */
export function duration(ms: number): string {
  const s = Math.max(0, Math.ceil(ms / 1000));
  const two = (n: number) => String(n).padStart(2, '0');
  const hours = Math.floor(s / 3600);
  const minutes = Math.floor(s / 60) % 60;
  return hours > 0 ? `${hours}:${two(minutes)}:${two(s % 60)}` : `${minutes}:${two(s % 60)}`;
}

/** A long length of time in ms, roughly: 12 s, 5 min, 3 h, 2 d. */
export function roughly(ms: number): string {
  const s = Math.max(0, ms / 1000);
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

/** A moment of unix time in ms, as the hour, minute and second of the reader's day. */
export function timeOfDay(ms: number): string {
  return new Date(ms).toLocaleTimeString('en-GB');
}

/** A text cut to a length, if it is longer. */
export function cut(text: string, length: number): string {
  return text.length > length ? `${text.slice(0, length)}…` : text;
}
