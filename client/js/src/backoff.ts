/** jitter is a random part of the bound of the nth try ("full jitter"), in milliseconds. */
export function jitter(tries: number, low: number, high: number): number {
  return Math.random() * Math.min(high, low * 2 ** Math.min(tries, 30));
}
