// Which room is looked at is in the fragment of the page's URL, which no server sees.

const prefix = '#room/';

export function linkTo(roomID: string): string {
  return prefix + encodeURIComponent(roomID);
}

/** The room that the page's URL names. */
export function routed(): string | undefined {
  if (!location.hash.startsWith(prefix)) return undefined;
  try {
    return decodeURIComponent(location.hash.slice(prefix.length)) || undefined;
  } catch {
    return undefined; // no fragment of ours
  }
}
